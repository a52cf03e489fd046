"""Several sources brought together: weights, maps, known types, handles, images."""

import pytest
from PIL import Image
from written_files import write_file, write_jsonl

from dataset_script import load
from dataset_script.__main__ import main


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path))
    tweets, posts = tmp_path / "tweets", tmp_path / "posts"
    row = {"id": "1", "lang": "en", "tokens": ["@", "ann", "in", "Rome"], "ner_tags": ["B-PER", "B-PER", "O", "B-GPE"]}
    write_jsonl(tweets / "train.jsonl", *(row | {"id": str(n), "image": "a.png"} for n in range(4)))
    write_jsonl(tweets / "validation.jsonl", row)
    (tweets / "images").mkdir()
    Image.new("RGB", (4, 4), "red").save(tweets / "images" / "a.png")
    write_file(posts / "de" / "train.txt", "[Rom|LOC] brennt\nnix\n")
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
    assert [names[tag] for tag in tweet["ner_tags"]] == ["O", "O", "B-LOC"]
    assert tweet["image"]["bytes"] or tweet["image"]["path"]
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
    row = {"id": "1", "lang": "en", "tokens": ["Rome"], "ner_tags": ["B-GPE"], "known_types": ["GPE", "X"]}
    folder = write_jsonl(tmp_path / "set" / "train.jsonl", row).parent
    loaded = load(folder, label_map={"GPE": "LOC", "X": "O"}, cache_dir=tmp_path / "cache")
    assert loaded["train"]["known_types"] == [["LOC"]]
    command = ["build", str(folder), "--provider", "none", "--output_dir", str(tmp_path / "out")]
    assert main(command) == 2
    assert "states known_types, which a build does not keep" in capsys.readouterr().err


def _set(folder, colour, **more):
    """A folder with one row in each split, and its image, which in every folder is called 1.png."""
    row = {"id": "1", "lang": "en", "ner_tags": ["B-PER", "O"], "image": "1.png"} | more
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4), colour).save(folder / "images" / "1.png")
    for split in ("train", "validation"):
        write_jsonl(folder / f"{split}.jsonl", row | {"tokens": ["Anna", split]})
    return folder


def _mixed(tmp_path, *paths, **options):
    """The rows of train, mixed of these, loaded."""
    (tmp_path / "m.yaml").write_text("".join(f"- {{path: {path}}}\n" for path in paths))
    assert main(["mix", str(tmp_path / "m.yaml"), "--output_dir", str(tmp_path / "out")]) == 0
    return sorted(load(tmp_path / "out", cache_dir=tmp_path / "cache")["train"], key=lambda row: row["id"])


def test_images_of_one_name_and_folders_of_one_name_stay_apart(tmp_path):
    red, blue = _set(tmp_path / "a" / "en", "red", caption="a red square"), _set(tmp_path / "b" / "en", "blue")
    rows = _mixed(tmp_path, red, blue)
    assert [row["id"] for row in rows] == ["en-2-en-0-0", "en-en-0-0"]
    assert [row["image"].getpixel((0, 0)) for row in rows] == [(0, 0, 255), (255, 0, 0)]
    assert [row["caption"] for row in rows] == [None, "a red square"]


def test_images_come_with_every_kind_of_source(tmp_path, caplog):
    plain = _set(tmp_path / "a", "red")
    load(plain, cache_dir=tmp_path / "cache").save_to_disk(tmp_path / "saved")
    command = ["build", str(plain), "--provider", "own", "--splits", "source", "--unseen", "none"]
    assert main([*command, "--output_dir", str(tmp_path / "built")]) == 0
    (tmp_path / "wiki").mkdir()
    (plain / "images").rename(tmp_path / "wiki" / "images")
    plain.rename(tmp_path / "wiki" / "en")
    for path in ("saved", "built", "wiki/en", "wiki/en/train.jsonl"):
        rows = _mixed(tmp_path, tmp_path / path)
        assert [row["image"].getpixel((0, 0)) for row in rows] == [(255, 0, 0)], path
    (tmp_path / "wiki" / "images" / "1.png").unlink()
    rows = _mixed(tmp_path, tmp_path / "wiki/en")
    assert rows[0]["image"] is None and "the images of 1 rows of" in caplog.text


def test_what_is_read_is_not_replaced_and_a_hidden_test_is_no_hindrance(tmp_path, capsys):
    folder = _set(tmp_path / "a", "red")
    write_jsonl(folder / "test.jsonl", {"tokens": ["Anna"], "ner_tags": None, "lang": "en"})
    _mixed(tmp_path, folder)
    (tmp_path / "m.yaml").write_text(f"- {{path: {folder}}}\n- {{path: {tmp_path / 'out'}}}\n")
    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    assert main(["mix", str(tmp_path / "m.yaml"), "--output_dir", str(tmp_path / "out")]) == 2
    assert "holds what is read" in capsys.readouterr().err
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a list of sources"),
        ("- {path: 5}", "expected a list of sources"),
        ("- {path: [", "m.yaml is no YAML"),
        ("- {path: x, weight: '3'}", "weight is '3'; expected a number"),
        ("- {path: x, weight: .inf}", "weight is inf; expected a number"),
        ("- {path: x, known_types: PER}", "known_types is 'PER'; expected a list"),
        ("- {path: x, known_types: []}", "expected a list"),
    ],
)
def test_a_mixture_of_wrong_values_says_which(tmp_path, capsys, text, message):
    (tmp_path / "m.yaml").write_text(text)
    assert main(["mix", str(tmp_path / "m.yaml"), "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_what_a_source_leaves_out_is_told(tmp_path, caplog):
    words_and_tags = ((["a"], ["I-PER"]), (["a"], []), ([], []))
    rows = [{"lang": "en", "tokens": tokens, "ner_tags": tags} for tokens, tags in words_and_tags]
    write_jsonl(tmp_path / "a" / "train.jsonl", *rows)
    (tmp_path / "m.yaml").write_text(f"- {{path: {tmp_path / 'a'}, errors: skip, iob2: repair}}\n")
    assert main(["mix", str(tmp_path / "m.yaml"), "--output_dir", str(tmp_path / "out")]) == 0
    assert "1 rows were skipped" in caplog.text and "1 I- tags that begin" in caplog.text
