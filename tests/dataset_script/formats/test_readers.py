"""Readers, row checks and what a corpus makes of malformed rows."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import SAMPLES, marked
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, Entities
from written_files import write_file, write_jsonl

from dataset_script import load
from dataset_script.formats.columns import read_imgid, read_numbered
from dataset_script.formats.corpus import Corpus
from dataset_script.formats.jsonl import read_json, read_jsonl
from dataset_script.formats.readers import read_source
from dataset_script.formats.registry import discover
from dataset_script.formats.words import Span, tag_words
from dataset_script.publishing.parquet import write_parquet
from dataset_script.report import LoadReport
from dataset_script.rows import LANGUAGES, MalformedRow, iob2_problems

GOOD = {"id": "a", "lang": "en", "tokens": ["In", "Paris"], "ner_tags": ["O", "B-LOC"], "image": None}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def scan(folder: Path, **options):
    return Corpus(folder, **options).scan()


def rows_of(folder: Path, **options):
    corpus = Corpus(folder, **options)
    inventory = corpus.scan()
    return [row for source in corpus.sources for row in corpus.examples(source, inventory)]


# JSONL


def test_jsonl_gives_every_field(tmp_path):
    record = GOOD | {"image": "x.jpg", "caption": "a city", "image_relation": "depicts", "source": "own"}
    (row,) = read_jsonl(write_jsonl(tmp_path / "train.jsonl", "", record, ""))
    assert (row.line, row.id, row.lang, row.tokens, row.tags) == (2, "a", "en", ["In", "Paris"], ["O", "B-LOC"])
    assert (row.image, row.caption, row.image_relation) == ("x.jpg", "a city", "depicts")
    assert row.ignored_keys == ("source",)


BAD_JSON = [
    ("{", "bad JSON", "expected one JSON object a line"),
    ({"id": "x", "ner_tags": []}, "missing key", "no text came (keys: id, ner_tags); expected one of tokens, words"),
    (GOOD | {"id": ""}, "wrong value", "id is ''"),
    (GOOD | {"tokens": "In Paris"}, "wrong value", "tokens is 'In Paris'; expected a list of strings"),
    (GOOD | {"ner_tags": [0, 1]}, "wrong value", "an item of ner_tags is 0; expected a string, or the names of"),
    (GOOD | {"ner_tags": [-1, -1]}, "no gold label", "-1 came as tag 1 (token 'In'), which is no gold label"),
    (GOOD | {"image": ""}, "wrong value", "image is ''; expected a file name or null"),
    (GOOD | {"image_relation": "shows"}, "wrong value", "image_relation is 'shows'"),
    (GOOD | {"image": "../secret.png"}, "bad image", "inside the image folder"),
    (GOOD | {"lang": "italian"}, "unknown language", "'italian' came; expected a code such as en, it or pt-BR"),
    (GOOD | {"lang": "de"}, "wrong language", "language 'de' came; expected 'en'"),
    (GOOD | {"ner_tags": ["O"]}, "length mismatch", "2 tokens and 1 ner_tags came"),
    (GOOD | {"ner_tags": ["O", "LOC"]}, "not IOB2", "'LOC' came as tag 2 (token 'Paris'); expected O, B-TYPE"),
    ('{"id": "x", "tokens": ["\\ud800"], "ner_tags": ["O"]}', "bad text", "half a surrogate pair"),
    (GOOD, "duplicate id", "id 'a' came before in this file"),
]


@pytest.mark.parametrize(("record", "reason", "detail"), BAD_JSON)
def test_malformed_jsonl_names_file_and_line_or_is_left_out_and_counted(tmp_path, record, reason, detail):
    path = write_jsonl(tmp_path / "en" / "train.jsonl", GOOD, record, GOOD | {"id": "z"})
    with pytest.raises(MalformedRow) as caught:
        scan(tmp_path)
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, 2, reason)
    assert str(caught.value).startswith(f"{path}:2: ") and detail in str(caught.value)
    assert [row["id"] for row in rows_of(tmp_path, errors="skip")] == ["a", "z"]
    part = scan(tmp_path, errors="skip").report.total("train")
    assert part.rows == 2 and part.skipped == {reason: 1}
    assert part.skip_examples[0].startswith("en/train.jsonl:2: ")


def test_bytes_that_are_no_utf8_are_malformed(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + '{"id": "é"}\n'.encode("latin-1"))
    with pytest.raises(MalformedRow, match=r"train\.jsonl:2: byte 0xe9 came at column 9; expected UTF-8"):
        scan(tmp_path)
    assert scan(tmp_path, errors="skip").report.total().skipped == {"not UTF-8": 1}


def test_ids_are_unique_in_a_file_integers_as_text_and_may_repeat_across_files(tmp_path):
    write_jsonl(tmp_path / "en" / "train.jsonl", GOOD | {"id": 5})
    write_jsonl(tmp_path / "en" / "test.jsonl", GOOD | {"id": 5})
    assert scan(tmp_path).report.total().rows == 2
    write_jsonl(tmp_path / "en" / "train.jsonl", GOOD | {"id": 5}, GOOD | {"id": "5"})
    with pytest.raises(MalformedRow, match=":2: id '5' came before"):
        scan(tmp_path)


def test_flat_jsonl_has_the_language_of_the_row_or_the_option_or_none(tmp_path):
    bare = {key: value for key, value in GOOD.items() if key != "lang"}
    write_jsonl(tmp_path / "train.jsonl", GOOD | {"lang": "de"}, bare | {"id": "b"})
    assert [row["lang"] for row in rows_of(tmp_path)] == ["de", "und"]
    assert [row["lang"] for row in rows_of(tmp_path, lang="pt-BR")] == ["de", "pt-BR"]
    with pytest.raises(ValueError, match="is 'Portuguese'; expected a code such as en, it or pt-BR"):
        scan(tmp_path, lang="Portuguese")


# IMGID


def test_imgid_sentences(tmp_path):
    text = (
        "\ufeffIMGID:17_06_1\r\nParis\tB-LOC\r\n\xa0\tO\r\n\tO\r\nx \tO \r\n\r\n"
        "IMGID:2.png\r\nIMGID: 3\r\nno O\r\ntab I-LOC\r\n  \r\nIMGID:4"
    )
    rows = list(read_imgid(write_file(tmp_path / "train.txt", text)))
    assert [(row.id, row.line, row.image) for row in rows] == [
        ("17_06_1", 1, "17_06_1.*"),
        ("2.png", 7, "2.png"),
        ("3", 8, "3.*"),
        ("4", 12, "4.*"),
    ]
    assert [row.tokens for row in rows] == [["Paris", "\xa0", "", "x "], [], ["no", "tab"], []]
    assert [row.tags for row in rows] == [["B-LOC", "O", "O", "O"], [], ["O", "I-LOC"], []]


BAD_IMGID = [
    ("a\tO\n\n", 4, "no IMGID", "a token came before any IMGID: line"),
    ("IMGID:\na\tO\n\n", 4, "no IMGID", "'IMGID:' came without an id"),
    ("IMGID:2\na\tO\nb\n\n", 6, "bad line", "'b' came; expected token<TAB>tag"),
    ("IMGID:1\na\tO\n\n", 4, "duplicate id", "id '1' came before"),
]


@pytest.mark.parametrize(("text", "line", "reason", "detail"), BAD_IMGID)
def test_malformed_imgid_names_the_line_and_costs_one_sentence(tmp_path, text, line, reason, detail):
    path = write_file(tmp_path / "train.txt", f"IMGID:1\nx\tO\n\n{text}IMGID:9\nz\tO\n")
    with pytest.raises(MalformedRow) as caught:
        scan(tmp_path)
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, line, reason)
    assert detail in str(caught.value)
    assert [row["id"] for row in rows_of(tmp_path, errors="skip")] == ["1", "9"]
    assert scan(tmp_path, errors="skip").report.total("train", "en").skipped == {reason: 1}


def test_captions_are_matched_and_counted(tmp_path):
    write_file(tmp_path / "train.txt", "IMGID:1\na\tO\n\nIMGID:2\nb\tO\n\nIMGID:3.png\nc\tO\n\nIMGID:4\nd\tO\n")
    captions = write_file(tmp_path / "BLIP.txt", "1.jpg :a: b :c \n\n3.png :three\n4.jpg :\n1.jpg :a: b :c \n")
    assert [row["caption"] for row in rows_of(tmp_path, captions="BLIP.txt")] == ["a: b :c ", None, "three", ""]
    assert scan(tmp_path, captions="BLIP.txt").report.total().without_caption == 1
    assert "caption" not in scan(tmp_path).columns
    for line, reason in (("1.jpg :two", "duplicate caption"), ("broken", "bad caption")):
        captions.write_text(f"1.jpg :one\n{line}\n")
        with pytest.raises(MalformedRow, match=r"BLIP\.txt:2: .* came; expected") as caught:
            scan(tmp_path, captions=captions)
        assert caught.value.reason == reason
        assert scan(tmp_path, captions=captions, errors="skip").report.bad_captions == {reason: 1}


# The samples of the field's formats: (format, split, language, id, "token|tag ..."), image and URL where there is one

BOAT = "https://upload.example/commons/0/06/Boat-2007.jpg"
BOAT_FILE = "845b447f070ea139af8322a8fb3b585b.*"
PANDA = "https://img.example/a/panda.jpg"
WIKIDIVERSE = "Ida|B-Person Brand|I-Person 's boat , in Bergen|B-Location -Vest ( 2007 ) ."
FORMATS = {
    "umt": [
        ("train", "en", "1001", "Ada|B-PER sails to Bergen|B-LOC", "1001.*", None),
        ("train", "en", "1002", "nice boat", "1002.*", None),
        ("validation", "en", "17_06_9", "Galaxy|B-OTHER Team|I-OTHER wins", "17_06_9.*", None),
        ("test", "en", "O_77", "@ Milla|B-PER", "O_77.*", None),
    ],
    "gmner": [
        ("train", "en", "16_05_1", "Lena|B-PER in Graz|B-LOC", "16_05_1.*", None),
        ("train", "en", "16_05_2", "# fun", "16_05_2.*", None),
        ("validation", "en", "16_05_3", "Oslo|B-LOC", "16_05_3.*", None),
    ],
    "fmnerg": [
        ("train", "en", "5", "Lena|B-person Borg|I-person at Dome|B-building", "5.*", None),
        ("train", "en", "6", "RT", "6.*", None),
    ],
    "wikineural": [
        ("train", "de", "0", "Der Fluss Alra|B-LOC", None, None),
        ("train", "de", "1", "Ida|B-PER Brand|I-PER singt", None, None),
        ("validation", "de", "0", "In Alra|B-LOC", None, None),
        ("train", "it", "0", "Il fiume", None, None),
    ],
    "multinerd": [
        ("train", "en", "0", "The Red|B-ANIM panda|I-ANIM in Alra|B-LOC", None, PANDA),
        ("train", "en", "1", "In 1999|B-TIME", None, None),
        ("validation", "en", "0", "Mars|B-CEL rises", None, None),
        ("train", "de", "0", "Am Mars|B-CEL", None, None),
        ("train", "it", "0", "Su Marte|B-CEL", None, None),
    ],
    "conll2002": [
        ("train", "es", "0", "El río Alra|B-LOC baja", None, None),
        ("train", "es", "1", "Señor Ibáñez|B-PER", None, None),
        ("validation", "es", "0", "Ana|B-PER", None, None),
        ("train", "nl", "0", "De Alra|B-LOC", None, None),
    ],
    "conll2003": [
        ("train", "en", "0", "Alra|B-ORG meets Ida|B-PER Brand|I-PER Max|B-PER .", None, None),
        ("train", "en", "1", "Rain in Bergen|B-LOC Vest|B-ORG", None, None),
        ("validation", "en", "0", "Oslo|B-LOC", None, None),
        ("test", "en", "0", "Oslo|B-LOC AS|I-LOC", None, None),
        ("train", "de", "0", "Der Fluss Alra|B-LOC", None, None),
    ],
    "conll2003_iob2": [("train", "en", "0", "Alra|B-ORG meets Ida|B-PER Max|B-PER", None, None)],
    "wikidiverse": [
        ("train", "en", "0", WIKIDIVERSE, BOAT_FILE, BOAT),
        ("train", "en", "1", "No names here .", BOAT_FILE, BOAT),
        ("validation", "en", "0", "Alra|B-Organization wins .", BOAT_FILE, BOAT),
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_samples_of_each_format(name, tmp_path):
    lang = "en" if name == "conll2003_iob2" else None
    report = LoadReport()
    rows = [
        (split, row.lang, row.id, marked(row.tokens, row.tags), row.image, row.image_url)
        for split, row in read_source(SAMPLES / name, lang=lang, report=report)
    ]
    assert rows == FORMATS[name]
    assert report.total().rows == len(rows) and not report.total().skipped
    dataset = load(SAMPLES / name, lang=lang, cache_dir=tmp_path)
    names = next(iter(dataset.values())).features["ner_tags"].feature.names
    loaded = [
        (split, row["lang"], row["id"], marked(row["tokens"], [names[tag] for tag in row["ner_tags"]]))
        for split, rows in dataset.items()
        for row in rows
    ]
    assert sorted(loaded) == sorted(row[:4] for row in FORMATS[name])


def test_what_has_no_column_and_what_is_converted_is_counted(caplog, tmp_path):
    report = LoadReport()
    list(read_source(SAMPLES / "conll2003", report=report))
    # Entities begin seven times after O, the edge or another type; only Max follows one of his own type.
    assert report.total().repaired_tags == 7 and report.total("train", "de").repaired_tags == 1
    assert report.ignored_keys == {"column 2": 5, "column 3": 5, "column 4": 1}
    # A copy: of each file it is said once that it is not UTF-8.
    list(read_source(shutil.copytree(SAMPLES / "conll2002", tmp_path / "conll2002"), ["es"]))
    assert "left out, as of other languages: ned.train" in caplog.text
    assert "is read as ISO-8859-1: 3 of its lines are not UTF-8, 0 are" in caplog.text


def test_only_the_languages_asked_for_are_read(tmp_path):
    rows = list(read_source(SAMPLES / "multinerd", ("de",)))
    assert [row.lang for _, row in rows] == ["de"]
    with pytest.raises(ValueError, match=r"has no rows in fr"):
        list(read_source(SAMPLES / "multinerd", ["fr"]))
    for wrong in ("de", []):
        with pytest.raises(ValueError, match="languages are"):
            list(read_source(SAMPLES / "multinerd", wrong))
    with pytest.raises(FileNotFoundError, match="neither a folder nor the name of a dataset"):
        list(read_source(tmp_path / "none"))


# The format by the content, split and language by the name


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("0\tCD\tO\n\n1\tCD\tO\n", "train.tsv", r"several formats \(numbered, conll\), .*'0\\tCD\\tO'.*would tell"),
        ("id\ttext\n1\tsome words\n", "train.tsv", r"no known format, its first lines are 'id\\ttext'.*imgid"),
        ("3\n", "train.json", "of no known format, .*expected one of jsonl, json"),
        ("IMGID:1\rParis\tB-LOC\r\rIMGID:2\rx\tO\r", "train.txt", "a carriage return came at column 8"),
    ],
)
def test_files_of_no_or_of_several_formats_say_what_was_seen(tmp_path, text, name, message):
    write_file(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        list(read_source(tmp_path, lang="en"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train_de.tsv", "train.tsv"], "train.tsv and train_de.tsv: expected all names to say a language, or none"),
        (["de/train_en.tsv"], "is in a folder of 'de', but its name says 'en'"),
        (["deu.train", "train_de.txt"], "holds deu.train, train_de.txt: expected one file for the split 'train'"),
        (["it/train.txt", "de/train.txt", "extra/train.txt"], "holds splits in extra, expected folders named"),
        ([], "holds no dataset: expected train, validation or test"),
        (["train.txt", "en/test.txt"], "not both"),
    ],
)
def test_names_that_contradict_each_other(tmp_path, files, message):
    for file in files:
        write_file(tmp_path / file, "a\tO\nb\tO\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        discover(tmp_path)


# Columns


@pytest.mark.parametrize(
    ("text", "line", "reason", "detail"),
    [
        ("0\ta\n", 4, "bad line", "'0\\ta' came; expected number<TAB>token<TAB>tag"),
        ("0\ta\tO\n2\tb\tO\n", 5, "bad number", "token 2 came; expected 1"),
        ("7\ta\tO\n", 4, "bad number", "token 7 came; expected 0 or 1 at the start"),
    ],
)
def test_malformed_numbered_tokens_cost_one_sentence(tmp_path, text, line, reason, detail):
    good = "0\tx\tO\n1\ty\tO\n\n"
    path = write_file(tmp_path / "train_en.tsv", good + text + "\n" + good * 30)
    with pytest.raises(MalformedRow) as caught:
        list(read_source(tmp_path))
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, line, reason)
    assert detail in str(caught.value)
    report = LoadReport()
    ids = [row.id for _, row in read_source(tmp_path, errors="skip", report=report)]
    assert ids == [str(number) for number in range(32) if number != 1]
    assert report.total("train", "en").skipped == {reason: 1}


def test_numbered_tokens_keep_white_space_and_take_only_urls_of_images(tmp_path):
    text = "1\t\xa0\tO\thttps://en.example/wiki/A\n2\t\tO\n3\tb c\tO\t\thttps://c.example/Special:FilePath/B%20c\n"
    (row,) = read_numbered(write_file(tmp_path / "train.tsv", text))
    assert row.tokens == ["\xa0", "", "b c"]
    assert row.image_url == "https://c.example/Special:FilePath/B%20c" and row.ignored_keys == ("column 4",)


def test_a_few_broken_lines_of_utf8_are_reported_and_not_guessed_at(tmp_path):
    path = write_file(tmp_path / "esp.train", "río O\nseñor O\n\n")
    path.write_bytes(path.read_bytes() + "año O\n".encode("latin-1"))
    with pytest.raises(MalformedRow, match=r"esp\.train:4: byte 0xf1"):
        list(read_source(tmp_path))
    assert [row.tokens for _, row in read_source(tmp_path, errors="skip")] == [["río", "señor"]]


CHUNKS = "Anna B-NP B-PER\nsings B-VP O\nin B-PP O\nBergen B-NP B-LOC\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (CHUNKS, "2 and 3"),
        ("Anna B-PER O\nsings O O\n", "2 and 3"),
        ("Anna NNP B-PER B-singer\nsings VB O O\n", "3 and 4"),
        ("0\tAnna\tB-NP\tB-PER\n1\tsings\tB-VP\tO\n", "3 and 4"),
    ],
)
def test_several_columns_that_look_like_tags_are_ambiguous(tmp_path, text, columns):
    path = write_file(tmp_path / "train.txt", text)
    for errors in ("raise", "skip"):
        with pytest.raises(ValueError) as caught:
            list(read_source(tmp_path, lang="en", errors=errors))
        expected = f"{path}: the columns {columns} look like tags .*name the one to read by tags_column"
        assert re.match(expected, str(caught.value)) and not isinstance(caught.value, MalformedRow)


@pytest.mark.parametrize(
    ("text", "tags_column", "tags"),
    [
        (CHUNKS, 3, ["B-PER", "O", "O", "B-LOC"]),
        (CHUNKS, 2, ["B-NP", "B-VP", "B-PP", "B-NP"]),
        ("0\tAnna\tB-NP\tB-PER\n1\tsings\tB-VP\tO\n", 4, ["B-PER", "O"]),
        # One column alone looks like tags, wherever it stands; and the known kinds, as published.
        ("Anna B-PER NNP\nsings O VB\n", None, ["B-PER", "O"]),
        ("Anna Anna NE B-NC B-PER\nsingt singen VV B-VC O\n", None, ["B-PER", "O"]),
        ("1\tAnna\tNNP\tB-NP\tB-PER\n2\tsings\tVB\tB-VP\tO\n", None, ["B-PER", "O"]),
        ("IMGID:1\nAnna\tB-person\tB-singer\nsings\tO\tO\n", None, ["B-person", "O"]),
        # CoNLL-2003's chunks, for whoever asks for them.
        ("Anna NNP B-NP B-PER\nsings VB B-VP O\n", 3, ["B-NP", "B-VP"]),
    ],
)
def test_the_column_of_the_tags(tmp_path, text, tags_column, tags):
    write_file(tmp_path / "train.txt", text)
    ((_, row),) = read_source(tmp_path, lang="en", tags_column=tags_column)
    assert row.tags == tags and row.tokens[0] == "Anna"


@pytest.mark.parametrize("tags_column", [0, 1, 4, -3, -4])
def test_a_column_that_is_none_of_the_tags(tmp_path, tags_column):
    write_file(tmp_path / "train.txt", CHUNKS)
    with pytest.raises(
        ValueError, match=rf"--tags_column\) is {tags_column}, but .* has 3 columns .*from 2 to 3, or -1"
    ):
        list(read_source(tmp_path, lang="en", tags_column=tags_column))


def test_a_tag_column_has_no_use_where_there_are_no_columns(tmp_path):
    write_file(tmp_path / "marked" / "train.txt", "[Anna|PER] sings\n")
    with pytest.raises(
        ValueError, match=r"holds markup files, where tags_column \(--tags_column\) has no use: leave it out"
    ):
        list(read_source(tmp_path / "marked", tags_column=3))
    write_jsonl(tmp_path / "json" / "train.jsonl", GOOD)
    folder = write_parquet(load(tmp_path / "json", cache_dir=tmp_path / "cache"), tmp_path / "written")
    with pytest.raises(ValueError, match="tags_column has no use"):
        list(read_source(folder, tags_column=3))
    with pytest.raises(ValueError, match="where tags_column has no use: leave it out"):
        load(folder, tags_column=3)


# Rows without gold labels

HIDDEN = [None, [-1, -1], [-100, -100], [None, None]]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_test_split_may_have_no_gold_labels_at_all(tmp_path, hidden):
    write_jsonl(tmp_path / "train.jsonl", GOOD)
    write_jsonl(tmp_path / "test.jsonl", GOOD | {"ner_tags": hidden}, GOOD | {"id": "b", "tokens": [], "ner_tags": []})
    dataset = load(tmp_path, cache_dir=tmp_path / "cache")
    assert dataset["test"]["ner_tags"][:] == [[-1, -1], []]
    assert dataset["train"]["ner_tags"][:] == [[0, 1]]
    assert dataset["test"].features["ner_tags"].feature.names == ["O", "B-LOC", "I-LOC"]
    # It can be written and read again, its card counting no entities in it; a builder of splits has no use for it.
    folder = write_parquet(dataset, tmp_path / "written")
    assert load(folder, cache_dir=tmp_path / "cache")["test"]["ner_tags"][:] == [[-1, -1], []]
    for source in (tmp_path, folder):
        with pytest.raises(MalformedRow, match=r"came as tag 1 \(token 'In'\), which is no gold label"):
            list(read_source(source))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_other_rows_may_not(tmp_path, split):
    path = write_jsonl(tmp_path / f"{split}.jsonl", GOOD, GOOD | {"id": "b", "ner_tags": [-1, -1]})
    with pytest.raises(MalformedRow) as caught:
        load(tmp_path, cache_dir=tmp_path / "cache")
    assert str(caught.value).startswith(f"{path}:2: -1 came as tag 1 (token 'In'), which is no gold label")
    assert [row["id"] for row in rows_of(tmp_path, errors="skip")] == ["a"]


# WikiDiverse


@st.composite
def texts_with_mentions(draw):
    text = draw(st.text(st.sampled_from("ab É3.-' (\u2019\n"), min_size=1, max_size=24))
    spans, start = [], 0
    for kind in draw(st.lists(st.sampled_from(["PER", "LOC"]), max_size=4)):
        if start >= len(text):
            break
        start = draw(st.integers(start, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        if text[start:end].strip():
            spans.append((start, end, kind))
        start = end
    return text, spans


@settings(max_examples=300, deadline=None)
@given(texts_with_mentions())
def test_the_entities_of_the_words_are_the_mentions(case):
    text, mentions = case
    stripped = []
    for start, end, kind in mentions:
        inner = text[start:end]
        first = start + len(inner) - len(inner.lstrip())
        stripped.append(Span(first, first + len(inner.strip()), kind))
    words, tags = tag_words(text, stripped)
    assert "".join(words) == "".join(text.split()) and all(words)
    found = [("".join(words[start : end + 1]), kind) for kind, start, end in get_entities(tags)]
    assert found == [("".join(text[start:end].split()), kind) for start, end, kind in mentions]
    assert not list(iob2_problems(tags))


@pytest.mark.parametrize(
    ("item", "reason", "detail"),
    [
        ({"a": 1}, "missing key", "no text came (keys: a)"),
        ([1, "u", "t", []], "missing key", "no text came"),
        (["a b", None, "t", [["a", "X", 0]]], "wrong value", "a span is {'text': 'a', 'label': 'X', 'start': 0}"),
        (["a b", None, "t", [["a", "X", 0, 9, ""]]], "misplaced span", "'a' came, but 'a b' stands at 0:9"),
        (["a b", None, "t", [["b", "X", 0, 1, ""]]], "misplaced span", "'b' came, but 'a' stands at 0:1"),
        (
            ["a b c", None, "t", [["a b", "X", 0, 3, ""], ["b c", "Y", 2, 5, ""]]],
            "overlapping spans",
            "'a b' (X) and 'b c' (Y) overlap",
        ),
    ],
)
def test_malformed_items_of_wikidiverse_are_numbered(tmp_path, item, reason, detail):
    good = ["Ida", None, "t", [["Ida", "Person", 0, 3, "u"], ["Ida ", "Person", 0, 3, "u"]]]
    path = write_file(tmp_path / "train.json", [good, item, good])
    with pytest.raises(MalformedRow) as caught:
        list(read_source(tmp_path))
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, 2, reason)
    assert detail in str(caught.value)
    report = LoadReport()
    rows = [row for _, row in read_source(tmp_path, errors="skip", report=report)]
    # Given twice, it counts once; and no image is named where there is none.
    assert [(row.id, row.tags, row.image, row.image_url) for row in rows] == [
        ("0", ["B-Person"], None, None),
        ("2", ["B-Person"], None, None),
    ]
    assert report.total().skipped == {reason: 1}


@pytest.mark.parametrize(
    ("content", "reason"), [(b"[1, ", "bad JSON"), (b'["\xff"]', "not UTF-8"), (b"[" * 100_000, "bad JSON")]
)
def test_a_file_of_wikidiverse_that_does_not_parse_is_one_problem(tmp_path, content, reason):
    (tmp_path / "train.json").write_bytes(content)
    (problem,) = read_json(tmp_path / "train.json")
    assert isinstance(problem, MalformedRow) and (problem.line, problem.reason) == (1, reason)


# IOB2


ENTITIES = st.lists(
    st.tuples(st.sampled_from(["PER", "LOC", "O"]), st.integers(1, 3)), min_size=1, max_size=8
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTITIES, min_size=1, max_size=3))
def test_iob1_becomes_iob2_without_loss(tmp_path, sentences):
    written = []
    for sentence in sentences:
        tags, previous = [], "O"
        for kind, length in sentence:
            begin = "O" if kind == "O" else f"{'B' if kind == previous else 'I'}-{kind}"
            tags += [begin] + ["O" if kind == "O" else f"I-{kind}"] * (length - 1)
            previous = kind
        written.append(tags)
    write_file(tmp_path / "eng.train", "\n".join("".join(f"w NN {tag}\n" for tag in tags) for tags in written))
    report = LoadReport()
    rows = [row.tags for _, row in read_source(tmp_path, report=report)]
    changed = 0
    for before, after in zip(written, rows, strict=True):
        changed += sum(old != new for old, new in zip(before, after, strict=True))
        entities = Entities([before], IOB1).entities[0], Entities([after], IOB2).entities[0]
        one, other = ([(entity.start, entity.end, entity.tag) for entity in found] for found in entities)
        assert one == other
    assert report.total().repaired_tags == changed


def test_iob1_is_an_error_where_iob2_is_asked_for(tmp_path):
    write_file(tmp_path / "eng.train", "Alra NNP I-LOC\n\n" * 5)
    with pytest.raises(MalformedRow, match="'I-LOC' came as tag 1"):
        list(read_source(tmp_path, iob2="strict"))
    # Mixed tags are of no scheme: they are not guessed at.
    write_file(tmp_path / "eng.train", "Alra NNP I-LOC\n\n" * 5 + "Alra NNP B-LOC\n\n" * 5)
    with pytest.raises(MalformedRow, match="'I-LOC' came as tag 1"):
        list(read_source(tmp_path))
    assert len(list(read_source(tmp_path, iob2="repair"))) == 10


def test_an_inside_tag_that_begins_an_entity_is_repaired_and_counted_or_malformed(tmp_path):
    path = write_file(tmp_path / "train.txt", "IMGID:1\na\tO\nb\tI-PER\nc\tI-PER\nd\tI-LOC\n\nIMGID:2\ne\tB-LOC\n")
    report = scan(tmp_path, iob2="repair").report
    assert [row["ner_tags"] for row in rows_of(tmp_path, iob2="repair")] == [[0, 3, 4, 1], [1]]
    assert report.total().repaired_tags == 2
    assert report.warnings()[1].startswith("train: 2 I- tags that begin an entity were read as B-: ")
    with pytest.raises(MalformedRow, match=r"'I-PER' came as tag 2 \(token 'b'\) after 'O'.*iob2='repair'") as caught:
        scan(tmp_path, iob2="strict")
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert [row["id"] for row in rows_of(tmp_path, iob2="strict", errors="skip")] == ["2"]


@pytest.mark.parametrize(("sound", "repaired"), [(9, True), (8, False)])
def test_a_few_slips_are_repaired_and_another_scheme_is_not_guessed_at(tmp_path, sound, repaired):
    blocks = [f"IMGID:{number}\na\tB-PER\n\n" for number in range(sound)]
    write_file(tmp_path / "train.txt", "".join(blocks) + "IMGID:slip\na\tO\nb\tI-PER\n")
    if repaired:
        assert Corpus(tmp_path).scan(LANGUAGES).report.total().repaired_tags == 1
    else:
        with pytest.raises(MalformedRow, match=r"train.txt:27: 'I-PER' came as tag 2.*iob2='repair'"):
            scan(tmp_path)
        assert len(rows_of(tmp_path, errors="skip")) == sound


# The folder


def test_a_folder_a_language_takes_no_other(tmp_path):
    write_file(tmp_path / "fr" / "train.txt", "IMGID:1\na\tO\n")
    with pytest.raises(ValueError, match="lang='de' was given, but .* has a folder a language"):
        Corpus(tmp_path, lang="de")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"errors": "ignore"}, ValueError, "errors .* is 'ignore'; expected one of raise, skip"),
        ({"iob2": "iob1"}, ValueError, "iob2 .* is 'iob1'"),
        ({"captions": "none.txt"}, FileNotFoundError, "captions is 'none.txt'"),
        ({"image_folder": "train.txt"}, ValueError, "expected a folder"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, error, message):
    write_file(tmp_path / "train.txt", "IMGID:1\na\tO\n")
    with pytest.raises(error, match=message):
        Corpus(tmp_path, **options)


def test_files_that_look_like_parts_of_a_split_are_named(tmp_path, caplog):
    row = json.dumps({"id": "1", "tokens": ["a"], "ner_tags": ["O"], "lang": "en"}) + "\n"
    for name in ("train.jsonl", "train-00001.jsonl", "validation_1.jsonl", "trainer.json", "notes.txt"):
        (tmp_path / name).write_text(row)
    assert len(list(read_source(tmp_path))) == 1
    (warning,) = (record.getMessage() for record in caplog.records if "not read" in record.getMessage())
    assert warning.startswith(f"{tmp_path}: not read: train-00001.jsonl, validation_1.jsonl. ")
