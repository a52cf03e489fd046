"""The audit on datasets whose leaks, slips and giveaways were put there, and so are known."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import noise
from written_files import write_file, write_jsonl

import dataset_script
from dataset_script.__main__ import main
from dataset_script.auditing.audit import audit, markdown
from dataset_script.auditing.image_kinds import predictability
from dataset_script.auditing.overlap import overlaps
from dataset_script.publishing.parquet import write_parquet

WORDS = [first + second for first in ("ba", "do", "ke", "li", "mu", "pa", "ro") for second in ("n", "rt", "lis", "vo")]


def sentence(seed, words=12):
    return random.Random(seed).choices(WORDS, k=words)


def imgid(path, rows):
    """Write (image, tokens, tags) as IMGID: blocks."""
    blocks = []
    for image, tokens, tags in rows:
        lines = [f"{token}\t{tag}" for token, tag in zip(tokens, tags, strict=True)]
        blocks.append("\n".join([f"IMGID:{image}", *lines]))
    write_file(path, "\n\n".join(blocks) + "\n")


def found(report, kind, part, other):
    return next((one for one in report.overlaps if (one.kind, one.part, one.other) == (kind, part, other)), None)


def lines(report, level):
    return [finding.text for finding in report.findings if finding.level == level]


@pytest.fixture
def official(tmp_path):
    """Twenty training, six validation and ten test tweets that share nothing, without their images."""
    tags = ["B-PER", "I-PER", *["O"] * 10]
    rows = [(f"17_06_{number}", sentence(number), tags) for number in range(36)]
    for name, part in (("train", rows[:20]), ("valid", rows[20:26]), ("test", rows[26:])):
        imgid(tmp_path / "official" / f"{name}.txt", part)
    return tmp_path / "official", rows


def test_a_re_split_that_trains_on_another_sets_test_is_found(official, tmp_path):
    folder, rows = official
    imgid(tmp_path / "resplit" / "train.txt", rows[5:20] + rows[26:33])
    imgid(tmp_path / "resplit" / "valid.txt", rows[20:23])
    imgid(tmp_path / "resplit" / "test.txt", rows[33:] + rows[:5])
    report = audit(tmp_path / "resplit", folder)
    assert lines(report, "LEAK")
    for kind in ("sentences", "images"):
        leak = found(report, kind, "official/test", "resplit/train")
        assert (leak.items, leak.exact, leak.near, leak.rows) == (7, 7, 0, 10)
        assert found(report, kind, "resplit/test", "official/train").exact == 5
        assert found(report, kind, "resplit/test", "resplit/train") is None
    leaks = lines(report, "LEAK")
    assert "7 images of official/test in resplit/train (7 of 10 rows, 70.0%)." in leaks
    assert "7 sentences of official/test in resplit/train (7 of 10 rows, 70.0%)." in leaks
    assert "5 images of resplit/test in official/train (5 of 8 rows, 62.5%)." in leaks
    assert len(leaks) == 4
    example = found(report, "sentences", "official/test", "resplit/train").examples[0]
    assert example.count("17_06_26: " + " ".join(rows[26][1])) == 2
    assert "36 of the 36 rows of official that name an image have no file." in lines(report, "WARNING")


def test_a_clean_dataset_is_called_clean(official):
    report = audit(official[0])
    assert not lines(report, "LEAK") and report.overlaps == []
    assert lines(report, "FINE") == [
        "No sentence and no image of a test or validation set occurs in what comes before it.",
        "All rows of official are well-formed IOB2.",
    ]


def test_nearly_the_same_sentences_across_splits(tmp_path):
    long = sentence(1, 20)
    changed = [*long[:10], "other", *long[11:]]
    tags = ["O"] * 20
    imgid(tmp_path / "d" / "train.txt", [("1", long, tags), ("2", sentence(2, 20), tags), ("3", long, tags)])
    imgid(tmp_path / "d" / "test.txt", [("4", changed, tags), ("5", [word.upper() for word in long], tags)])
    report = audit(tmp_path / "d")
    leak = found(report, "sentences", "d/test", "d/train")
    assert (leak.items, leak.exact, leak.near) == (2, 1, 1)
    within = found(report, "sentences", "d/train", "d/train")
    assert (within.items, within.exact) == (1, 2)
    assert "1 sentence of d/train more than once (2 of 3 rows, 66.7%)." in lines(report, "NOTE")


def test_labels_slips_and_malformed_rows_are_counted_before_repair(tmp_path):
    tags = [
        ("de", ["B-PER", "O", "B-LOC"]), ("de", ["I-PER", "O", "I-LOC"]), ("fr", ["B-PER", "I-LOC", "O"]),
        ("fr", ["O", "O"]), ("fr", ["O", "PER", "O"]), ("fr", ["O", "O", "O"]),
    ]  # fmt: skip
    rows = [
        {"id": str(number), "lang": lang, "tokens": sentence(number, 3), "ner_tags": mine}
        for number, (lang, mine) in enumerate(tags)
    ]
    write_jsonl(tmp_path / "d" / "train.jsonl", *rows)
    report = audit(tmp_path / "d")
    german, french = report.counts
    assert (german.lang, german.rows, german.tokens, german.entities) == ("de", 2, 6, {"PER": 2, "LOC": 2})
    assert (german.slips, french.slips) == (2, 1)
    assert (french.rows, french.without_entity, french.entities) == (2, 1, {"PER": 1, "LOC": 1})
    assert french.malformed == {"length mismatch": 1, "not IOB2": 1}
    assert "3 tags of d break IOB2: an I-X begins an entity." in lines(report, "WARNING")
    text = markdown(report)
    assert "| d/train | de | 2 | 6 | 4 | 0 | 0 | 0 | 2 | 0 |" in text
    assert "| d/train | fr | 1 (50%) | 1 (50%) |" in text


def photo(seed):
    """A image of no regularity."""
    return noise((8, 6), seed).resize((64, 48), Image.Resampling.BICUBIC)


def reddish(seed):
    red = np.array(photo(seed))
    red[..., 0], red[..., 1:] = 255 - red[..., 0] // 4, red[..., 1:] // 3
    return Image.fromarray(red)


@pytest.fixture
def pictured(tmp_path):
    """Rows with images: two of test that train has, one of them smaller; one broken; one absent."""
    images = tmp_path / "d" / "images"
    images.mkdir(parents=True)
    for number in range(6):
        photo(number).save(images / f"{number}.png")
    (images / "copy.png").write_bytes((images / "0.png").read_bytes())
    photo(1).resize((128, 96)).save(images / "large.jpg", quality=90)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n no image")

    def row(number, image):
        tags = ["B-PER", *["O"] * 11]
        return {"id": str(number), "lang": "en", "tokens": sentence(number), "ner_tags": tags, "image": image}

    train = ["0.png", "1.png", "1.png", "2.png", "broken.png", None]
    test = ["copy.png", "large.jpg", "3.png", "gone.png"]
    write_jsonl(tmp_path / "d" / "en" / "train.jsonl", *[row(number, image) for number, image in enumerate(train)])
    write_jsonl(tmp_path / "d" / "en" / "test.jsonl", *[row(number + 9, image) for number, image in enumerate(test)])
    return tmp_path / "d"


def test_images_shared_broken_and_absent(pictured):
    report = audit(pictured)
    leak = found(report, "images", "d/test", "d/train")
    assert (leak.items, leak.exact, leak.near, leak.rows) == (2, 1, 1, 4)
    assert leak.examples == ["9: copy.png | 0: 0.png", "10: large.jpg | 1: 1.png"]
    assert report.missing == {"d": 1}
    assert list(report.unreadable["d"]) == ["broken.png"]
    assert "of no format of JPEG" in report.unreadable["d"]["broken.png"]
    assert (report.counts[0].named, report.counts[0].opened) == (5, 4)
    assert "Images of d that do not open, 1: broken.png." in lines(report, "WARNING")


def test_parquet_is_audited_as_its_source_was(pictured, tmp_path):
    (pictured / "images" / "broken.png").unlink()
    write_parquet(dataset_script.load(pictured, cache_dir=tmp_path / "cache"), tmp_path / "parquet")
    report = audit(tmp_path / "parquet", pictured)
    leak = found(report, "images", "parquet/test", "parquet/train")
    assert (leak.items, leak.exact, leak.near) == (2, 1, 1)
    assert found(report, "images", "parquet/test", "d/test").exact == 3
    assert found(report, "sentences", "parquet/train", "d/train").exact == 6
    assert [part.entities for part in report.counts if part.part == "parquet/train"] == [{"PER": 6}]


def dataset_with_relations(folder, gives_away):
    """Pictures of which half are red; whether those are the ones that depict, or chance decides."""
    (folder / "images").mkdir(parents=True)
    draw, rows = random.Random(1), []
    for number in range(120):
        is_red = number % 2 == 0
        (reddish if is_red else photo)(number).save(folder / "images" / f"{number}.png")
        depicts = is_red if gives_away else draw.random() < 0.5
        tags = [f"B-{draw.choice(('PER', 'LOC'))}", *["O"] * 11]
        row = {"id": str(number), "lang": "es", "tokens": sentence(number), "ner_tags": tags}
        rows.append(row | {"image": f"{number}.png", "image_relation": "depicts" if depicts else "unrelated"})
    write_jsonl(folder / "es" / "train.jsonl", *rows)
    return folder


@pytest.mark.parametrize("gives_away", [True, False])
def test_a_look_that_gives_the_relation_away_is_found(tmp_path, gives_away):
    report = audit(dataset_with_relations(tmp_path / "d", gives_away))
    by_target = {one.target: one for one in report.predictability}
    relation, kind = by_target["relation"], by_target["entity type"]
    assert relation.labels == relation.images == 120
    assert relation.predicts == gives_away
    assert not gives_away or relation.accuracy > 0.95
    # Types were drawn by chance in either.
    assert kind.accuracy < 0.65 and not kind.predicts
    warned = [text for text in lines(report, "WARNING") if "depicts or is unrelated" in text]
    assert len(warned) == gives_away
    assert f"| relation | d | 120 | 120 | {relation.accuracy:.3f} |" in markdown(report)
    assert audit(tmp_path / "d").to_json() == report.to_json()


def test_copies_of_one_image_do_not_count_as_knowledge():
    # Each of eight images forty times over, with labels by chance: only memory could predict them.
    look = np.repeat(np.random.default_rng(0).normal(size=(8, 30)), 40, axis=0).astype(np.float32)
    labels = [Counter({label: 1}) for label in "abbabaab" for _ in range(40)]
    groups = [str(number // 40) for number in range(320)]
    grouped = predictability("t", "d", look, labels, groups)
    alone = predictability("t", "d", look, labels, [str(number) for number in range(320)])
    assert alone.accuracy == 1 and grouped.accuracy < 0.8
    assert predictability("t", "d", look[:20], labels[:20], groups[:20]) is None


def test_overlaps_agree_with_comparing_all_rows():
    draw = np.random.default_rng(2)
    items = [None if item < 0 else int(item) for item in draw.integers(-1, 25, 80)]
    parts = [str(part) for part in draw.choice(["a", "b", "c"], 80)]
    near = [(1, 2), (3, 9), (9, 20), (4, 5)]
    linked = {*near, *((second, first) for first, second in near)}
    got = {(one.part, one.other): one for one in overlaps("x", items, parts, near)}
    for name in "abc":
        for other_name in "abc":
            exact = near_rows = 0
            for row in (row for row in range(80) if parts[row] == name and items[row] is not None):
                others = {items[one] for one in range(80) if parts[one] == other_name and one != row} - {None}
                exact += items[row] in others
                near_rows += items[row] not in others and any((items[row], one) in linked for one in others)
            assert (got[name, other_name].exact, got[name, other_name].near) == (exact, near_rows)


def test_command_writes_the_report_and_exits_by_what_it_found(official, tmp_path, capsys):
    folder, rows = official
    imgid(tmp_path / "leaky" / "train.txt", rows[:3])
    imgid(tmp_path / "leaky" / "test.txt", rows[2:4])

    def command(*arguments):
        return main(["audit", *map(str, arguments)]), capsys.readouterr().out

    out = tmp_path / "out"
    status, printed = command(tmp_path / "leaky", "--strict", "--output_dir", out)
    assert status == 1
    assert "- **LEAK** 1 sentence of leaky/test in leaky/train (1 of 2 rows, 50.0%)." in printed
    report = json.loads((out / "audit.json").read_text())
    assert {one["exact"] for one in report["overlaps"]} == {1}
    assert (out / "audit.md").read_text() == printed
    assert command(tmp_path / "leaky")[0] == 0
    assert command(folder, "--strict", "--output_dir", out)[0] == 0
    assert (out / "audit.md").read_text() != printed, "it is replaced"
    assert main(["audit", str(folder), "--output_dir", str(tmp_path / "leaky")]) == 2
    assert re.search("leaky is not empty.*name a new or an empty folder", capsys.readouterr().err)
    assert sorted(path.name for path in (tmp_path / "leaky").iterdir()) == ["test.txt", "train.txt"]


def test_a_test_set_without_labels_that_leaks_is_found(tmp_path):
    row = {"tokens": sentence(1), "ner_tags": ["O"] * 12, "lang": "en"}
    write_jsonl(tmp_path / "set" / "train.jsonl", row)
    write_jsonl(tmp_path / "set" / "test.jsonl", row | {"ner_tags": None})
    assert lines(audit(tmp_path / "set"), "LEAK")
