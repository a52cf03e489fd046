"""Several sources brought together: weights, maps, known types, handles, images."""

import json

import pytest
from PIL import Image

from dataset_script import load
from dataset_script.__main__ import main


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path))
    tweets, posts = tmp_path / "tweets", tmp_path / "posts"
    tweets.mkdir()
    row = {"id": "1", "lang": "en", "tokens": ["@", "ann", "in", "Rome"], "ner_tags": ["B-PER", "B-PER", "O", "B-GPE"]}
    (tweets / "train.jsonl").write_text(
        "".join(json.dumps(row | {"id": str(n), "image": "a.png"}) + "\n" for n in range(4))
    )
    (tweets / "validation.jsonl").write_text(json.dumps(row) + "\n")
    (tweets / "images").mkdir()
    Image.new("RGB", (4, 4), "red").save(tweets / "images" / "a.png")
    (posts / "de").mkdir(parents=True)
    (posts / "de" / "train.txt").write_text("[Rom|LOC] brennt\nnix\n")
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(
        "- {path: $DATA/tweets, weight: 0.5, known_types: [PER, LOC], handles: join,\n"
        "   label_map: {PER: PER, GPE: LOC}}\n"
        "- {path: $DATA/posts, weight: 2}\n"
    )
    return mixture


def test_a_mixture(sources, tmp_path):
    for _ in range(2):  # the second replaces the first
        assert main(["mix", str(sources), "--output_dir", str(tmp_path / "out")]) == 0
    mixed = load(tmp_path / "out", cache_dir=tmp_path / "cache")
    train = mixed["train"].to_list()
    assert len(train) == 2 + 4 and len({row["id"] for row in train}) == 6
    names = mixed["train"].features["ner_tags"].feature.names
    tweet = next(row for row in train if row["lang"] == "en")
    assert tweet["tokens"] == ["@ann", "in", "Rome"] and tweet["known_types"] == ["PER", "LOC"]
    assert (
        [names[tag] for tag in tweet["ner_tags"]] == ["O", "O", "B-LOC"]
        and tweet["image"]["bytes"]
        or tweet["image"]["path"]
    )
    assert sum(row["known_types"] is None for row in train) == 4
    assert len(mixed["validation"]) == 1


def test_wrong_mixtures(sources, tmp_path, capsys, monkeypatch):
    def error(text):
        sources.write_text(text)
        assert main(["mix", str(sources), "--output_dir", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "expected a list of sources" in error("path: x\n")
    assert "factor came; expected path, weight" in error("- {path: $DATA/posts, factor: 2}\n")
    assert "expected keep or join" in error("- {path: $DATA/posts, handles: drop}\n")
    assert "an entity of type LOC came, which known_types (PER) leaves out" in error(
        "- {path: $DATA/posts, known_types: [PER]}\n"
    )
    monkeypatch.delenv("DATA")
    assert "names a variable that is not set" in error("- {path: $DATA/posts}\n")
    assert not (tmp_path / "out").exists()


def test_known_types_follow_the_map_and_a_build_does_not_drop_them(tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    row = {"id": "1", "lang": "en", "tokens": ["Rome"], "ner_tags": ["B-GPE"], "known_types": ["GPE", "X"]}
    (folder / "train.jsonl").write_text(json.dumps(row))
    loaded = load(folder, label_map={"GPE": "LOC", "X": "O"}, cache_dir=tmp_path / "cache")
    assert loaded["train"]["known_types"] == [["LOC"]]
    command = ["build", str(folder), "--provider", "none", "--output_dir", str(tmp_path / "out")]
    assert main(command) == 2
    assert "states known_types, which a build does not keep" in capsys.readouterr().err
