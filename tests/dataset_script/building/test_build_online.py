"""A build with pictures from Wikimedia, end to end against a loopback server that fails, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import own_process
import pytest
from wikimedia_server import WikimediaServer
from written_files import contents_of, read_jsonl, write_jsonl

ROOT = Path(__file__).parents[3]
PEOPLE = 24


@pytest.fixture
def source(tmp_path):
    """Each person is named in two sentences, one for each of the towns Paris and Mercury."""
    folder = tmp_path / "source"
    rows = []
    for number in range(2 * PEOPLE):
        person = ["Ada", f"Number{number // 2}"]
        town = ("Paris", "Mercury")[number % 2]
        tokens = [*person, "was", "seen", "on", f"day{number}", f"of{number}", "near", town]
        tags = ["B-PER", "I-PER", "O", "O", "O", "O", "O", "O", "B-LOC"]
        rows.append({"id": str(number), "lang": "en", "tokens": tokens, "ner_tags": tags})
    write_jsonl(folder / "en" / "train.jsonl", *rows)
    return folder


@pytest.fixture
def server():
    with WikimediaServer() as server:
        for number in range(PEOPLE):
            server.add_entity("en", f"Ada Number{number}", f"Q{1000 + number}", ["Q5"], f"Ada {number}.jpg")
        # Of the faults, those that are answers: forbidden or missing licence, no picture, not an image.
        server.files["Ada 1.jpg"]["licence"] = "CC BY-NC 4.0"
        server.files["Ada 2.jpg"]["licence"] = None
        server.items["Q1003"]["P18"] = []
        server.files["Ada 4.jpg"]["mime"] = "application/pdf"
        # Paris is reached by a redirect; Mercury may be several things.
        server.add_entity("en", "Paris (France)", "Q90", ["Q515"], "Paris.jpg")
        server.items["Q515"] = {"P279": ["Q2221906"]}
        server.redirects.setdefault("en", {})["Paris"] = ("Paris (France)", None)
        server.pages["en"]["Mercury"] = {"item": "Q2", "disambiguation": True}
        server.items["Q2"] = {"P31": ["Q4167410"]}
        yield server


CODE = """
import sys
from dataset_script.__main__ import main
from dataset_script.building.providers import wikimedia
ask, url = wikimedia.MediaWiki, sys.argv[1]
urls = [f"{url}/{wiki}/w/api.php" for wiki in ("{lang}", "wikidata", "commons")]
wikimedia.MediaWiki = lambda fetcher: ask(fetcher, *urls)
sys.exit(main(sys.argv[2:]))
"""


def command(server, source, output):
    return [
        *["-c", CODE, server.url, "build", str(source), "--provider", "wikimedia"],
        *["--contact", "tests@example.org", "--requests_per_second", "400", "--output_dir", str(output)],
        *["--unrelated_share", "0.1", "--missing_share", "0.1"],
    ]


def test_faults_and_a_kill_change_nothing(server, source, tmp_path):
    own_process.run(*command(server, source, tmp_path / "whole"))
    asked_for_whole = Counter(server.requests)
    server.requests.clear()

    server.delay_s = 0.01
    faults = [("^/thumb/", "truncated"), ("^/thumb/", "cut"), ("^/en/", "503"), ("^/en/", "html")]
    for pattern, how in [*faults, ("^/commons/", "cut"), ("^/wikidata/", "maxlag")]:
        server.fail_next(pattern, how)
    server.fail_next("^/commons/", "429", Retry_After="1")
    words = [sys.executable, *command(server, source, tmp_path / "killed")]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(server.downloads()) < 8:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed").exists(), "no half dataset"
    server.delay_s = 0
    own_process.run(*command(server, source, tmp_path / "killed"))

    assert contents_of(tmp_path / "killed") == contents_of(tmp_path / "whole")
    # Seven requests failed, and at most two were under way at the kill: nothing else was asked twice.
    assert not server.faults and sum((Counter(server.requests) - asked_for_whole).values()) <= 7 + 2

    pictures = read_jsonl(tmp_path / "whole" / "pictures.jsonl")
    entities = {item["entity"] for item in pictures}
    assert entities >= {"Q90"} and not entities & {"Q1001", "Q1002", "Q1003", "Q1004", "Q2"}
    assert all(item["licence"] == "CC BY-SA 4.0" and item["author"] == "Someone" for item in pictures)
    assert all(item["source"] for item in pictures)
    counts = json.loads((tmp_path / "whole" / "build.json").read_text())["counts"]["provider"]
    assert counts["mentions: found"] == PEOPLE - 4 + 1, counts
