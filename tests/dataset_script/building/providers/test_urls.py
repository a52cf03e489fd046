"""The provider of images by URL against a loopback server."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from wikimedia_server import WikimediaServer, picture
from written_files import write_file

from dataset_script.building.providers import fetching
from dataset_script.building.providers.fetching import Politeness
from dataset_script.building.providers.urls import Urls

HURRIED = Politeness(requests_per_second=1000, attempts=3, backoff_s=0, sleep=lambda seconds: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WikimediaServer]:
    monkeypatch.setattr(fetching, "is_public", lambda address: True)  # the server is at a loopback address
    with WikimediaServer() as server:
        for name in "abc":
            server.raw[f"/{name}.jpg"] = ("image/jpeg", picture(name))
        yield server


def row(row_id: str, url: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(id=row_id, image_url=url)


def prepare(made: Urls, *rows: SimpleNamespace) -> Urls:
    made.prepare(SimpleNamespace(rows=rows))
    return made


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_row_gets_its_own_image(server, tmp_path, suffix):
    columns = ("id", "url", "licence", "author", "source")
    table = [("1", "a", "CC0", "Someone", "an album"), ("2", "b", "", "", ""), ("3", "a", "", "", "")]
    records = [
        (row_id, f"{server.url}/{name}.jpg", *facts) for row_id, name, *facts in [*table, ("x", "c", "", "", "")]
    ]
    lines = ["\t".join(columns), *map("\t".join, records)]
    if suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, record, strict=True))) for record in records]
    (tmp_path / f"table{suffix}").write_text("\n".join(lines) + "\n")
    made = Urls(tmp_path / "work", "me@example.org", tmp_path / f"table{suffix}", HURRIED)
    prepare(made, *map(row, "1234"))
    (one,), (two,), (three,), four = (made.candidates(row(row_id)) for row_id in "1234")
    assert one == three and two != one and four == {} and sorted(made.images) == sorted([one, two])
    first, second = made.images[one], made.images[two]
    assert (first.licence, first.author, first.source) == ("CC0", "Someone", "an album")
    assert (second.licence, second.source, second.entity) == (None, f"{server.url}/b.jpg", None)
    assert first.path.read_bytes() == picture("a") and second.path.read_bytes() == picture("b")
    assert sorted(server.requests) == ["/a.jpg", "/b.jpg"]
    assert made.counts == {
        "lines of the table for no row of the set": 1, "rows": 4, "rows that name an image": 3,
        "rows with an image": 3, "images": 2, "URLs without an answer": 0,
    }  # fmt: skip
    made.close()


def test_urls_that_rows_carry_and_all_that_may_be_wrong_with_them(server, tmp_path, monkeypatch):
    server.raw |= {
        "/page": ("text/html", b"<html>"),
        "/large.jpg": ("image/jpeg", b"x" * 30_000),
        "/half.jpg": ("image/jpeg", picture("h")[:300]),
        "/moved.jpg": (f"->{server.url}/c.jpg", b""),
    }
    paths = ["/page", "/large.jpg", "/half.jpg", "/moved.jpg", "/gone.jpg"]
    rows = [*(row(path, server.url + path) for path in paths), row("file", "file:///etc/passwd")]
    rows.append(row("down", "http://127.0.0.1:9/a.jpg"))
    (tmp_path / "t.tsv").write_text(f"id\turl\n/page\t{server.url}/b.jpg\n")  # the row's own URL goes first
    monkeypatch.setattr(fetching, "MAX_BYTES", 20_000)
    made = prepare(Urls(tmp_path / "work", "me@example.org", tmp_path / "t.tsv", HURRIED), *rows)
    assert [row.id for row in rows if made.candidates(row)] == ["/moved.jpg"]
    assert made.counts == {
        "rows": 7, "rows that name an image": 7, "rows with an image": 1, "images": 1,
        "URLs refused: HTTP 404": 1, "URLs refused: does not open as an image": 1, "URLs refused: file too large": 1,
        "URLs refused: not an image": 1, "URLs refused: not an http or https URL": 1,
        "URLs without an answer": 1,
    }  # fmt: skip
    assert len(list((tmp_path / "work" / "images").iterdir())) == 1
    made.close()


def test_another_run_asks_for_what_got_no_answer_or_is_lost_and_for_nothing_else(server, tmp_path):
    rows = [row(name, f"{server.url}/{name}.jpg") for name in "abcd"]
    server.fail_next("/b.jpg", "503", times=100)
    made = prepare(Urls(tmp_path, "me@example.org", politeness=HURRIED), *rows)
    assert (made.counts["URLs without an answer"], made.counts["rows with an image"]) == (1, 2)
    server.faults.clear()
    server.requests.clear()
    made.images[next(iter(made.candidates(rows[2])))].path.unlink()
    made.close()
    made = prepare(Urls(tmp_path, "me@example.org", politeness=HURRIED), *rows)
    assert sorted(server.requests) == ["/b.jpg", "/c.jpg"]
    assert (made.counts["URLs without an answer"], made.counts["rows with an image"]) == (0, 3)
    made.close()


def test_rows_cannot_name_addresses_that_are_not_public(server, tmp_path, monkeypatch, caplog):
    """Neither at once nor by a redirect. Passwords of ``.netrc`` are not sent, and proxies are not used."""
    server.raw["/away.jpg"] = (f"->{server.url.replace('127.0.0.1', '127.0.0.2')}/a.jpg", b"")
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("default login me password secret")
    urls = [f"{server.url}/a.jpg", f"{server.url}/away.jpg", server.url.replace("127.0.0.1", "127.0.0.3") + "/b.jpg"]
    made = prepare(Urls(tmp_path / "work", "me@example.org", politeness=HURRIED), *map(row, "123", urls))
    assert (made.counts["rows with an image"], made.counts["URLs refused: not a public address"]) == (1, 2)
    assert sorted(server.requests) == ["/a.jpg", "/away.jpg"] and server.passwords == set()
    assert "The proxies for http are not used" in caplog.text
    made.close()


def test_a_workspace_of_others_and_a_table_that_is_not_there(tmp_path):
    write_file(tmp_path / "images" / "film.part", "mine")
    with pytest.raises(FileExistsError, match="name a new or an empty folder"):
        Urls(tmp_path, "me@example.org")
    assert (tmp_path / "images" / "film.part").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="--image_urls: .*row ids and URLs"):
        Urls(tmp_path, "me@example.org", tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "id\turi\n1\thttp://a\n", "has the columns id, uri; expected id, url"),
        ("t.tsv", "id\turl\n1\thttp://a\tx\n", "t.tsv:2: expected 2 columns"),
        ("t.jsonl", "[]\n", "t.jsonl:1: .*JSON object a line"),
        ("t.jsonl", '{"id": 1, "url": 2}', "t.jsonl:1: id 1 and url 2"),
    ],
)  # fmt: skip
def test_a_malformed_table_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    made = Urls(tmp_path / "work", "me@example.org", tmp_path / name, HURRIED)
    with pytest.raises(ValueError, match=message):
        prepare(made, row("1"))
    made.close()
