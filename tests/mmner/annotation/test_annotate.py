"""Annotation of files and folders: what is read, what is written, and runs that are ended on the way."""

import csv
import json
from pathlib import Path

import own_process
import pyarrow as pa
import pyarrow.parquet
import pytest
from test_load_image import encoded
from tiny_pipelines import TEXTS, plain_image, same
from written_files import read_jsonl, write_file

from mmner.annotation.annotate import annotate
from mmner.annotation.inputs import Columns, read_items
from mmner.annotation.outputs import FORMATS
from mmner.cli import main

SHOWN = [text for text in TEXTS if text]


def run(ner, source, output: Path, **options) -> list[dict]:
    annotate(ner, str(source), output, Columns(), options, {"model": "tiny"})
    return read_jsonl(output)


RED = encoded(plain_image("red"))


def write(kind: str, folder: Path) -> Path:
    """The texts of `SHOWN`, the second with an image, as a file or folder of this kind."""
    (folder / "images").mkdir()
    (folder / "images" / "red.png").write_bytes(RED)
    rows = [{"id": f"t{i}", "text": text, "image": "red.png" if i == 1 else None} for i, text in enumerate(SHOWN)]
    path = folder / f"posts.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind in ("csv", "tsv", "semicolon.csv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            separator = {"csv": ",", "tsv": "\t", "semicolon.csv": ";"}[kind]
            writer = csv.DictWriter(file, rows[0], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        image = {"bytes": RED, "path": None}
        pyarrow.parquet.write_table(
            pa.Table.from_pylist([{**row, "image": image if row["image"] else None} for row in rows]), path
        )
    elif kind == "folder":
        path.mkdir()
        for row in rows:
            (path / f"{row['id']}.png").write_bytes(RED)
            (path / f"{row['id']}.txt").write_text(row["text"] + "\n", encoding="utf-8")
    else:
        path.write_text("\n\n".join(SHOWN) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "semicolon.csv", "tsv", "parquet", "folder", "txt"])
def test_every_kind_of_input_gives_what_the_pipeline_gives(ner, kind, tmp_path):
    rows = run(ner, write(kind, tmp_path), tmp_path / "found.jsonl")
    images = [plain_image("red") if kind == "folder" or (kind != "txt" and i == 1) else None for i in range(5)]
    same([row["entities"] for row in rows], ner(SHOWN, images=images))
    assert [row["text"] for row in rows] == SHOWN and not any("error" in row for row in rows)
    ids = {"txt": "1 3 5 7 9".split(), "folder": [f"t{i}.png" for i in range(5)]}
    assert [row["id"] for row in rows] == ids.get(kind, [f"t{i}" for i in range(5)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.jsonl", "images", f"posts.{kind}"]


def test_columns_by_name_words_and_captions_of_a_folder(ner, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    (source / "a.png").write_bytes(RED)
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "caption": SHOWN[0], "text": "x"}))
    (item,) = read_items(str(source), Columns(text="caption"))
    assert (item.text, item.image) == (SHOWN[0], str(source / "a.png"))
    (tmp_path / "words.jsonl").write_text(json.dumps({"tokens": SHOWN[0].split()}))
    (row,) = run(ner, tmp_path / "words.jsonl", tmp_path / "out.jsonl")
    assert row["tokens"] == SHOWN[0].split() and row["entities"] == ner({"tokens": SHOWN[0].split()})


def test_what_cannot_be_read_stands_in_its_row(ner, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "red.png").write_bytes(RED)
    lines = [
        json.dumps({"text": SHOWN[0], "image": "broken.png"}),
        "{not json",
        json.dumps({"text": 7}),
        json.dumps({"text": SHOWN[1], "image": "lost.png"}),
        json.dumps({"text": SHOWN[0], "image": "red.png"}),
    ]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines))
    rows = run(ner, tmp_path / "posts.jsonl", tmp_path / "out.jsonl")
    same([row["entities"] for row in rows], [ner(SHOWN[0]), [], [], ner(SHOWN[1]), ner(SHOWN[0], plain_image("red"))])
    errors = [row.get("error", "") for row in rows]
    assert "broken.png cannot be read as an image" in errors[0] and errors[0].endswith("was read without an image.")
    assert "no JSON" in errors[1] and "'7'; expected a string" in errors[2] and "lost.png" in errors[3]
    assert errors[4] == ""


def test_no_cell_is_cut_off_and_no_id_is_lost(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n0,"Hello, Paris"\n,Hello, Paris\n7,Hello\n')
    first, second, third = read_items(str(tmp_path / "a.csv"), Columns())
    assert (first.id, first.text) == ("0", "Hello, Paris") and (third.id, third.text) == ("7", "Hello")
    assert second.text is None and second.error == "The row has 3 cells; expected 2, as the header. Quote the text."
    (tmp_path / "a.jsonl").write_text('{"id": 0, "text": "Paris"}\n"Paris"\n')
    first, second = read_items(str(tmp_path / "a.jsonl"), Columns())
    assert first.id == "0" and second.text is None and "expected an object" in second.error


def test_a_quote_swallows_no_rows(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tParis\n2\t"in Rome\n3\tthe end" of it\n4\t"Rome" is big\n')
    found = [item.text for item in read_items(str(tmp_path / "a.tsv"), Columns())]
    assert found == ["Paris", '"in Rome', 'the end" of it', '"Rome" is big']
    for name, text in (("a.csv", '1,Paris\n2,"in Rome\n3,Oslo\n'), ("b.csv", '1,Paris\n2,"in" Rome\n3,Oslo\n')):
        (tmp_path / name).write_text(f"id,text\n{text}")
        with pytest.raises(ValueError, match=rf"{name}:[34]: .*; correct the quotes there or before"):
            list(read_items(str(tmp_path / name), Columns()))


@pytest.mark.parametrize("suffix, text", [("csv", '"Hello, Paris"'), ("tsv", "Hello, Paris")])
def test_a_table_may_have_one_column(tmp_path, suffix, text):
    (tmp_path / f"a.{suffix}").write_text(f"text\n{text}\n")
    assert [item.text for item in read_items(str(tmp_path / f"a.{suffix}"), Columns())] == ["Hello, Paris"]


def test_each_row_of_jsonl_has_its_own_columns(tmp_path):
    rows = ['{"text": "Paris"}', '{"text": "Rome", "photo": "a.png"}', '{"tokens": ["Oslo"]}', '{"text": "x \\ud83d"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = list(read_items(str(tmp_path / "a.jsonl"), Columns(image="photo")))
    assert [(item.text, item.tokens, item.image) for item in found[:3]] == [
        ("Paris", None, None),
        ("Rome", None, "a.png"),
        (None, ["Oslo"], None),
    ]
    assert found[3].text is None and "which is no character" in found[3].error
    with pytest.raises(ValueError, match=r"has no column picture \(--image_column\)"):
        list(read_items(str(tmp_path / "a.jsonl"), Columns(image="picture")))


def test_a_folder_may_hold_texts_alone_and_the_output(ner, tmp_path):
    folder = write("folder", tmp_path)
    (folder / "alone.txt").write_text(SHOWN[0])
    with pytest.raises(KeyboardInterrupt):
        run(Ending(ner, 2), folder, folder / "out.jsonl")
    rows = run(ner, folder, folder / "out.jsonl")
    assert len(rows) == len(SHOWN) + 1 and rows[0]["id"] == "alone.txt" and rows[0]["entities"]


@pytest.mark.parametrize("suffix, option", [(".conll", {"offsets": "utf-16"}), (".csv", {"top_k": 2})])
def test_an_option_that_a_format_cannot_hold_is_refused(ner, tmp_path, suffix, option):
    with pytest.raises(ValueError, match=f"has no place in a {suffix} file"):
        annotate(ner, str(write("jsonl", tmp_path)), tmp_path / f"out{suffix}", Columns(), option, {"model": "tiny"})


def test_a_caption_that_is_empty_or_of_another_encoding_is_told(ner, tmp_path):
    folder = write("folder", tmp_path)
    (folder / "t1.txt").write_text(" \n")
    (folder / "t2.txt").write_bytes("Müller in Köln".encode("latin-1"))
    (folder / "t3.txt").unlink()
    errors = [row.get("error", "") for row in run(ner, folder, tmp_path / "out.jsonl")]
    assert not errors[0] and not errors[4] and "t1.txt is empty" in errors[1]
    assert "t2.txt is not UTF-8" in errors[2] and "no caption t3.txt" in errors[3]


def test_every_kind_of_output_holds_the_same(ner, tmp_path):
    source = write("jsonl", tmp_path)
    rows = run(ner, source, tmp_path / "out.jsonl")
    for suffix in FORMATS:
        if suffix not in (".jsonl", ".spacy"):
            annotate(ner, str(source), tmp_path / f"out{suffix}", Columns(), {}, {"model": "tiny"})
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [(row["id"], e.get("word", "")) for row in rows for e in row["entities"] or [{}]]
    assert [(line["id"], line["word"]) for line in lines] == expected
    blocks = (tmp_path / "out.conll").read_text(encoding="utf-8").strip().split("\n\n")
    for row, block in zip(rows, blocks, strict=True):
        first, *words = block.split("\n")
        assert first == f"# id = {row['id']}"
        begun = [word.split("\t") for word in words if word.split("\t")[1].startswith("B-")]
        assert [tag[2:] for _, tag in begun] == [entity["entity_group"] for entity in row["entities"]]
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<mark") == sum(len(row["entities"]) for row in rows) and page.count("<img") == 1


def test_spacy_reads_what_is_written(ner, tmp_path):
    spacy = pytest.importorskip("spacy")
    source = write("jsonl", tmp_path)
    rows = run(ner, source, tmp_path / "out.jsonl")
    annotate(ner, str(source), tmp_path / "out.spacy", Columns(), {}, {"model": "tiny"})
    vocab = spacy.blank("xx").vocab
    for row, doc in zip(rows, spacy.tokens.DocBin().from_disk(tmp_path / "out.spacy").get_docs(vocab), strict=True):
        found = [(entity.text, entity.label_) for entity in doc.ents]
        assert found == [(entity["word"], entity["entity_group"]) for entity in row["entities"]]
        assert doc.text == row["text"]


class Ending:
    """A pipeline that is ended after some answers."""

    def __init__(self, ner, answers: int):
        self.ner, self.answers, self.processor, self.read = ner, answers, ner.processor, 0

    def __call__(self, inputs, **options):
        for found in self.ner(inputs, batch_size=1, **options):
            if self.read == self.answers:
                raise KeyboardInterrupt
            self.read += 1
            yield found


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_run_that_was_ended_goes_on_and_each_row_is_there_once(ner, tmp_path, monkeypatch, is_relative):
    source = write("jsonl", tmp_path)
    whole = run(ner, source, tmp_path / "whole.jsonl")
    monkeypatch.chdir(tmp_path)
    output = Path("out.jsonl") if is_relative else tmp_path / "out.jsonl"
    for done in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            run(Ending(ner, done), source, output)
        assert not output.exists()
        rows = tmp_path / "out.jsonl.unfinished" / "rows-0.jsonl"
        rows.write_bytes(rows.read_bytes() + b'[4, {"cut o')  # as a kill within a write leaves it
    last = Ending(ner, 99)
    rows = run(last, source, output)
    same([row.pop("entities") for row in rows], [row.pop("entities") for row in whole])
    assert rows == whole and last.read == 2
    assert not (tmp_path / "out.jsonl.unfinished").exists()


def test_rows_of_another_run_and_files_of_others_are_kept(ner, tmp_path):
    source = write("jsonl", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Ending(ner, 2), source, tmp_path / "out.jsonl")
    with pytest.raises(FileExistsError, match="a run with other options"):
        run(ner, source, tmp_path / "out.jsonl", min_score=0.5)
    with pytest.raises(FileExistsError, match="a run with other columns"):
        annotate(ner, str(source), tmp_path / "out.jsonl", Columns(text="id"), {}, {"model": "tiny"})
    source.write_text(source.read_text() + "\n")
    with pytest.raises(FileExistsError, match="a run with other input"):
        run(ner, source, tmp_path / "out.jsonl")
    write_file(tmp_path / "mine.jsonl.unfinished" / "letter", "mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        run(ner, source, tmp_path / "mine.jsonl")
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        run(ner, source, tmp_path / "there.jsonl")
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_two_processes_share_the_rows(tmp_path):
    source = write("folder", tmp_path)
    own_process.run(*own_process.TORCHRUN, "-m", "mmner", "predict", source, "--output", tmp_path / "two.jsonl")
    assert main(["predict", str(source), "--output", str(tmp_path / "one.jsonl")]) == 0
    two, one = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("two", "one"))
    same([row.pop("entities") for row in two], [row.pop("entities") for row in one])
    assert two == one and len(one) == 5
