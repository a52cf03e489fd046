"""The provider of pictures by URL against a loopback server."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from wikimedia_server import WikimediaServer, picture

from dataset_script.building.providers import fetching, urls
from dataset_script.building.providers.base import Candidate
from dataset_script.building.providers.fetching import Limits, Politeness, add_politeness_arguments
from dataset_script.building.providers.urls import Urls

HURRIED = Politeness(requests_per_second=1000, attempts=3, backoff_s=0, sleep=lambda seconds: None)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of these tests is at a loopback address."""
    monkeypatch.setattr(fetching, "is_public", lambda address: True)


@pytest.fixture
def server(trusted: None) -> Iterator[WikimediaServer]:
    with WikimediaServer() as server:
        for name in "abc":
            server.raw[f"/{name}.jpg"] = ("image/jpeg", picture(name))
        yield server


def write(path: Path, server: WikimediaServer, *records: dict) -> Path:
    """A table, TSV or JSONL, of records whose URLs are paths of the server."""
    records = tuple(record | {"url": record["url"].replace("SERVER", server.url)} for record in records)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        columns = list(dict.fromkeys(key for record in records for key in record))
        lines = [columns, *([record.get(column, "") for column in columns] for record in records)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def prepare(made: Urls, rows: Iterable[str]) -> Urls:
    made.prepare(lambda: iter(()), lambda: iter(rows))
    return made


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_row_gets_its_own_picture(server, tmp_path, suffix):
    table = write(
        tmp_path / f"table{suffix}",
        server,
        {"id": "1", "url": "SERVER/a.jpg", "licence": "CC0", "author": "Someone", "source": "an album"},
        {"id": "2", "url": "SERVER/b.jpg"},
        {"id": "3", "url": "SERVER/a.jpg"},
        {"id": "not in the set", "url": "SERVER/c.jpg"},
    )
    made = prepare(Urls(tmp_path / "work", "me@example.org", table, HURRIED), "1234")
    assert made.natural
    (one,), (two,), (three,), four = (made.candidates(row, []) for row in "1234")
    assert one == three == Candidate(one.name, None) and two.name != one.name and four == []
    first, second = made.picture(one.name), made.picture(two.name)
    assert (first.licence, first.author, first.source) == ("CC0", "Someone", "an album")
    assert (second.licence, second.source, second.entity) == (None, f"{server.url}/b.jpg", None)
    assert first.path.read_bytes() == picture("a") and second.path.read_bytes() == picture("b")
    assert sorted(made.names()) == sorted([one.name, two.name])
    assert sorted(server.log) == ["/a.jpg", "/b.jpg"]
    assert made.counts() == {
        "lines of the table for no row of the set": 1, "rows": 4, "rows that name a picture": 3,
        "rows with a picture": 3, "pictures": 2, "URLs without an answer": 0,
    }  # fmt: skip
    with pytest.raises(KeyError):
        made.picture("other.jpg")
    made.close()


def test_urls_that_rows_carry_and_all_that_may_be_wrong_with_them(server, tmp_path):
    server.raw |= {
        "/page": ("text/html", b"<html>"),
        "/large.jpg": ("image/jpeg", b"x" * 30_000),
        "/wide.png": ("image/png", picture("w", 2000, "PNG")),
        "/half.jpg": ("image/jpeg", picture("h")[:300]),
        "/moved.jpg": (f"->{server.url}/c.jpg", b""),
    }
    paths = ["/page", "/large.jpg", "/wide.png", "/half.jpg", "/moved.jpg", "/gone.jpg"]
    limits = Limits(max_bytes=20_000, max_pixels=100 * 100)
    made = Urls(tmp_path, "me@example.org", politeness=HURRIED, limits=limits)
    for path in paths:
        made.add(path, server.url + path)
    made.add("/page", server.url + "/b.jpg")  # a second URL of a row: the first counts
    made.add("file", "file:///etc/passwd")
    made.add("down", "http://127.0.0.1:9/a.jpg")
    prepare(made, [*paths, "file", "down"])
    assert [path for path in paths if made.candidates(path, [])] == ["/moved.jpg"]
    assert made.counts() == {
        "rows": 8, "rows that name a picture": 8, "rows with a picture": 1, "pictures": 1,
        "URLs refused: HTTP 404": 1, "URLs refused: does not open as a picture": 1, "URLs refused: file too large": 1,
        "URLs refused: not a picture": 1, "URLs refused: not an http or https URL": 1,
        "URLs refused: too many pixels": 1, "URLs without an answer": 1,
    }  # fmt: skip
    assert len(list((tmp_path / "images").iterdir())) == 1
    made.close()


def test_another_run_asks_for_what_got_no_answer_and_for_nothing_else(server, tmp_path):
    table = write(tmp_path / "t.tsv", server, *({"id": name, "url": f"SERVER/{name}.jpg"} for name in "abcd"))
    server.fail_next("/b.jpg", "503", times=100)
    first = prepare(Urls(tmp_path / "work", "me@example.org", table, HURRIED), "abcd")
    assert (first.counts()["URLs without an answer"], first.counts()["rows with a picture"]) == (1, 2)
    lost = first.picture(first.candidates("c", [])[0].name).path
    first.close()
    server.faults.clear()
    server.log.clear()
    lost.unlink()
    second = prepare(Urls(tmp_path / "work", "me@example.org", table, HURRIED), "abcd")
    assert sorted(server.log) == ["/b.jpg", "/c.jpg"]
    assert (second.counts()["URLs without an answer"], second.counts()["rows with a picture"]) == (0, 3)
    # A set without some of the rows has no picture of theirs.
    prepare(second, "a")
    assert len(list(second.names())) == 1 and len(server.log) == 2
    second.close()


KILLED = """
import sys
from pathlib import Path
from dataset_script.building.providers import fetching
from dataset_script.building.providers.fetching import Politeness
from dataset_script.building.providers.urls import Urls
fetching.is_public = lambda address: True
made = Urls(Path(sys.argv[1]), "me@example.org", Path(sys.argv[2]), Politeness(requests_per_second=1000))
made.prepare(lambda: iter(()), lambda: (str(n) for n in range(80)))
"""


def test_a_run_that_was_killed_goes_on_where_it_was(server, tmp_path):
    for number in range(80):
        server.raw[f"/{number}.jpg"] = ("image/jpeg", picture(str(number)))
    records = [{"id": str(number), "url": f"SERVER/{number}.jpg"} for number in range(80)]
    table = write(tmp_path / "t.tsv", server, *records)
    server.delay_s = 0.02
    root = Path(__file__).parents[4]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "work"), str(table)], cwd=root)
    try:
        deadline = time.monotonic() + 20
        while len(server.log) < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    server.delay_s = 0
    made = prepare(Urls(tmp_path / "work", "me@example.org", table, HURRIED), map(str, range(80)))
    assert len(server.log) <= 82 and set(server.log) == {f"/{number}.jpg" for number in range(80)}
    for number in range(80):
        (candidate,) = made.candidates(str(number), [])
        assert made.picture(candidate.name).path.read_bytes() == picture(str(number))
    assert len(list((tmp_path / "work" / "images").iterdir())) == 80
    made.close()


def test_rows_cannot_name_addresses_that_are_not_public(server, tmp_path, monkeypatch):
    """Neither at once nor by a redirect; the host of the redirect is public here, and the table none of a stranger."""
    server.raw["/away.jpg"] = (f"->{server.url.replace('127.0.0.1', '127.0.0.2')}/a.jpg", b"")
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("default login me password secret")
    port = server.url.rpartition(":")[2]
    made = Urls(tmp_path / "work", "me@example.org", politeness=HURRIED)
    for row, url in {"1": "/a.jpg", "2": "/away.jpg", "3": "/b.jpg"}.items():
        made.add(row, (server.url if row != "3" else f"http://127.0.0.3:{port}") + url)
    counts = prepare(made, "123").counts()
    assert (counts["rows with a picture"], counts["URLs refused: not a public address"]) == (1, 2)
    assert server.log == ["/a.jpg", "/away.jpg"] or server.log == ["/away.jpg", "/a.jpg"]
    assert server.passwords == set()
    made.close()


def test_proxies_are_not_used_and_that_is_said(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    made = Urls(tmp_path / "work", "me@example.org", politeness=HURRIED)
    made.add("1", f"{server.url}/a.jpg")
    assert prepare(made, "1").counts()["rows with a picture"] == 1
    assert "The proxies for http are not used" in caplog.text
    made.close()


def test_a_workspace_of_others_is_not_taken(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "film.part").write_text("mine")
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        Urls(tmp_path, "me@example.org")
    assert (tmp_path / "images" / "film.part").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "id\turi\n1\thttp://a\n", r"no column url \(columns: id, uri\)"),
        ("t.tsv", "", r"no column id, url \(columns: none\)"),
        ("t.tsv", "id\turl\n1\thttp://a\tx\n", "t.tsv:2: expected 2 columns"),
        ("t.tsv", "id\turl\n1\n", "t.tsv:2: expected 2 columns"), ("t.jsonl", "{", "t.jsonl:1: .*JSON object a line"),
        ("t.jsonl", "[]\n", "t.jsonl:1: a list came"), ("t.jsonl", '{"id": 1, "url": 2}', "t.jsonl:1: id 1 and url 2"),
    ],
)  # fmt: skip
def test_a_malformed_table_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    made = Urls(tmp_path / "work", "me@example.org", tmp_path / name, HURRIED)
    with pytest.raises(ValueError, match=message):
        prepare(made, "1")
    made.close()


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="row ids and URLs"):
        Urls(tmp_path, "me@example.org", tmp_path / "none.tsv")


def test_the_command_line_makes_the_provider(tmp_path):
    parser = argparse.ArgumentParser()
    add_politeness_arguments(parser)
    urls.add_arguments(parser)
    urls.from_arguments(parser.parse_args(["--contact", "http://example.org"]), tmp_path).close()
    assert (tmp_path / "urls" / "urls.sqlite").is_file()
    with pytest.raises(ValueError, match="--contact"):
        urls.from_arguments(parser.parse_args([]), tmp_path)
