"""Polite HTTP against a loopback server."""

import contextlib
import gzip
import io
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from PIL import Image
from wikimedia_server import WikimediaServer, picture

from dataset_script.building.providers import fetching
from dataset_script.building.providers.fetching import (
    Fetcher,
    Limits,
    Politeness,
    Refused,
    Temporary,
    is_public,
    retry_after_s,
    user_agent,
)
from dataset_script.building.providers.workspace import in_parallel

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
    assert error.value.cause == "API error toomanyvalues" and len(server.log) == 1
    with pytest.raises(Refused, match="HTTP 404"):
        fetcher.json(server.url + "/nowhere", API)


@pytest.mark.parametrize("how", ["503", "cut", "html", "maxlag"])
def test_attempts_end(server, fetcher, how):
    server.fail_next("/en/", how, times=100)
    with pytest.raises(Temporary):
        fetcher.json(server.url + "/en/w/api.php", API)
    assert len(server.log) == 4


def test_all_requests_to_a_host_wait_when_one_was_told_to(server, fetcher, waits):
    server.raw["/a.jpg"] = ("image/jpeg", picture("a"))
    server.fail_next("/en/", "429", Retry_After="7")
    fetcher.json(server.url + "/en/w/api.php", API)
    fetcher.json(server.url + "/en/w/api.php", API | {"titles": "B"})
    told = [seconds for seconds in waits if seconds > 6]
    assert told == pytest.approx([7, 7], abs=0.5)


def test_a_host_that_asks_for_too_long_a_wait_is_left_alone(server, fetcher, waits):
    server.fail_next("/en/", "503", Retry_After="86400")
    for _ in range(2):
        with pytest.raises(Temporary, match="asked not to be asked"):
            fetcher.json(server.url + "/en/w/api.php", API)
    assert len(server.log) == 1 and max(waits) == 0


def test_backing_off_doubles_and_jitters(server, tmp_path, waits):
    server.fail_next("/en/", "503", times=100)
    politeness = Politeness(requests_per_second=1000, attempts=6, backoff_s=1, sleep=waits.append)
    fetcher = Fetcher("me@example.org", politeness)
    with pytest.raises(Temporary):
        fetcher.json(server.url + "/en/w/api.php", API)
    fetcher.close()
    assert len(waits) == 5
    for number, seconds in enumerate(waits):
        assert 2**number <= seconds <= 2**number + 1
    assert len({seconds % 1 for seconds in waits}) > 1


def test_the_rate_is_kept_by_all_workers_together(server, tmp_path):
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=20, workers=4))
    started = time.monotonic()
    titles = [{**API, "titles": str(number)} for number in range(30)]
    assert len(list(in_parallel(lambda query: fetcher.json(server.url + "/en/w/api.php", query), titles, 4))) == 30
    took = time.monotonic() - started
    fetcher.close()
    # The first 20 may go at once, the others only when the second is over.
    assert 0.9 < took < 5 and len(server.log) == 30


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120), (" 3 ", 3), (None, 0), ("", 0), ("soon", 0), ("Sun, 06 Nov 1994 08:48:00 GMT", 0),
        ("in 100 s", 100),
    ],
)  # fmt: skip
def test_retry_after_comes_in_seconds_or_as_a_date(value, seconds):
    value = formatdate(time.time() + 100, usegmt=True) if value == "in 100 s" else value
    assert retry_after_s(value) == pytest.approx(seconds, abs=30)


def test_a_picture_appears_whole_and_is_fetched_once(server, fetcher, tmp_path):
    body = picture("a", kind="PNG")
    server.raw["/a.jpg"] = ("image/jpeg", body)  # the server is wrong about its kind
    server.raw["/b"] = (f"->{server.url}/a.jpg", b"")
    for _ in range(2):
        path = fetcher.image(server.url + "/b", tmp_path, "stem")
        assert path == tmp_path / "stem.png" and path.read_bytes() == body
    assert server.log == ["/b", "/a.jpg"]
    assert server.agents == {user_agent("me@example.org")}


def eps() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PPM")
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "body", "cause"),
    [
        ("text/html", b"<html>", "not an image"), ("application/pdf", b"%PDF", "not an image"),
        ("video/mp4", b"....", "not an image"), ("image/jpeg", b"", "does not open as an image"),
        ("image/jpeg", picture("a", 90)[:-20], "does not open as an image"),
        ("image/jpeg", b"x" * 20_001, "file too large"), ("", picture("b", 300), "too many pixels"),
        ("image/x-portable-pixmap", eps(), "format not supported"),
        ("->ftp://127.0.0.1/a.jpg", b"", "bad URL or redirect (InvalidSchema)"),
        ("->/a", b"", "bad URL or redirect (TooManyRedirects)"),
        ("->http://[::1/a", b"", "bad URL or redirect (ValueError)"),
    ],
)  # fmt: skip
def test_what_is_no_picture_or_too_large_is_refused(server, fetcher, tmp_path, kind, body, cause):
    server.raw["/a"] = (kind, body)
    with pytest.raises(Refused) as error:
        fetcher.image(server.url + "/a", tmp_path, "a", Limits(max_bytes=20_000, max_pixels=100 * 100))
    assert error.value.cause == cause
    assert not list(tmp_path.glob("a*"))


@contextlib.contextmanager
def speaking(start: bytes, again: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """The URL of a server that answers each request with ``start``, and ``again`` and again with a pause between."""
    listening, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            connection.sendall(start)
            while not over.wait(pause_s):
                connection.sendall(again)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
    over.set()
    listening.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        (b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n", b"a"),
        (HEAD + b"Content-Length: 100000\r\n\r\n\xff\xd8", b"a"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\xff\xd8\r\n", b"1\r\na\r\n"),
    ],
    ids=["silent", "header", "redirects", "body", "chunk size", "chunks"],
)
def test_a_server_that_drips_is_given_up_in_time(tmp_path, start, again):
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=1000, attempts=1, timeout_s=5))
    with speaking(start, again, pause_s=0.02) as url:
        started = time.monotonic()
        with pytest.raises((Temporary, Refused)) as error:
            fetcher.image(url, tmp_path, "a", Limits(max_seconds=0.3))
        took_s = time.monotonic() - started
    fetcher.close()
    assert took_s < 1.0
    if start:
        assert 0.25 < took_s or "TooManyRedirects" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("coding", ["gzip", "chunked", "none", "header", "redirect"])
def test_memory_is_bounded_by_the_size_that_is_taken(tmp_path, coding):
    """A bomb of 256 MiB in 256 KiB, as content and beside a redirect; and servers that never stop."""
    bomb = gzip.compress(bytes(2**28), 1)
    packed = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(bomb), bomb)
    start, again = {
        "gzip": (HEAD + packed, b""),
        "redirect": (b"HTTP/1.1 302 Found\r\nLocation: /b\r\n" + packed, b""),
        "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 2**16),
        "none": (HEAD + b"\r\n", b"a" * 2**16),
        "header": (b"HTTP/1.1 200 OK\r\n", b"X: %b\r\n" % (b"a" * 60_000)),
    }[coding]
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=1000, attempts=1, timeout_s=5))
    limits = Limits(max_bytes=2**21, max_seconds=10)
    tracemalloc.start()
    with speaking(start, again) as url, pytest.raises((Temporary, Refused)):
        fetcher.image(url, tmp_path, "a", limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    fetcher.close()
    assert peak < 2**24
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("127.0.0.1", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.1.1", False), ("255.255.255.255", False), ("::1", False),
        ("::", False), ("fe80::1%2", False), ("fd00::1", False), ("fec0::1", False), ("ff0e::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("::ffff:8.8.8.8", True),
    ],
)  # fmt: skip
def test_public_addresses(address, expected):
    assert is_public(address) is expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_host_is_judged_by_the_addresses_that_it_has(server, tmp_path, host):
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=1000, attempts=3), public_only=True)
    with pytest.raises(Refused) as error:
        fetcher.image(server.url.replace("127.0.0.1", host) + "/a.jpg", tmp_path, "a")
    fetcher.close()
    assert error.value.cause == "not a public address" and not server.log


def test_the_address_that_was_judged_is_the_one_that_is_asked(server, tmp_path, monkeypatch):
    """A name server may answer otherwise the second time."""
    server.raw["/a.jpg"] = ("image/jpeg", picture("a"))
    port = int(server.url.rpartition(":")[2])
    found, answers = socket.getaddrinfo, ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
    asked = []

    def look_up(host, *arguments, **options):
        if host == "rebinding.example":
            host = answers.pop(0)
        asked.append(host)
        return found(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    fetcher = Fetcher("me@example.org", Politeness(requests_per_second=1000, attempts=1), public_only=True)
    path = fetcher.image(f"http://rebinding.example:{port}/a.jpg", tmp_path, "a")
    fetcher.close()
    assert path.read_bytes() == picture("a") and asked == ["127.0.0.1", "127.0.0.1"]


def test_items_are_read_as_they_are_needed():
    read, running, most, lock = [], 0, 0, threading.Lock()

    def function(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        if number == 50:
            raise Refused("no")
        return -number

    items = (read.append(number) or number for number in range(100))
    for done, (number, result, error) in enumerate(in_parallel(function, items, 3), 1):
        assert len(read) <= done + 2 * 3
        assert (result, error is None) == ((None, False) if number == 50 else (-number, True))
    assert done == 100 and most <= 3
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda number: 1 // number, [1, 0], 2))


@pytest.mark.parametrize("contact", ["", "me", "a@b\nX-Evil: 1"])
def test_a_contact_is_needed(contact):
    with pytest.raises(ValueError, match="mail address or a URL"):
        user_agent(contact)
    with pytest.raises(ValueError, match="--workers is 0"):
        Politeness(workers=0)
