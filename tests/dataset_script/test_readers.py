"""Readers, row checks and what a corpus makes of malformed rows."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from dataset_script.corpus import Corpus, _repair_tags
from dataset_script.readers import (
    LANGUAGES,
    MalformedRow,
    Row,
    discover,
    iob2_problems,
    read_captions,
    read_imgid,
    read_jsonl,
)

GOOD = {"id": "a", "lang": "en", "tokens": ["In", "Paris"], "ner_tags": ["O", "B-LOC"], "image": None}
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def jsonl(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def scan(folder: Path, **options):
    return Corpus(folder, **options).scan(LANGUAGES)


def rows_of(folder: Path, **options):
    corpus = Corpus(folder, **options)
    inventory = corpus.scan(LANGUAGES)
    return [row for source in corpus.sources for row in corpus.examples(source, inventory, LANGUAGES)]


# JSONL


def test_jsonl_gives_every_field(tmp_path):
    record = GOOD | {"image": "x.jpg", "caption": "a city", "image_relation": "depicts", "source": "own"}
    (row,) = read_jsonl(jsonl(tmp_path / "train.jsonl", "", record, ""))
    assert (row.line, row.id, row.lang, row.tokens, row.tags) == (2, "a", "en", ["In", "Paris"], ["O", "B-LOC"])
    assert (row.image, row.caption, row.image_relation, row.ignored_keys) == (
        "x.jpg",
        "a city",
        "depicts",
        ("source",),
    )


def test_bom_crlf_and_normal_forms_leave_the_text_alone(tmp_path):
    tokens = [
        unicodedata.normalize("NFD", "Müller"),
        unicodedata.normalize("NFC", "Müller"),
        "a\u2028b",
        "\u00a0",
        "👩‍🚀",
        "",
    ]
    record = {"id": "a", "tokens": tokens, "ner_tags": ["O"] * len(tokens)}
    text = "\r\n".join([json.dumps(record, ensure_ascii=False), json.dumps(GOOD | {"id": "b"}), ""])
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_jsonl(path)
    assert first.tokens == tokens and first.tokens[0] != first.tokens[1]
    assert second.line == 2 and second.tokens == GOOD["tokens"]


BAD_JSON = [
    ("{", "bad JSON", "expected one JSON object a line"),
    ("[" * 100_000, "bad JSON", "expected one JSON object a line"),
    ("[1]", "bad JSON", "a list came"),
    ({"tokens": [], "ner_tags": []}, "missing key", "no id (keys: tokens, ner_tags)"),
    ({"id": "x"}, "missing key", "no tokens, ner_tags"),
    (GOOD | {"id": ""}, "wrong value", "id is ''"),
    (GOOD | {"id": True}, "wrong value", "id is True"),
    (GOOD | {"tokens": "In Paris"}, "wrong value", "tokens is 'In Paris'; expected a list of strings"),
    (GOOD | {"tokens": ["In", 3]}, "wrong value", "an item of tokens is 3"),
    (GOOD | {"ner_tags": [0, 1]}, "wrong value", "an item of ner_tags is 0; expected a string"),
    (GOOD | {"image": ""}, "wrong value", "image is ''; expected a file name or null"),
    (GOOD | {"image": 7}, "wrong value", "image is 7"),
    (GOOD | {"image_relation": "shows"}, "wrong value", "image_relation is 'shows'"),
    (GOOD | {"image": "../secret.png"}, "bad image", "inside the image folder"),
    (GOOD | {"image": "/secret.png"}, "bad image", "inside the image folder"),
    (GOOD | {"lang": "it"}, "unknown language", "language 'it' came; expected one of en, de, fr, es"),
    (GOOD | {"lang": "de"}, "wrong language", "language 'de' came; expected 'en'"),
    (GOOD | {"ner_tags": ["O"]}, "length mismatch", "2 tokens and 1 ner_tags came"),
    (GOOD | {"ner_tags": ["O", "LOC"]}, "not IOB2", "'LOC' came as tag 2 (token 'Paris'); expected O, B-TYPE"),
    (GOOD | {"ner_tags": ["O", "S-LOC"]}, "not IOB2", "'S-LOC' came"),
    (GOOD | {"ner_tags": ["O", "B-"]}, "not IOB2", "'B-' came"),
    (GOOD | {"ner_tags": ["O", "B-LOC "]}, "not IOB2", "'B-LOC ' came"),
    (GOOD | {"ner_tags": ["O", ""]}, "not IOB2", "'' came"),
    ('{"id": "x", "tokens": ["\\ud800"], "ner_tags": ["O"]}', "bad text", "half a surrogate pair"),
    (GOOD, "duplicate id", "id 'a' came before in this file"),
]


@pytest.mark.parametrize(("record", "reason", "detail"), BAD_JSON)
def test_malformed_jsonl_names_file_and_line_or_is_left_out_and_counted(tmp_path, record, reason, detail):
    path = jsonl(tmp_path / "en" / "train.jsonl", GOOD, record, GOOD | {"id": "z"})
    with pytest.raises(MalformedRow) as caught:
        scan(tmp_path)
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, 2, reason)
    assert str(caught.value).startswith(f"{path}:2: ") and detail in str(caught.value)
    assert [row["id"] for row in rows_of(tmp_path, errors="skip")] == ["a", "z"]
    part = scan(tmp_path, errors="skip").report.total("train")
    assert part.rows == 2 and part.skipped == {reason: 1}
    assert part.skip_examples[0].startswith("en/train.jsonl:2: ")


def test_bytes_that_are_no_utf8_are_malformed(tmp_path):
    path = jsonl(tmp_path / "train.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + '{"id": "é"}\n'.encode("latin-1"))
    with pytest.raises(MalformedRow, match=r"train\.jsonl:2: byte 0xe9 came at column 9; expected UTF-8"):
        scan(tmp_path)
    assert scan(tmp_path, errors="skip").report.total().skipped == {"not UTF-8": 1}


def test_integer_ids_become_text_and_collide_with_it(tmp_path):
    jsonl(tmp_path / "train.jsonl", GOOD | {"id": 5}, GOOD | {"id": "5"})
    with pytest.raises(MalformedRow, match=":2: id '5' came before"):
        scan(tmp_path)


def test_ids_may_repeat_across_files(tmp_path):
    jsonl(tmp_path / "en" / "train.jsonl", GOOD)
    jsonl(tmp_path / "en" / "test.jsonl", GOOD)
    jsonl(tmp_path / "de" / "test.jsonl", GOOD | {"lang": "de"})
    assert scan(tmp_path).report.total().rows == 3


def test_flat_jsonl_needs_a_language_in_the_row_or_the_option(tmp_path):
    bare = {key: value for key, value in GOOD.items() if key != "lang"}
    jsonl(tmp_path / "train.jsonl", GOOD | {"lang": "de"}, bare | {"id": "b"})
    with pytest.raises(MalformedRow, match=r":2: no lang came.*give lang="):
        scan(tmp_path)
    assert [row["lang"] for row in rows_of(tmp_path, lang="fr")] == ["de", "fr"]


def test_keys_without_a_column_are_counted(tmp_path):
    jsonl(tmp_path / "train.jsonl", GOOD | {"source": "x"}, GOOD | {"id": "b", "source": "y"})
    report = scan(tmp_path).report
    assert report.ignored_keys == {"source": 2}
    assert "keys that no column takes were ignored: source (2 rows)" in report.warnings()


# IMGID


def imgid(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_imgid_sentences(tmp_path):
    text = (
        "\ufeffIMGID:17_06_1\r\nParis\tB-LOC\r\n\xa0\tO\r\n\tO\r\nx \tO \r\n\r\n"
        "IMGID:2.png\r\nIMGID: 3\r\nno O\r\ntab I-LOC\r\n  \r\nIMGID:4"
    )
    rows = list(read_imgid(imgid(tmp_path / "train.txt", text)))
    assert [(row.id, row.line, row.image) for row in rows] == [
        ("17_06_1", 1, "17_06_1.*"),
        ("2.png", 7, "2.png"),
        ("3", 8, "3.*"),
        ("4", 12, "4.*"),
    ]
    assert [row.tokens for row in rows] == [["Paris", "\xa0", "", "x "], [], ["no", "tab"], []]
    assert [row.tags for row in rows] == [["B-LOC", "O", "O", "O"], [], ["O", "I-LOC"], []]


def test_empty_sentences_are_kept_and_counted(tmp_path):
    imgid(tmp_path / "train.txt", "IMGID:1\n\nIMGID:2\na\tO\n")
    assert [row["tokens"] for row in rows_of(tmp_path)] == [[], ["a"]]
    report = scan(tmp_path).report
    assert report.total().empty_sentences == 1
    assert "train: 1 rows have no tokens" in report.warnings()


BAD_IMGID = [
    ("a\tO\n\n", 4, "no IMGID", "a token came before any IMGID: line"),
    ("IMGID:\na\tO\n\n", 4, "no IMGID", "'IMGID:' came without an id"),
    ("IMGID:2\na\tO\nb\n\n", 6, "bad line", "'b' came; expected token<TAB>tag"),
    ("IMGID:2\na\t\n\n", 5, "bad line", "expected token<TAB>tag"),
    ("IMGID:2\na\tNN\tO\n\n", 5, "bad line", "'a\\tNN\\tO' came"),
    ("IMGID:2\na b c O\n\n", 5, "bad line", "expected token<TAB>tag"),
    ("IMGID:2\na\tO\nb\tPER\n\n", 6, "not IOB2", "'PER' came as tag 2 (token 'b')"),
    ("IMGID:1\na\tO\n\n", 4, "duplicate id", "id '1' came before"),
]


@pytest.mark.parametrize(("text", "line", "reason", "detail"), BAD_IMGID)
def test_malformed_imgid_names_the_line_and_costs_one_sentence(tmp_path, text, line, reason, detail):
    path = imgid(tmp_path / "train.txt", f"IMGID:1\nx\tO\n\n{text}IMGID:9\nz\tO\n")
    with pytest.raises(MalformedRow) as caught:
        scan(tmp_path)
    assert (caught.value.path, caught.value.line, caught.value.reason) == (path, line, reason)
    assert detail in str(caught.value)
    assert [row["id"] for row in rows_of(tmp_path, errors="skip")] == ["1", "9"]
    assert scan(tmp_path, errors="skip").report.total("train", "en").skipped == {reason: 1}


def test_undecodable_line_costs_one_sentence(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"IMGID:1\nx\tO\n\xff\tO\ny\tO\n\nIMGID:2\nz\tO\n")
    with pytest.raises(MalformedRow, match=r"train\.txt:3: byte 0xff"):
        scan(tmp_path)
    assert [row["tokens"] for row in rows_of(tmp_path, errors="skip")] == [["z"]]


def test_captions(tmp_path):
    path = imgid(tmp_path / "captions.txt", "1.jpg :a: b :c \n\nmy file.jpg :\nbroken\n")
    first, second, third = read_captions(path)
    assert (first, second) == ((1, "1.jpg", "a: b :c "), (3, "my file.jpg", ""))
    assert (third.line, third.reason) == (4, "bad caption")


def test_captions_are_found_matched_and_counted(tmp_path):
    imgid(tmp_path / "train.txt", "IMGID:1\na\tO\n\nIMGID:2\nb\tO\n\nIMGID:3.png\nc\tO\n")
    imgid(tmp_path / "BLIP.txt", "1.jpg :one\n3.png :three\n")
    imgid(tmp_path / "notes.txt", "Some words.\n")
    assert [row["caption"] for row in rows_of(tmp_path)] == ["one", None, "three"]
    assert scan(tmp_path).report.total().without_caption == 1
    imgid(tmp_path / "other.txt", "1.jpg :uno\n")
    with pytest.raises(ValueError, match="several files of captions"):
        Corpus(tmp_path)
    assert [row["caption"] for row in rows_of(tmp_path, captions="other.txt")] == ["uno", None, None]


def test_contradicting_captions_are_malformed(tmp_path):
    imgid(tmp_path / "train.txt", "IMGID:1\na\tO\n")
    imgid(tmp_path / "captions.txt", "1.jpg :one\n1.jpg :one\n1.jpg :two\n")
    with pytest.raises(MalformedRow, match=r"captions\.txt:3: a second, other caption of 1\.jpg"):
        scan(tmp_path)
    report = scan(tmp_path, errors="skip").report
    assert report.bad_captions == {"duplicate caption": 1}
    assert [row["caption"] for row in rows_of(tmp_path, errors="skip")] == ["one"]


TEXT = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=("Cs",)), max_size=8)
SENTENCES = st.lists(
    st.lists(st.tuples(TEXT.filter(lambda text: not text.startswith("IMGID:")), st.sampled_from(TAGS)), max_size=6),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SENTENCES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_is_written_is_read(tmp_path, sentences, end, bom):
    blocks = [
        "".join(f"{line}{end}" for line in (f"IMGID:{number}", *(f"{token}\t{tag}" for token, tag in sentence)))
        for number, sentence in enumerate(sentences)
    ]
    path = imgid(tmp_path / "train.txt", "\ufeff" * bom + end.join(blocks))
    assert [list(zip(row.tokens, row.tags, strict=True)) for row in read_imgid(path)] == sentences
    records = [
        {"id": str(number), "tokens": [token for token, _ in sentence], "ner_tags": [tag for _, tag in sentence]}
        for number, sentence in enumerate(sentences)
    ]
    path = imgid(
        tmp_path / "train.jsonl",
        "\ufeff" * bom + "".join(json.dumps(record, ensure_ascii=False) + end for record in records),
    )
    assert [list(zip(row.tokens, row.tags, strict=True)) for row in read_jsonl(path)] == sentences


# IOB2


@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_repair_keeps_the_entities_that_seqeval_reads(tags):
    row = Row(Path("x"), 1, "a", "en", [""] * len(tags), list(tags))
    repairs = _repair_tags(row)
    assert get_entities(row.tags) == get_entities(tags)
    assert not list(iob2_problems(row.tags))
    assert len(repairs) == sum(old != new for old, new in zip(tags, row.tags, strict=True))
    # By the definition: the entities are as many as the B- tags once each has one of its own.
    assert len(get_entities(tags)) == sum(tag[0] == "B" for tag in row.tags)


def test_an_inside_tag_that_begins_an_entity_is_repaired_and_counted_or_malformed(tmp_path):
    path = imgid(tmp_path / "train.txt", "IMGID:1\na\tO\nb\tI-PER\nc\tI-PER\nd\tI-LOC\n\nIMGID:2\ne\tB-LOC\n")
    corpus = Corpus(tmp_path, iob2="repair")
    inventory = corpus.scan(LANGUAGES)
    assert inventory.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    tags = [[inventory.labels[tag] for tag in row["ner_tags"]] for row in rows_of(tmp_path, iob2="repair")]
    assert tags == [["O", "B-PER", "I-PER", "B-LOC"], ["B-LOC"]]
    assert inventory.report.total().repaired_tags == 2
    assert "train: 2 I- tags begin an entity" in inventory.report.warnings()[1]
    with pytest.raises(MalformedRow, match=r"'I-PER' came as tag 2 \(token 'b'\) after 'O'.*iob2='repair'") as caught:
        scan(tmp_path, iob2="strict")
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert [row["id"] for row in rows_of(tmp_path, iob2="strict", errors="skip")] == ["2"]


@pytest.mark.parametrize(("sound", "repaired"), [(9, True), (8, False)])
def test_a_few_slips_are_repaired_and_another_scheme_is_not_guessed_at(tmp_path, sound, repaired):
    blocks = [f"IMGID:{number}\na\tB-PER\n\n" for number in range(sound)]
    imgid(tmp_path / "train.txt", "".join(blocks) + "IMGID:slip\na\tO\nb\tI-PER\n")
    if repaired:
        assert Corpus(tmp_path).scan(LANGUAGES).report.total().repaired_tags == 1
    else:
        with pytest.raises(MalformedRow, match=r"train.txt:27: 'I-PER' came as tag 2.*iob2='repair'"):
            scan(tmp_path)
        assert len(rows_of(tmp_path, errors="skip")) == sound


def test_labels_come_from_the_whole_folder_whatever_is_read(tmp_path):
    jsonl(tmp_path / "en" / "train.jsonl", GOOD | {"ner_tags": ["B-ZOO", "I-ZOO"]})
    jsonl(tmp_path / "de" / "test.jsonl", GOOD | {"lang": "de", "ner_tags": ["B-art", "O"]})
    expected = ["O", "B-ZOO", "I-ZOO", "B-art", "I-art"]
    assert Corpus(tmp_path).scan(("de",)).labels == Corpus(tmp_path).scan(("en",)).labels == expected


# The folder


def test_split_names(tmp_path):
    for name in ("train", "dev", "test"):
        imgid(tmp_path / f"{name}.txt", "IMGID:1\na\tO\n")
    assert [source.split for source in discover(tmp_path)] == ["train", "validation", "test"]
    imgid(tmp_path / "valid.txt", "")
    with pytest.raises(ValueError, match="holds valid.txt, dev.txt: expected one file for the split 'validation'"):
        discover(tmp_path)


def test_language_folders_of_imgid_files(tmp_path):
    imgid(tmp_path / "fr" / "train.txt", "IMGID:1\na\tO\n")
    imgid(tmp_path / "en" / "train.txt", "IMGID:1\na\tO\n")
    assert [row["lang"] for row in rows_of(tmp_path)] == ["en", "fr"]
    with pytest.raises(ValueError, match="lang='de' was given, but .* has a folder a language"):
        Corpus(tmp_path, lang="de")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no dataset: expected train, validation or test"),
        (["it/train.txt"], "holds splits in it, expected folders named en, de, fr, es"),
        (["train.txt", "en/test.txt"], "not both"),
        (["train.txt", "test.jsonl"], "several formats"),
        (["train.txt", "train.jsonl"], "one file for the split"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path, files, message):
    for file in files:
        imgid(tmp_path / file, "")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"errors": "ignore"}, ValueError, "errors is 'ignore'"),
        ({"iob2": "iob1"}, ValueError, "iob2 is 'iob1'"),
        ({"lang": "it"}, ValueError, "lang is 'it'"),
        ({"captions": "none.txt"}, FileNotFoundError, "captions is 'none.txt'"),
        ({"image_folder": "none"}, FileNotFoundError, "image_folder is 'none'"),
        ({"image_folder": "train.txt"}, ValueError, "expected a folder"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, error, message):
    imgid(tmp_path / "train.txt", "IMGID:1\na\tO\n")
    with pytest.raises(error, match=message):
        Corpus(tmp_path, **options)


def test_no_rows_left_is_an_error(tmp_path):
    imgid(tmp_path / "train.txt", "IMGID:1\na\tO\n")
    with pytest.raises(ValueError, match=r"no rows in de .*rows in other languages: en \(1 rows\).*Give lang="):
        Corpus(tmp_path).scan(("de",))
    assert Corpus(tmp_path, lang="de").scan(("de",)).report.total("train", "de").rows == 1
