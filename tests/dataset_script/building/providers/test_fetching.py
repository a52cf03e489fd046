"""Polite HTTP against a loopback server."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from wikimedia_server import WikimediaServer, picture

from dataset_script.building.providers import fetching
from dataset_script.building.providers.fetching import Fetcher, Politeness, Refused, Temporary, is_public, user_agent
from dataset_script.building.providers.workspace import Workspace

API = {"format": "json", "formatversion": "2", "maxlag": "5", "action": "query", "titles": "A"}


@pytest.fixture
def server() -> Iterator[WikimediaServer]:
    with WikimediaServer() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    """The seconds for which the fetcher was to sleep."""
    return []


@pytest.fixture
def fetcher(waits: list[float]) -> Iterator[Fetcher]:
    politeness = Politeness(requests_per_second=1000, attempts=4, backoff_s=0, sleep=waits.append)
    with contextlib.closing(Fetcher("me@example.org", politeness)) as fetcher:
        yield fetcher


def test_an_error_that_will_stay_is_not_asked_again(server, fetcher):
    with pytest.raises(Refused) as error:
        fetcher.json(server.url + "/en/w/api.php", API | {"titles": "|".join(map(str, range(51)))})
    assert error.value.cause == "API error toomanyvalues" and len(server.requests) == 1
    with pytest.raises(Refused, match="HTTP 404"):
        fetcher.json(server.url + "/nowhere", API)


@pytest.mark.parametrize("value", ["120", "a date", "soon"])
def test_a_server_may_ask_for_a_wait_in_seconds_or_by_a_date(server, fetcher, waits, value):
    server.fail_next("/en/", "429", Retry_After=formatdate(time.time() + 120, usegmt=True) if "d" in value else value)
    fetcher.json(server.url + "/en/w/api.php", API)
    assert waits == pytest.approx([0 if value == "soon" else 120], abs=2)


def test_a_host_that_asks_for_too_long_a_wait_is_not_asked_again(server, fetcher, waits):
    server.fail_next("/en/", "503", Retry_After="86400")
    with pytest.raises(Temporary, match="answered HTTP 503"):
        fetcher.json(server.url + "/en/w/api.php", API)
    assert len(server.requests) == 1 and not waits


@pytest.mark.parametrize("how", ["503", "cut", "html", "maxlag"])
def test_attempts_end_and_backing_off_doubles_and_jitters(server, waits, how):
    server.fail_next("/en/", how, times=100)
    politeness = Politeness(requests_per_second=1000, attempts=6, backoff_s=1, sleep=waits.append)
    with contextlib.closing(Fetcher("me@example.org", politeness)) as fetcher, pytest.raises(Temporary):
        fetcher.json(server.url + "/en/w/api.php", API)
    assert len(waits) == 5 and len(server.requests) == 6
    for number, seconds in enumerate(waits):
        least = 5 if how == "maxlag" else 0  # LAG_S of the fetcher
        assert max(least, 2**number) <= seconds <= max(least, 2**number + 1)
    assert len({seconds % 1 for seconds in waits}) > 1


def test_the_rate_and_the_number_at_a_time_are_kept_by_all_workers_together(server, tmp_path):
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=20, workers=4))
    work = Workspace(tmp_path / "work", "workspace", fetcher)
    started = time.monotonic()
    titles = [str(number) for number in range(30)]
    work.ask("titles", titles, lambda batch: {batch[0]: fetcher.json(server.url + "/en/w/api.php", API)})
    took = time.monotonic() - started
    work.close()
    # The first 20 may go at once, the others only when the second is over.
    assert 0.9 < took < 5 and len(server.requests) == 30 and server.most_at_once <= 4


def test_an_image_appears_whole_with_the_suffix_of_its_format(server, fetcher, tmp_path):
    body = picture("a", kind="PNG")
    server.raw["/a.jpg"] = ("image/jpeg", body)  # the server is wrong about its kind
    server.raw["/b"] = (f"->{server.url}/a.jpg", b"")
    path = fetcher.image(server.url + "/b", tmp_path, "stem")
    assert path == tmp_path / "stem.png" and path.read_bytes() == body
    assert server.requests == ["/b", "/a.jpg"]
    assert server.agents == {user_agent("me@example.org")}


@pytest.mark.parametrize(
    ("kind", "body", "cause"),
    [
        ("text/html", b"<html>", "not an image"), ("application/pdf", b"%PDF", "not an image"),
        ("image/jpeg", b"", "does not open as an image"),
        ("image/jpeg", picture("a", 90)[:-20], "does not open as an image"),
        ("image/jpeg", b"x" * 20_001, "file too large"),
        ("->ftp://127.0.0.1/a.jpg", b"", "bad URL or redirect (InvalidSchema)"),
        ("->/a", b"", "bad URL or redirect (TooManyRedirects)"),
        ("->http://[::1/a", b"", "bad URL or redirect (ValueError)"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_too_large_is_refused(server, fetcher, tmp_path, kind, body, cause, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 20_000)
    server.raw["/a"] = (kind, body)
    with pytest.raises(Refused) as error:
        fetcher.image(server.url + "/a", tmp_path, "a")
    assert error.value.cause == cause
    assert not list(tmp_path.glob("a*"))


@contextlib.contextmanager
def speaking(start: bytes, again: bytes, pause_s: float) -> Iterator[str]:
    """The URL of a server that answers one request with ``start``, and ``again`` and again with a pause between."""
    listening, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as connection:
            connection.recv(2**16)
            connection.sendall(start)
            while not over.wait(pause_s):
                connection.sendall(again)

    threading.Thread(target=answer, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
    over.set()
    listening.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b""),
        (HEAD + b"Content-Length: 100000\r\n\r\n\xff\xd8", b"a"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\xff\xd8\r\n", b"1\r\na\r\n"),
    ],
    ids=["silent", "body", "chunks"],
)
def test_a_server_that_drips_is_given_up_in_time(tmp_path, start, again, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_SECONDS", 0.3)
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=1000, attempts=1, timeout_s=0.3))
    with speaking(start, again, pause_s=0.02) as url:
        started = time.monotonic()
        with pytest.raises(Temporary):
            fetcher.image(url, tmp_path, "a")
        assert time.monotonic() - started < 20  # the server goes on for as long as it is read
    fetcher.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.1.1", False), ("::1", False), ("fe80::1%2", False), ("fd00::1", False), ("::ffff:127.0.0.1", False),
    ],
)  # fmt: skip
def test_public_addresses(address, expected):
    assert is_public(address) is expected


@pytest.mark.parametrize("contact", ["", "me", "a@b\nX-Evil: 1"])
def test_a_contact_is_needed(contact):
    with pytest.raises(ValueError, match="mail address or a URL"):
        user_agent(contact)
    with pytest.raises(ValueError, match="--workers is 0"):
        Politeness(workers=0)
