"""Building a dataset end to end: what is promised of it holds for the rows that are read back."""

import hashlib
import itertools
import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from written_files import contents_of, read_jsonl, write_file, write_jsonl

from dataset_script import load, load_report
from dataset_script.__main__ import main
from dataset_script.building.build import build, source_names
from dataset_script.building.plan import Plan
from dataset_script.building.providers.folder import Folder
from dataset_script.building.providers.own import Own
from dataset_script.publishing.card import write_card
from dataset_script.publishing.parquet import write_parquet
from dataset_script.rows import iob2_spans
from mmner.data.sentences import REMEDIES

PEOPLE = [f"Person{number}" for number in range(60)]
TOWNS = [f"Town{number}" for number in range(60)]
FILLER_WORDS = "old new red blue small large early late quiet loud open closed warm cold north south".split()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """600 sentences in two languages, and pictures of the first forty people and towns; two are near-duplicates."""
    folder = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["file\ttypes\tmentions\tlicence\tauthor\tsource"]
    for number in range(40):
        for kind, name in (("PER", PEOPLE[number]), ("LOC", TOWNS[number])):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(folder / "images" / f"{name}.jpg", quality=90)
            if name in ("Person0", "Town1"):
                other = {"Person0": "Person2", "Town1": "Town3"}[name]
                Image.fromarray(pixels).resize((60, 60)).save(folder / "images" / f"again-{name}.jpg", quality=70)
                lines.append(f"again-{name}.jpg\t{kind}\t{other}\tCC0\tAnn\thttps://example.org/{name}")
            lines.append(f"{name}.jpg\t{kind}\t{name};{name}o\tCC BY 4.0\tAnn\thttps://example.org/{name}")
    (folder / "images" / "broken.jpg").write_bytes(b"no photo")
    lines.append("broken.jpg\tPER\tPerson45\tCC0\t\t")
    (folder / "index.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for lang in ("en", "es"):
        for split, count in (("train", 200), ("validation", 50), ("test", 50)):
            rows = []
            for number in range(count):
                words = list(generator.choice(FILLER_WORDS, 9))
                person, town = generator.choice(PEOPLE), generator.choice(TOWNS) + ("o" if lang == "es" else "")
                tokens = [*words[:4], str(person), *words[4:], str(town), "."]
                tags = ["O"] * 4 + ["B-PER"] + ["O"] * 5 + ["B-LOC", "O"]
                rows.append({"id": f"{number}", "lang": lang, "tokens": tokens, "ner_tags": tags, "image": None})
            twice = "Twice said words of Person1 and more so on in Town2".split()
            if split in ("train", "test"):  # near-duplicates
                tokens = twice + ["."] * (split == "train")
                tags = ["O"] * 4 + ["B-PER"] + ["O"] * 5 + ["B-LOC", "O"]
                rows[7] |= {"tokens": tokens, "ner_tags": tags[: len(tokens)]}
            write_jsonl(folder / lang / f"{split}.jsonl", *rows)
    return folder


def built(source, folder, **options):
    provider, work = Folder(source / "index.tsv"), folder / "work"
    return build([source], folder / "out", provider, Plan(**options), workspace=work, write_card=write_card)


def rows_of(folder):
    """All rows as dictionaries, with tags as text and the split, read with pyarrow alone."""
    rows = []
    for path in sorted(folder.glob("*/*.parquet")):
        table = pq.read_table(path)
        names = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]["ner_tags"]["feature"]
        for row in table.to_pylist():
            row["ner_tags"] = [names["names"][tag] for tag in row["ner_tags"]]
            rows.append(row | {"split": path.name.split("-")[0]})
    return rows


def entities(row):
    # Names of the two languages are one entity where the index says so: it has the first forty of each kind.
    surfaces = [" ".join(row["tokens"][start:end]) for start, end, _ in iob2_spans(row["ner_tags"])]
    joined = {f"{name}o": name for name in (*PEOPLE[:40], *TOWNS[:40])}
    return {joined.get(surface, surface) for surface in surfaces}


def crossing(rows, key):
    """What two splits share."""
    by_split = {}
    for row in rows:
        by_split.setdefault(row["split"], set()).update(key(row))
    shared, splits = set(), list(by_split.values())
    for number, first in enumerate(splits):
        for second in splits[number + 1 :]:
            shared |= first & second
    return shared


def image(row):
    aliases = {"again-Person0.jpg": "Person0.jpg", "again-Town1.jpg": "Town1.jpg"}
    return {aliases.get(row["image_name"], row["image_name"])} - {None}


@pytest.mark.parametrize("unseen", ["none", "images", "entities", "both"])
@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), "source"], ids=["resplit", "source"])
def test_what_is_to_be_unseen_is_in_one_split(source, tmp_path, unseen, shares):
    rows = rows_of(built(source, tmp_path, unseen=unseen, splits=shares))
    if unseen in ("images", "both"):
        assert not crossing(rows, image)
    if unseen in ("entities", "both"):
        assert not crossing(rows, entities)
    if unseen == "none":
        assert crossing(rows, image) and crossing(rows, entities), "else the other cases show nothing"
    # Near-duplicate sentences share a split, or only the tested one is left.
    twice = [row["split"] for row in rows if row["tokens"][0] == "Twice"]
    assert set(twice) == {"test"} if shares == "source" else len(set(twice)) <= 1
    facts = json.loads((tmp_path / "out" / "build.json").read_text())
    assert facts["counts"]["rows read"] == 600 == len(rows) + sum(facts["left_out"].values())
    if unseen == "none" and shares != "source":
        assert len(rows) == 600


def test_images_are_what_their_relation_says(source, tmp_path):
    folder = built(source, tmp_path, unrelated_share=0.3)
    rows, names = rows_of(folder), {}
    for line in (source / "index.tsv").read_text().splitlines()[1:]:
        file, types, mentions, *_ = line.split("\t")
        names[file] = (set(mentions.split(";")), types)
    for row in rows:
        surfaces = {" ".join(row["tokens"][start:end]) for start, end, _ in iob2_spans(row["ner_tags"])}
        if row["image_name"] is None:
            assert row["image"] is None and row["image_relation"] == "none"
            continue
        depicted = bool(names[row["image_name"]][0] & surfaces)
        assert row["image_relation"] == ("depicts" if depicted else "unrelated")
        data = (source / "images" / row["image_name"]).read_bytes()
        assert row["image"] == {"bytes": data, "path": row["image_name"]}
    assert not any(row["image_name"] == "broken.jpg" for row in rows)
    assert list(json.loads((folder / "build.json").read_text())["counts"]["images that do not open"]) == ["broken.jpg"]
    listed = read_jsonl(folder / "pictures.jsonl")
    assert {item["name"] for item in listed} == {row["image_name"] for row in rows} - {None}
    for item in listed:
        assert item["rows"] == sum(row["image_name"] == item["name"] for row in rows)
        assert item["sha256"] == hashlib.sha256((source / "images" / item["name"]).read_bytes()).hexdigest()
    person = next(item for item in listed if item["name"].startswith("Person"))
    assert person["licence"] in ("CC BY 4.0", "CC0") and person["author"] == "Ann" and person["types"] == ["PER"]


def test_same_bytes_twice_and_others_for_another_seed(source, tmp_path):
    runs = zip("abc", (0, 0, 1), strict=True)
    first, same, other = (contents_of(built(source, tmp_path / name, seed=seed)) for name, seed in runs)
    assert first == same and first["en/train-00000.parquet"] != other["en/train-00000.parquet"]


def test_load_reads_it_back_and_a_second_build_replaces_it(source, tmp_path):
    folder = built(source, tmp_path)
    dataset = load(folder, "es")
    assert set(dataset) == {"train", "validation", "test"} and set(dataset["train"]["lang"]) == {"es"}
    with_image = next(row for row in dataset["train"] if row["image"] is not None)
    assert with_image["image"].size[0] in (60, 64)
    assert load_report(dataset).total().rows == sum(len(split) for split in dataset.values()) == 300
    again = build([source], folder, None, languages=["en"], workspace=tmp_path / "work", write_card=write_card)
    rows = rows_of(again)
    assert len(rows) == 300 and all(row["image"] is None and row["image_relation"] == "none" for row in rows)


def test_own_images_are_kept_and_their_relation_is_what_the_source_says(source, tmp_path):
    rows = [
        {"id": str(number), "tokens": [f"Tree{number}", *FILLER_WORDS[number : number + 6]], "lang": "en",
         "ner_tags": ["B-MISC"] + ["O"] * 6, "image": f"Person{number}.jpg", "caption": f"caption {number}"}
        for number in range(1, 9)
    ]  # fmt: skip
    rows[0] |= {"image_relation": "unrelated"}
    rows[1] |= {"image": "gone.jpg"}
    write_jsonl(tmp_path / "own" / "train.jsonl", *rows)

    own, plan = Own({"own": source / "images"}), Plan(splits="source")
    folder = build([tmp_path / "own"], tmp_path / "out", own, plan, workspace=tmp_path / "w", write_card=write_card)
    read = {row["id"]: row for row in rows_of(folder)}
    assert read["1"]["image_relation"] == "unrelated" and read["3"]["image_relation"] is None
    assert read["2"]["image"] is None and read["2"]["image_relation"] == "none" and read["2"]["caption"] is None
    assert read["3"]["image_name"] == "Person3.jpg" and read["3"]["caption"] == "caption 3"


def test_own_images_of_a_finished_dataset_are_taken_from_its_rows(source, tmp_path):
    folders = [tmp_path / name for name in ("files", "first", "second")]
    (folders[0] / "images").mkdir(parents=True)
    content = {number: (source / "images" / f"Person{number}.jpg").read_bytes() for number in range(4, 12)}
    content[5] = content[4]
    for number, data in content.items():
        (folders[0] / "images" / f"{number}.jpg").write_bytes(data)
    rows = [
        {"id": str(number), "tokens": [f"Tree{number}", *FILLER_WORDS[number : number + 4]], "lang": "en",
         "ner_tags": ["B-MISC"] + ["O"] * 4, "image": f"{number}.jpg" if number > 3 else None,
         "image_relation": "depicts" if number > 3 else "none"}
        for number in range(12)
    ]  # fmt: skip
    write_jsonl(folders[0] / "train.jsonl", *rows)
    for before, after in itertools.pairwise(folders):
        command = ["build", str(before), "--provider", "own", "--splits", "source", "--unseen", "none"]
        assert main([*command, "--output_dir", str(after)]) == 0
        read = {int(row["id"]): row for row in rows_of(after)}
        assert {number: row["image"] and row["image"]["bytes"] for number, row in read.items()} == {
            number: content.get(number) for number in range(12)
        }
        assert all(read[number]["image_relation"] == row["image_relation"] for number, row in enumerate(rows))
    assert read[7]["image_name"] == "7.jpg"
    assert list((tmp_path / "second.work").iterdir()) == []


def test_card_and_record_tell_of_files_by_their_names_alone(tmp_path):
    """However the command line gives them."""
    place = tmp_path / "2000 the winter: term #1"
    row = {"id": "1", "lang": "en", "tokens": ["Ada"], "ner_tags": ["B-PER"], "image": None}
    write_jsonl(place / "own" / "train.jsonl", row)
    (place / "map.yaml").write_text("PER: HUMAN\n")
    command = ["build", str(place / "own"), "--provider=none", f"--label_map={place / 'map.yaml'}"]
    command += ["--splits", "source", f"--output_dir={place / 'set'}"]
    assert main(command) == 0
    record = json.loads((place / "set" / "build.json").read_text())
    assert record["options"]["label_map"] == "map.yaml"
    for name in ("README.md", "build.json", "load_report.json", "pictures.jsonl"):
        assert "winter" not in (place / "set" / name).read_text(), name


def test_an_index_says_which_names_of_own_images_are_one_entity(source, tmp_path):
    generator = np.random.default_rng(1)
    rows = []
    for number in range(2, 40):
        for turn, name in enumerate([f"Person{number}", f"Person{number}o"] * 3):
            tokens = [name, *(f"word{word}" for word in generator.integers(0, 10_000, 8))]
            row = {"id": f"{number}-{turn}", "tokens": tokens, "ner_tags": ["B-PER"] + ["O"] * 8, "lang": "en"}
            rows.append(row | {"image": f"Person{number}.jpg" if turn == 0 else None})
    write_jsonl(tmp_path / "own" / "train.jsonl", *rows)
    torn = {}
    for given in ((), ("--image_index", str(source / "index.tsv"))):
        out = tmp_path / f"out{len(given)}"
        command = ["build", str(tmp_path / "own"), "--provider", "own", "--image_folder", str(source / "images")]
        command += ["--output_dir", str(out), "--unseen", "both", "--splits", "0.5,0.1,0.4", *given]
        assert main(command) == 0
        splits = {}
        for split, part in load(out, "en").items():
            for row_id in part["id"]:
                splits.setdefault(row_id.split("-")[0], set()).add(split)
        torn[bool(given)] = sum(len(found) > 1 for found in splits.values())
        assert len(splits) == 38
    assert torn[False] > 0 and torn[True] == 0
    known = {photo["name"]: photo for photo in read_jsonl(out / "pictures.jsonl")}
    assert known["Person5.jpg"]["mentions"] == ["Person5", "Person5o"]
    assert known["Person5.jpg"]["licence"] == "CC BY 4.0" and known["Person5.jpg"]["types"] == ["PER"]


def test_command_line_builds_and_says_what_is_wrong(source, tmp_path, capsys):
    command = ["build", str(source), "--provider", "folder", "--output_dir", str(tmp_path / "out")]
    command += ["--image_index", str(source / "index.tsv")]
    assert main(command) == 0
    assert capsys.readouterr().out.strip().endswith("out/README.md")
    write_file(tmp_path / "full" / "letter.txt", "mine")
    for wrong, message in (
        ([*command[:5], str(tmp_path / "full"), *command[6:]], "full holds letter.txt, which"),
        (command[:6], "needs --image_index"),
        ([*command, "--splits", "0.8,0.2"], "three numbers as 0.8,0.1,0.1"),
        ([*command, "--missing_share", "0.9"], "of at most 1 together"),
        (["build", str(tmp_path / "nowhere"), *command[2:]], "nowhere"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    assert not (tmp_path / "full.work").exists()


def test_nothing_but_what_it_wrote_is_replaced(source, tmp_path, capsys):
    """The dataset of an earlier call is; one with notes, and what a workspace holds besides, are not."""
    out, work = tmp_path / "out", tmp_path / "work"
    mine = {"images/holiday.jpg": b"a", ".build-x/c": b"c"}
    for name, content in mine.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    command = ["build", str(source), "--provider", "own", "--output_dir", str(out), "--workspace", str(work)]
    assert main(command) == main(command) == 0
    assert contents_of(work) == mine
    files = contents_of(out)
    (out / "notes.md").write_text("mine")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{out} holds notes.md" in error and "name a new or an empty folder" in error
    assert contents_of(out) == files | {"notes.md": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


def test_links_out_of_the_image_folder_do_not_come_into_the_set(source, tmp_path, caplog):
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    (images / "own.jpg").write_bytes((source / "images" / "Person1.jpg").read_bytes())
    (images / "private.jpg").symlink_to(source / "images" / "Person2.jpg")
    os.mkfifo(images / "pipe.jpg")
    names = ["own.jpg", "private.jpg", "pipe.jpg"]
    rows = [
        {"id": name, "tokens": ["Oslo", *FILLER_WORDS[number:]], "lang": "en", "image": name,
         "ner_tags": ["B-LOC", *["O"] * (16 - number)]}
        for number, name in enumerate(names)
    ]  # fmt: skip
    write_jsonl(tmp_path / "set" / "train.jsonl", *rows)
    index = "file\ttypes\tmentions\n" + "".join(f"{name}\tLOC\tOslo\n" for name in names)
    (tmp_path / "set" / "index.tsv").write_text(index)
    command = ["build", str(tmp_path / "set"), "--splits", "source", "--unseen", "none", "--missing_share", "0"]
    for provider in (["own"], ["folder", "--image_index", str(tmp_path / "set" / "index.tsv")]):
        out = tmp_path / provider[0]
        assert main([*command, "--output_dir", str(out), "--provider", *provider]) == 0
        assert {row["image_name"] for row in rows_of(out)} <= {"own.jpg", None}
        private = (source / "images" / "Person2.jpg").read_bytes()
        assert not any(private in path.read_bytes() for path in out.rglob("*.parquet"))
    counts = json.loads((out / "build.json").read_text())["counts"]["provider"]
    assert (counts["links out of the folder"], counts["missing files"], counts["images"]) == (1, 1, 1)
    assert "private.jpg is a link out of the image folder" in caplog.text
    report = load_report(load(tmp_path / "set", cache_dir=tmp_path / "cache")).total()
    assert report.causes == {"private.jpg": "a link out of the image folder, which is not followed"}
    assert (report.images, dict(report.missing)) == (1, {"pipe.jpg": 1})


def test_the_remedy_of_a_run_for_iob1_makes_a_set_in_iob2(tmp_path):
    """By the command that it names: a finished set whose tags are IOB1, which no run takes."""
    row = {"id": "a", "lang": "en", "tokens": "Ada in New York".split(), "ner_tags": "B-PER O B-LOC I-LOC".split()}
    write_jsonl(tmp_path / "set" / "train.jsonl", row)
    write_parquet(load(tmp_path / "set", cache_dir=tmp_path / "cache"), tmp_path / "iob1")
    path = tmp_path / "iob1" / "en" / "train-00000.parquet"
    table = pq.read_table(path)
    tags = pa.array([[4, 0, 2, 2]], table.schema.field("ner_tags").type)  # I-PER O I-LOC I-LOC
    pq.write_table(table.set_column(table.schema.get_field_index("ner_tags"), "ner_tags", tags), path)
    words = re.search(r"mmner data (.*) SET (.*) FOLDER,", REMEDIES["not IOB2"]).groups()
    command = [*words[0].split(), str(tmp_path / "iob1"), *words[1].split(), str(tmp_path / "iob2")]
    assert main(command) == 0
    rows = load(tmp_path / "iob2", cache_dir=tmp_path / "cache")["train"]
    names = rows.features["ner_tags"].feature.names
    assert [names[tag] for tag in rows[0]["ner_tags"]] == ["B-PER", "O", "B-LOC", "I-LOC"]


def test_a_dataset_of_the_same_name_and_size_is_read_as_itself(tmp_path):
    folders = [tmp_path / "set", tmp_path / "set", tmp_path / "other" / "set"]
    for name, folder in zip(("Ann", "Bob", "Cem"), folders, strict=True):
        (tmp_path / "rows.jsonl").write_text(json.dumps({"lang": "en", "tokens": [name], "ner_tags": ["B-PER"]}))
        build([tmp_path / "rows.jsonl"], folder, write_card=write_card)
        rows = next(iter(load(folder, cache_dir=tmp_path / "cache").values()))
        assert rows["tokens"][:] == [[name]]


def test_rows_of_other_languages_are_counted(tmp_path, caplog):
    rows = [{"tokens": ["Ann"], "ner_tags": ["B-PER"], "lang": lang} for lang in ("en", "it", "it")]
    write_jsonl(tmp_path / "train.jsonl", *rows, {"tokens": ["Bob"], "ner_tags": ["B-PER"]})
    build([tmp_path / "train.jsonl"], tmp_path / "out", write_card=write_card)
    left_out = json.loads((tmp_path / "out" / "build.json").read_text())["left_out"]
    assert left_out == {"skipped: of language it": 2, "skipped: of language und (--lang names it)": 1}
    assert "3 rows were skipped" in caplog.text
    assert "of language it | 2" in (tmp_path / "out" / "README.md").read_text()


def test_own_images_that_are_not_there_are_told(source, tmp_path, capsys, caplog):
    command = ["build", str(source), "--provider", "own", "--output_dir", str(tmp_path / "out"), "--image_folder"]
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere; expected a folder" in capsys.readouterr().err
    row = {"lang": "en", "tokens": ["Ann"], "ner_tags": ["B-PER"], "image": "gone.png"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    command[1] = str(tmp_path / "train.jsonl")
    assert main(command[:-1]) == 0
    assert "The images of 1 rows are missing" in caplog.text


def test_the_report_says_nothing_of_the_machine_and_a_source_is_refused_before_it_is_read(tmp_path, capsys):
    rows = [{"lang": lang, "tokens": ["Ann"], "ner_tags": ["O"]} for lang in ("en", "it")]
    write_jsonl(tmp_path / "train.jsonl", *rows)
    build([tmp_path / "train.jsonl"], tmp_path / "out", write_card=write_card)
    assert all(str(tmp_path.parent) not in path.read_text() for path in (tmp_path / "out").glob("*.*"))
    command = ["build", str(tmp_path / "out"), "--provider", "own", "--output_dir", str(tmp_path / "out")]
    assert main(command) == 2 and "holds what is read" in capsys.readouterr().err


def test_sources_have_different_names():
    assert source_names(["a/en", "b/en", "b/en-2"]) == ["a/en", "b/en", "b/en-2"]
    assert source_names(["x", "x", "x-2", "x"]) == ["x", "x-3", "x-2", "x-4"]
