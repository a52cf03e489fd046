"""The formats of annotation tools and of tables: each sample gives the tokens and tags written here by hand."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image
from samples import SAMPLES, marked
from written_files import write_file

from dataset_script import load, load_report
from dataset_script.formats.readers import read_source
from dataset_script.formats.schemes import to_iob2
from dataset_script.report import LoadReport
from dataset_script.rows import MalformedRow

ADA = "Ada|B-PER Brand|I-PER sails to Bergen|B-LOC ."
NONE = "No names here ."
TOKENS = [["Ada", "Brand", "sails", "to", "Bergen", "."], ["No", "names", "here", "."]]
TAGS = [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O"] * 4]
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NUMBERS = [[NAMES.index(tag) for tag in tags] for tags in TAGS]


def shown(source: Path, **options) -> list[tuple[str, str, str]]:
    """Split, language and words with tags of each row, as the readers give them."""
    return [(split, str(row.lang), marked(row.tokens, row.tags)) for split, row in read_source(source, **options)]


def texts(source: Path, **options) -> list[str]:
    return [text for _, _, text in shown(source, **options)]


def loaded(dataset: datasets.DatasetDict, split: str = "train") -> list[str]:
    rows = dataset[split]
    names = {-1: "None"} | dict(enumerate(rows.features["ner_tags"].feature.names))
    return [marked(row["tokens"], [names[tag] for tag in row["ner_tags"]]) for row in rows]


# The samples


TWO_SENTENCES = [
    *("doccano/labels.jsonl", "doccano/plural.jsonl", "doccano/entities.jsonl", "label_studio/min.json"),
    *("prodigy/train.jsonl", "spacy/pairs.json", "spacy/annotator.json", "spacy/paragraphs.json"),
    *("gliner/train.json", "brat", "csv/lists.csv", "csv/spans.csv", "csv/kaggle.csv", "csv/tokens.tsv"),
    *("csv/blank_lines.csv", "csv/sentences.csv"),
]


@pytest.mark.parametrize("name", TWO_SENTENCES)
def test_the_same_two_sentences_in_each_format(name, tmp_path):
    assert shown(SAMPLES / name) == [("train", "und", ADA), ("train", "und", NONE)]
    assert loaded(load(SAMPLES / name, cache_dir=tmp_path)) == [ADA, NONE]


def test_label_studio_counts_as_browsers_do_and_names_the_image(tmp_path):
    (split, row), (_, other) = read_source(SAMPLES / "label_studio" / "export.json")
    assert (split, row.id, row.image, other.id, other.image) == ("train", "11", "boat.png", "12", None)
    assert row.tokens == ["🚣", *TOKENS[0]]
    assert row.tags == ["O", "B-PER", "I-PER", "O", "O", "B-creative work", "O"]
    assert other.tags == ["O"] * 4


FIELD = {
    "germeval": [
        ("train", "de", "Ada|B-PER Brand|I-PER segelt zum Bergener|B-LOCderiv SV|B-ORG #"),
        ("train", "de", "Alra|B-LOC"),
        ("validation", "de", "Oslo|B-LOC ruht"),
    ],
    "uner": [("train", "en", "Ada|B-PER O|I-PER sails to Bergen|B-LOC O"), ("train", "en", "de le Nord|B-LOC")],
    "multiconer/pt-train.conll": [
        ("train", "pt", "ada|B-PER brand|I-PER viu solaris|B-CW #"),
        ("train", "pt", "bergen|B-LOC"),
    ],
    "hipe": [("train", "fr", "Ada|B-pers Brand|I-pers ."), ("train", "fr", "A Bergen|B-loc")],
}


@pytest.mark.parametrize("name", FIELD)
def test_samples_with_comments(name):
    assert shown(SAMPLES / name) == FIELD[name]


def test_what_is_not_read_of_them_is_said():
    for name, keys in {
        "germeval": {"column 4", "comments"},
        "hipe": {"NE-FINE-LIT", "NEL-LIT", "comments"},
        "brat": {"annotations R", "annotations #"},
        "csv/kaggle.csv": {"POS"},
    }.items():
        report = LoadReport()
        list(read_source(SAMPLES / name, report=report))
        assert keys <= report.ignored_keys.keys(), name


def test_another_column_of_hipe_by_its_name():
    rows = list(read_source(SAMPLES / "hipe", tags_column="NE-FINE-LIT"))
    assert [row.tags[-1] for _, row in rows] == ["O", "B-loc.adm.town"]
    with pytest.raises(ValueError, match=r"tags_column \(--tags_column\) is 'NER', but .* has names \(TOKEN, NE-"):
        list(read_source(SAMPLES / "hipe", tags_column="NER"))


def test_a_line_of_a_comment_does_not_shift_the_lines_of_errors(tmp_path):
    path = write_file(
        tmp_path / "train.conllu", "# sent_id = 1\n1\ta\tO\n# x = y\n2\tb\tX-PER\n3\tc\tO\n\n" + "1\ta\tO\n\n" * 20
    )
    with pytest.raises(MalformedRow, match="'X-PER' came as tag 2") as caught:
        list(read_source(path))
    assert caught.value.line == 4


def test_a_test_set_without_gold_labels_is_predicted_by_every_route(tmp_path):
    shutil.copytree(SAMPLES / "multiconer", tmp_path / "multiconer")
    assert loaded(load(tmp_path / "multiconer", cache_dir=tmp_path), "test") == ["alra|None viu|None"]
    write_file(tmp_path / "csv" / "train.csv", (SAMPLES / "csv" / "sentences.csv").read_text())
    write_file(tmp_path / "csv" / "test.csv", "sentence\nOslo rests .\n")
    assert loaded(load(tmp_path / "csv", cache_dir=tmp_path), "test") == ["Oslo|None rests|None .|None"]
    rows = {"tokens": [["Oslo", "rests"]], "ner_tags": [[-1, -1]]}
    DatasetDict(train=table(), test=Dataset.from_dict(rows)).save_to_disk(tmp_path / "saved")
    assert loaded(load(tmp_path / "saved", cache_dir=tmp_path), "test") == ["Oslo|None rests|None"]
    write_file(tmp_path / "train.csv", "sentence\nOslo rests .\n")
    with pytest.raises(MalformedRow, match=r"train\.csv:2: no tags came \(keys: sentence\).*--tags_column"):
        load(tmp_path / "train.csv", cache_dir=tmp_path)


# Schemes


@pytest.mark.parametrize("name", ["bioes", "bilou", "bmewo", "io", "iob1"])
def test_every_scheme_becomes_iob2_and_is_counted(name, tmp_path, caplog):
    dataset = load(SAMPLES / "schemes" / f"{name}.txt", cache_dir=tmp_path)
    assert loaded(dataset) == [ADA, "Ada|B-PER van|I-PER Brand|I-PER S-LOC"]
    part = load_report(dataset).total()
    if name == "iob1":
        assert part.repaired_tags == 3 and not part.converted
    else:
        assert part.converted == {"IO" if name == "io" else name.upper(): 2} and not part.repaired_tags
        assert "tags of 2 rows were turned into IOB2" in caplog.text


@pytest.mark.parametrize(
    ("tags", "scheme", "iob2", "wrong"),
    [
        ("B-X E-X S-X S-X O B-Y I-Y E-Y", "BIOES", "B-X I-X B-X B-X O B-Y I-Y I-Y", []),
        ("B-X L-X U-X B-X L-X", "BILOU", "B-X I-X B-X B-X I-X", []),
        ("B-X O", "BIOES", "B-X O", [0]),
        ("B-X E-Y", "BIOES", "B-X B-Y", [0, 1]),
        ("E-X I-X", "BIOES", "B-X B-X", [0, 1]),
        ("S-X E-X", "BIOES", "B-X B-X", [1]),
        ("B-X I-X", "BIOES", "B-X I-X", [1]),
        ("X X O Y X", "IO", "B-X I-X O B-Y B-X", []),
    ],
)
def test_a_scheme_as_iob2(tags, scheme, iob2, wrong):
    read, problems = to_iob2(tags.split(), scheme)
    assert read == iob2.split() and [position for position, _, _ in problems] == wrong


def test_one_slip_of_another_scheme_is_an_error_of_its_row(tmp_path):
    path = write_file(tmp_path / "train.txt", "a B-X\nb I-X\n\n" * 20 + "c S-X\n")
    with pytest.raises(MalformedRow, match=r"train\.txt:61: 'S-X' came as tag 1"):
        list(read_source(path))
    assert len(list(read_source(path, errors="skip"))) == 20


def test_a_slip_in_bioes_is_mended_and_counted_or_an_error(tmp_path):
    path = write_file(tmp_path / "train.txt", "a B-X\nb E-X\n\n" * 20 + "c B-X\nd O\n")
    report = LoadReport()
    assert texts(path, report=report)[-1] == "c|B-X d"
    assert report.total().repaired_tags == 1
    with pytest.raises(MalformedRow, match=r"train\.txt:61: 'B-X' came as tag 1 against BIOES, read as 'B-X'"):
        list(read_source(path, iob2="strict"))


def test_labels_with_blanks(tmp_path):
    for name, text in {
        "tabs.txt": "Solaris\tB-creative work\nII\tI-creative work\nis\tO\n",
        "blanks.txt": "Solaris B-creative work\nII I-creative work\nis O\nout O\nnow O\n",
        "marks.txt": "[Solaris II|creative work] is",
    }.items():
        first = texts(write_file(tmp_path / name, text))[0]
        assert first.startswith("Solaris|B-creative work II|I-creative work is"), name


# Spans


@pytest.mark.parametrize(
    ("spans", "reason", "message"),
    [
        ([[0, 2, "PER"]], "span within a word", r"'Ad' \(PER, 0:2\) came, which begins or ends within 'Ada'"),
        ([[1, 9, "PER"]], "span within a word", "within 'Ada'"),
        ([[0, 9, "PER"], [4, 9, "LOC"]], "overlapping spans", r"'Ada Brand' \(PER\) and 'Brand' \(LOC\) overlap"),
        ([[0, 99, "PER"]], "misplaced span", "PER at 0:99 came; expected a span that holds a word, in a text of 26"),
        ([[3, 4, "PER"]], "misplaced span", "expected a span that holds a word"),
        ([[0, 9]], "wrong value", r"a span is \[0, 9\]; expected start, end and one type"),
        ([{"start": 0, "end": 9, "labels": ["A", "B"]}], "wrong value", "expected start, end and one type"),
        ([{"start": 0, "end": 9, "text": "Bergen", "label": "A"}], "misplaced span", "'Bergen' came, but 'Ada Brand'"),
    ],
)
def test_bad_spans_name_row_and_cause(tmp_path, spans, reason, message):
    good = {"text": "Ada Brand sails to Bergen.", "label": []}
    lines = [json.dumps(one) for one in (good, good | {"label": spans}, good)]
    path = write_file(tmp_path / "train.jsonl", "\n".join(lines))
    with pytest.raises(MalformedRow, match=message) as caught:
        list(read_source(path))
    assert (caught.value.line, caught.value.reason) == (2, reason) and "\n" not in str(caught.value)
    report = LoadReport()
    assert len(list(read_source(path, errors="skip", report=report))) == 2
    assert report.total().skipped == {reason: 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a", "spans": [], "answer": "reject"}, "answer is 'reject'; expected 'accept'"),
        ({"tokenized_text": ["a", "b"], "ner": [[0, 2, "X"]]}, r"a span of X is \[0, 2\]; expected the first and the"),
        ({"tokenized_text": ["a", "b"], "ner": [[0, 1, "X"], [1, 1, "Y"]]}, r"'a b' \(X\) and 'b' \(Y\) overlap"),
        ({"tokens": ["a"], "etiketten": ["O"]}, r"no tags came \(keys: tokens, etiketten\).*--tags_column"),
        ({"satz": "a", "tags": ["O"]}, r"no text came \(keys: satz, tags\).*--text_column"),
        ({"tokens": ["a"], "ner_tags": [1]}, r"an item of ner_tags is 1.*Write these, one a line .*labels\.txt"),
        (
            {"data": {"text": "a b"}, "annotations": [{"result": []}, {"result": [
                {"value": {"start": 0, "end": 1, "labels": ["X"]}}]}]},
            "2 annotations came, which differ; expected one",
        ),
    ],
)  # fmt: skip
def test_records_that_say_too_little(tmp_path, record, message):
    path = write_file(tmp_path / "train.jsonl", record)
    with pytest.raises(MalformedRow, match=message) as caught:
        list(read_source(path))
    assert str(caught.value).startswith(f"{path}:1: ")


def test_columns_by_option(tmp_path):
    photo = tmp_path / "images" / "a.png"
    photo.parent.mkdir()
    Image.new("RGB", (4, 4)).save(photo)
    path = write_file(tmp_path / "rows.jsonl", {"satz": "Ada Brand", "marken": [[0, 9, "PER"]], "bild": "a.png"})
    options = {"text_column": "satz", "tags_column": "marken", "image_column": "bild"}
    dataset = load(path, cache_dir=tmp_path / "cache", **options)
    assert loaded(dataset) == ["Ada|B-PER Brand|I-PER"] and dataset["train"][0]["image"].size == (4, 4)
    with pytest.raises(MalformedRow, match=r"no bilder \(keys: .*\), which image_column \(--image_column\) names"):
        load(path, cache_dir=tmp_path / "cache", **options | {"image_column": "bilder"})
    path = write_file(tmp_path / "rows.csv", "satz,marken\nAda Brand,B-PER I-PER\n")
    assert (
        loaded(load(path, text_column="satz", tags_column="2", cache_dir=tmp_path / "cache"))[0]
        == "Ada|B-PER Brand|I-PER"
    )


# Tables


def table(tags: object = "ClassLabel", **columns) -> Dataset:
    if tags == "ClassLabel":
        features = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))}
        return Dataset.from_dict({"tokens": TOKENS, "ner_tags": NUMBERS}, features=Features(features))
    return Dataset.from_dict({"tokens": TOKENS, "ner_tags": TAGS if tags == "text" else NUMBERS, **columns})


WAYS = {
    "a Parquet file": lambda rows, folder: rows.to_parquet(folder / "rows.parquet") and folder / "rows.parquet",
    "a Parquet folder": lambda rows, folder: rows.to_parquet(folder / "train.parquet") and folder,
    "shards": lambda rows, folder: (
        [
            rows.select([number]).to_parquet(folder / "data" / f"train-0000{number}-of-00002.parquet")
            for number in (0, 1)
        ]
        and folder
    ),
    "an Arrow file": lambda rows, folder: rows.save_to_disk(folder / "s") or next((folder / "s").glob("*.arrow")),
    "save_to_disk": lambda rows, folder: rows.save_to_disk(folder / "s") or folder / "s",
    "a dict": lambda rows, folder: DatasetDict(train=rows).save_to_disk(folder / "s") or folder / "s",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tags", ["ClassLabel", "text", "numbers"])
def test_tables(way, tags, tmp_path):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    source = WAYS[way](table(tags), folder)
    if tags == "numbers":
        with pytest.raises(MalformedRow, match=r":1: an item of ner_tags is 1; expected a string, or the names"):
            load(source, cache_dir=tmp_path / "cache")
        place = source.parent if source.is_file() else source
        write_file(place / "labels.txt" if way != "shards" else place / "data" / "labels.txt", "\n".join(NAMES))
    assert loaded(load(source, cache_dir=tmp_path / "cache")) == [ADA, NONE]


def test_a_readme_says_the_splits_and_languages_their_folders(tmp_path):
    table().to_parquet(tmp_path / "card" / "files" / "one.parquet")
    write_file(
        tmp_path / "card" / "README.md",
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: files/one.parquet\n---\n",
    )
    assert {split for split, _, _ in shown(tmp_path / "card")} == {"test"}
    for lang in ("it", "pt-BR"):
        table().to_parquet(tmp_path / "langs" / lang / "train-00000.parquet")
    assert [lang for _, lang, _ in shown(tmp_path / "langs")] == ["it", "it", "pt-BR", "pt-BR"]


def test_images_in_rows_and_one_that_does_not_open(tmp_path, caplog):
    photo = tmp_path / "a.png"
    Image.new("RGB", (4, 6)).save(photo)
    cells = [{"bytes": photo.read_bytes(), "path": "a.png"}, {"bytes": b"no image", "path": "b.png"}]
    rows = table("text").add_column("image", cells, feature=datasets.Image())
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    dataset = load(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert dataset["train"][0]["image"].size == (4, 6) and dataset["train"][1]["image"] is None
    assert load_report(dataset).total().unreadable == {"b.png": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "token,tag\nA,B-P\nb,O\n", "has a token a line, and neither blank lines nor a column sentence_id"),
        ("a.csv", "tokens,ner_tags\n\"['Ada' 'x']\",\"['O' 'O']\"\n", r"tokens is \"\['Ada' 'x'\]\"; expected a list"),
        ("a.csv", "tokens,ner_tags\n\"['Ada']\"\n", r"a\.csv:2: 1 cells came; expected 2 \(tokens, ner_tags\)"),
        (
            "a.csv",
            'tokens,ner_tags\n"[\'A\']","[-1]"\n',
            r"a\.csv:2: -1 came as tag 1 \(token 'A'\), which is no gold",
        ),
        ("a.parquet", "PAR1 no", r"a\.parquet cannot be read .*; is it whole\?"),
        # Tags of no scheme, or of none that is known:
        (
            "a.txt",
            "a B-X\nb E-X\n\nc B-X\nd L-X\n",
            r"'B-X' \(line 1\), 'E-X' \(line 2\), 'L-X' \(line 5\) came, which no one",
        ),
        (
            "a.txt",
            "a B-X\nb I-X\n\nc S-X\n",
            r"'B-X' \(line 1\), 'I-X' \(line 2\), 'S-X' \(line 4\) came, which no one",
        ),
        ("a.txt", "a B-X\nb O\n\nc I-X\nd O\n", r"a\.txt:4: 'I-X' came as tag 1 .*--dataset_iob2 repair"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        list(read_source(write_file(tmp_path / name, text)))
    assert "\n" not in str(caught.value)


QUOTED = ['1\t"\tO', "1\tAda\tB-PER", "1\tran\tO", '1\t"\tO', "1\tsaid\tO", "1\tBo\tB-PER"]


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        # Words that other readers of tables take for nothing, for a list, or for the start of a cell of several lines
        ("a.csv", ["1,NA,B-LOC", "1,null,O", '1,"""",O', "2,nan,O"], ['NA|B-LOC null "', "nan"]),
        ("a.csv", ["0,Anna,B-PER", "0,[,O", "0,1,O", "0,],O", "1,Rome,B-LOC"], ["Anna|B-PER [ 1 ]", "Rome|B-LOC"]),
        ("a.tsv", [*QUOTED, "2\tRome\tB-LOC"], ['" Ada|B-PER ran " said Bo|B-PER', "Rome|B-LOC"]),
    ],
)
def test_a_token_a_line_whatever_the_tokens_are(tmp_path, name, lines, expected):
    head = "sentence_id,token,tag" if name == "a.csv" else "sentence_id\tword\ttag"
    assert texts(write_file(tmp_path / name, "\n".join([head, *lines]) + "\n")) == expected


def test_sentences_of_two_documents_stay_apart(tmp_path):
    rows = "A,0,Anna,B-PER\nA,0,sleeps,O\nB,0,Rome,B-LOC\nB,0,wakes,O\nB,1,Bob,B-PER\n"
    path = write_file(tmp_path / "b.csv", "doc_id,sentence_id,token,tag\n" + rows)
    assert texts(path) == ["Anna|B-PER sleeps", "Rome|B-LOC wakes", "Bob|B-PER"]


def test_a_table_that_does_not_parse_is_an_error_even_if_rows_are_skipped(tmp_path):
    path = write_file(tmp_path / "rows.csv", 'text,spans\n"Ada"x,[]\nBob,[]\n')
    with pytest.raises(ValueError, match=r"rows\.csv:2: .* expected a table in UTF-8: correct it"):
        list(read_source(path, errors="skip"))


# Lone files and languages


@pytest.mark.parametrize(
    ("name", "split", "lang"),
    [
        ("rows.jsonl", "train", "und"),
        ("my_test.jsonl", "test", "und"),
        ("train-pt.jsonl", "train", "pt"),
        ("it_made-ud-dev.jsonl", "validation", "it"),
        ("dev-zh-Hans.jsonl", "validation", "zh-Hans"),
        ("test_pt_BR.jsonl", "test", "pt-BR"),
    ],
)
def test_a_lone_file_is_the_split_that_its_name_says(name, split, lang, tmp_path):
    path = write_file(tmp_path / "set" / name, {"tokens": ["Ada"], "ner_tags": ["B-PER"]})
    write_file(tmp_path / "set" / "other.jsonl", {"tokens": ["Bob"], "ner_tags": ["B-PER"]})
    assert shown(path) == [(split, lang, "Ada|B-PER")]
    dataset = load(path, cache_dir=tmp_path / "cache")
    assert list(dataset) == [split] and dataset[split]["lang"] == [lang]


def test_folders_of_languages_in_order(tmp_path):
    for lang in ("pt-BR", "it", "es", "en", "my"):
        write_file(tmp_path / lang / "train.txt", "Ada\tB-PER\nsails\tO\n")
    assert [lang for _, lang, _ in shown(tmp_path)] == ["en", "es", "it", "my", "pt-BR"]
    assert load(tmp_path, "pt-BR", cache_dir=tmp_path / "cache")["train"]["lang"] == ["pt-BR"]


# Documents


def test_a_docbin_of_spacy_needs_spacy(tmp_path):
    pytest.importorskip("spacy", reason="needs spacy")
    assert shown(SAMPLES / "spacy" / "train.spacy") == [("train", "und", ADA), ("train", "und", NONE)]


def test_without_spacy_a_docbin_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(
        ValueError, match=r"train\.spacy is a DocBin of spaCy, which is not installed: pip install spacy"
    ):
        list(read_source(SAMPLES / "spacy" / "train.spacy"))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            "T1\tPER 0 3;10 15\tAda sails",
            r"doc\.ann:1: 'Ada sails' came, but 'Ada Brand sails' stands at 0:15; .* in one part",
        ),
        ("T1\tPER 0 2\tAd", r"doc\.ann:1: 'Ad' \(PER, 0:2\) came, which begins or ends within 'Ada'"),
        ("T1\tPER 0 9\tAda", r"doc\.ann:1: 'Ada' came, but 'Ada Brand' stands at 0:9"),
        ("T1 PER 0 9", r"doc\.ann:1: 'T1 PER 0 9' came; expected an id, a tab"),
    ],
)
def test_bad_annotations_of_brat(tmp_path, annotation, message):
    write_file(tmp_path / "doc.txt", "Ada Brand sails\n")
    write_file(tmp_path / "doc.ann", annotation + "\n")
    with pytest.raises(MalformedRow, match=message):
        list(read_source(tmp_path))


def test_a_text_of_brat_without_annotations_is_an_error(tmp_path):
    shutil.copytree(SAMPLES / "brat", tmp_path / "brat" / "dev")
    assert {split for split, _, _ in shown(tmp_path / "brat")} == {"validation"}
    write_file(tmp_path / "brat" / "dev" / "other.txt", "Ada\n")
    with pytest.raises(MalformedRow, match="no other.ann came"):
        list(read_source(tmp_path / "brat"))


@pytest.mark.parametrize("start", ["\ufeff", ""])
def test_annotations_of_brat_in_two_parts_and_from_windows(tmp_path, start):
    write_file(tmp_path / "doc.txt", "Ada Brand met Bo\n")
    (tmp_path / "doc.ann").write_bytes((start + "T1\tPER 0 3;4 9\tAda Brand\r\nT2\tPER 14 16\tBo\r\n").encode())
    assert texts(tmp_path) == ["Ada|B-PER Brand|I-PER met Bo|B-PER"]


def test_a_mistyped_path_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/nothere", "elsewhere/rows.jsonl"):
        with pytest.raises(FileNotFoundError, match="neither a folder nor the name of a dataset"):
            list(read_source(name))
