"""The dataset card: its numbers against a count by other libraries, its header against the rules of the Hub."""

import ast
import hashlib
import json
import re
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path

import datasets
import pytest
import yaml
from datasets.utils.metadata import MetadataConfigs
from finished_dataset import LICENCES, make, picture
from hub_store import validate_yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from PIL import Image
from seqeval.metrics.sequence_labeling import get_entities

from dataset_script.building.build import build
from dataset_script.files import MARKER, mark
from dataset_script.publishing import card
from dataset_script.publishing.facts import count


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("card") / "set", shards=2)


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
    """Every row, as ``datasets`` reads it, with its entities as seqeval finds them."""
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))
    found = []
    for split, dataset in loaded.items():
        names = dataset.features["ner_tags"].feature.names
        for record in dataset.cast_column("image", datasets.Image(decode=False)):
            spans = get_entities([names[tag] for tag in record["ner_tags"]])
            named = [(kind, " ".join(record["tokens"][a : b + 1]).lower()) for kind, a, b in spans]
            found.append(record | {"split": split, "named": named})
    return found


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a card: rows of cells, the head first."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [
        [re.split(r" \| ", line.strip("| \n")) for line in block.splitlines() if "---" not in line] for block in blocks
    ]


def table(text: str, *heads: str) -> dict[tuple[str, str], list[str]]:
    """The table with these heads: first two cells -> the others."""
    (found,) = [one for one in tables(text) if set(heads) <= set(one[0])]
    return {(cells[0], cells[1]): cells[2:] for cells in found[1:]}


def test_statistics_are_those_that_others_count(text, rows):
    counts, types = table(text, "sentences", "tokens"), table(text, "LOC", "MISC")
    relations = table(text, "depicts")
    for lang in ("en", "de"):
        for split in ("train", "validation", "test"):
            mine = [row for row in rows if (row["lang"], row["split"]) == (lang, split)]
            kinds = Counter(kind for row in mine for kind, _ in row["named"])
            pictures = [row["image"]["bytes"] for row in mine if row["image"]]
            numbers = [
                len(mine),
                sum(len(row["tokens"]) for row in mine),
                kinds.total(),
                len(pictures),
                len({*pictures}),
            ]
            assert counts[lang, split] == [f"{number:,}" for number in numbers]
            assert types[lang, split] == [str(kinds[kind]) for kind in ("PER", "LOC", "MISC")]
            shares = [sum(row["image_relation"] == name for row in mine) / len(mine) for name in relations_of(text)]
            assert relations[lang, split] == [f"{100 * share:.1f} %" for share in shares]
    total = [len(rows), sum(len(row["tokens"]) for row in rows), sum(len(row["named"]) for row in rows)]
    assert re.search(r"^\| all \|  \| (.*)", text, re.M)[1].startswith(" | ".join(f"{number:,}" for number in total))


def relations_of(text: str) -> list[str]:
    return next(one[0][2:] for one in tables(text) if "depicts" in one[0])


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("what", ["sentences", "entities", "pictures"])
def test_overlap_with_train(text, rows, what, split):
    uses = {
        "sentences": lambda row: [tuple(row["tokens"])],
        "entities": lambda row: row["named"],
        "pictures": lambda row: [row["image"]["bytes"]] if row["image"] else [],
    }[what]
    train = {use for row in rows if row["split"] == "train" for use in uses(row)}
    mine = Counter(use for row in rows if row["split"] == split for use in uses(row))
    distinct, both = len(mine), len(mine.keys() & train)
    occurrences = sum(number for use, number in mine.items() if use in train)
    found = table(text, "of them in train")[what, split]
    assert found[0] == str(distinct)
    assert found[1] == f"{both} of {distinct} ({100 * both / distinct:.1f} %)"
    assert found[2] == f"{occurrences} of {mine.total()} ({100 * occurrences / mine.total():.1f} %)"


def test_pictures_licences_and_origin(folder, text):
    lines = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    found = dict(next(one[1:] for one in tables(text) if one[0][0] == "licence of pictures"))
    assert found == {str(k or "not stated"): str(v) for k, v in Counter(line["licence"] for line in lines).items()}
    assert f"1 of {len(lines)} (20.0 %) pictures state no author." in text
    assert f"1 of {len(lines)} (20.0 %) pictures state no licence." in text
    assert "[Babelscape/wikineural](https://huggingface.co/datasets/Babelscape/wikineural) | 4,321 |" in text
    assert "python -m dataset_script build 'my texts' --provider folder" in text
    assert "| train row is a near-duplicate of one in test | 13 |" in text and "| `seed` | 1234 |" in text
    assert "| provider: mentions asked | 77 |" in text and "| pictures that do not open | 1 |" in text
    rows = count(folder).total()
    assert f"| unrelated picture | 25.0 % | {100 * rows.relations['unrelated'] / rows.sentences:.1f} % |" in text
    assert (folder / "LICENSE.md").read_text().count("|") > 10


def test_what_is_not_known_is_said_or_left_out(tmp_path):
    text = (make(tmp_path / "set", rows=24, built=False) / "README.md").read_text()
    for section in ("Provenance", "Licences"):
        body = re.search(rf"## {section}\n(.*?)\n## ", text, re.S)[1]
        assert not re.search(r"\d", body) and "not stated" in body
    assert "## Construction" not in text and "## Rebuild" not in text
    assert "Nothing is known of the origin and the licences of the pictures." in text


def test_no_number_is_typed_by_hand():
    """The sentences that the code writes have no digits in them but those of names."""
    names = {"@article{2mner,", "10M<n<100M", "utf-8"}
    for function in ast.parse(Path(card.__file__).read_text()).body:
        if isinstance(function, ast.FunctionDef):
            texts = [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)]
            typed = [text for text in texts if isinstance(text, str) and re.search(r"\d", text)]
            assert set(typed) <= names, function.name


def test_header_is_one_the_hub_accepts(folder, text):
    data = DatasetCard.load(folder / "README.md").data
    assert validate_yaml(text) == {"errors": [], "warnings": []}
    resources = files("datasets.utils") / "resources"
    known = {name: json.loads((resources / f"{name}.json").read_text()) for name in ("size_categories", "languages")}
    known |= {name: json.loads((resources / f"{name}.json").read_text()) for name in ("multilingualities", "creators")}
    assert data.size_categories in known["size_categories"] and data.size_categories == "n<1K"
    assert set(data.language) == {"de", "en"} <= set(known["languages"])
    assert data.multilinguality in known["multilingualities"]
    assert set(data.annotations_creators) <= set(known["creators"]["annotations"])
    assert (data.task_categories, data.task_ids) == (["token-classification"], ["named-entity-recognition"])
    assert (data.license, data.license_name, data.license_link) == ("other", "mixed", "LICENSE.md")
    configs = MetadataConfigs.from_dataset_card_data(data)
    assert set(configs) == {"all", "de", "en"} and configs.get_default_config_name() == "all"
    for config in configs.values():
        for entry in config["data_files"]:
            assert all(list(folder.glob(pattern)) for pattern in entry["path"])


def test_datasets_reads_features_and_sizes_from_the_card_alone(folder, tmp_path):
    (tmp_path / "set").mkdir()
    shutil.copytree(folder, tmp_path / "set", dirs_exist_ok=True)
    for path in (tmp_path / "set").glob("*/*.parquet"):
        path.write_bytes(b"")
    builder = datasets.load_dataset_builder(str(tmp_path / "set"), "de", cache_dir=str(tmp_path / "cache"))
    whole = datasets.load_dataset(str(folder), "de", cache_dir=str(tmp_path / "cache2"))
    assert builder.info.features == whole["train"].features
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == {k: len(v) for k, v in whole.items()}
    assert builder.info.download_size == sum(path.stat().st_size for path in (folder / "de").glob("*.parquet"))


def test_examples_show_their_picture_and_entities(folder, text, rows):
    shown = re.findall(r"!\[.*?\]\((assets/.*?)\)\n\n(.*)\n\n<sub>(\w\w), (\w+), `(.*?)`(.*)</sub>", text)
    assert len(shown) == 4 and {lang for _, _, lang, _, _, _ in shown} == {"en", "de"}
    by_id = {(row["split"], row["id"]): row for row in rows}
    for path, marked, _, split, name, notes in shown:
        row = by_id[split, name]
        assert split == "train" and row["image_relation"] == "depicts" and "picture of an entity" in notes
        found = re.findall(r"\*\*((?:\\.|[^*\\])+)\*\* `(\w+)`", marked)
        assert [(kind, re.sub(r"\\(.)", r"\1", surface).lower()) for surface, kind in found] == row["named"]
        number = int(row["image_name"][0])
        with Image.open(folder / path) as thumbnail, Image.open(folder / path) as same:
            assert max(thumbnail.size) == 160 and thumbnail.size == (160, 107) and same.format == "JPEG"
            colour = [40 * number % 256, 90 * number % 256, 17 * number % 256]
            assert all(abs(a - b) < 8 for a, b in zip(thumbnail.getpixel((50, 50)), colour, strict=True))
        assert LICENCES[number % 4], "one without a licence was shown though there are others"
    assert "<b>" not in text


@pytest.mark.parametrize("kind", ["<script>x</script>", "a|b", 'it\'s"x"', "`t`", "``", "a_b_*c*", "&lt;"])
def test_a_type_and_an_id_are_shown_letter_by_letter_whatever_they_are(kind, tmp_path):
    (tmp_path / "own").mkdir()
    for split in ("train", "test"):
        with (tmp_path / "own" / f"{split}.jsonl").open("w") as file:
            for number in range(3):
                row = {
                    "id": f"{kind} {split}{number}",
                    "lang": "en",
                    "tokens": ["Ada", kind, "was", "in", f"{split}{number}", "."],
                }
                row |= {"ner_tags": ["O", f"B-{kind}", "O", "O", "B-PER", "O"], "image": None}
                file.write(json.dumps(row) + "\n")
    folder = build([tmp_path / "own"], tmp_path / "set", write_card=card.write_card)
    text = (folder / "README.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(DatasetCard(text).text)
    inline = [token.children for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in children) for children in inline]
    (at,) = [number for number, line in enumerate(shown) if line.startswith("6 sentences in English with 12 named")]
    assert [child.type for child in inline[at]] == ["text"]
    assert f" of the types {' and '.join(sorted([kind, 'PER']))}. " in shown[at]
    assert kind in shown[shown.index("Entities by type:") :]
    examples = [number for number, line in enumerate(shown) if line.startswith("<sub>en, train, ")]
    assert examples
    for number in examples:
        assert shown[number].startswith(f"<sub>en, train, {kind} t")
        kinds = [child.content for child in inline[number - 1] if child.type == "code_inline"]
        assert kinds == [kind, "PER"] and shown[number - 1].startswith(f"Ada {kind} {kind} was in t")
    html = [child.content for children in inline for child in children if child.type == "html_inline"]
    assert set(html) <= {"<sub>", "</sub>"} and "html_block" not in {token.type for token in tokens}


def test_same_folder_same_bytes(folder):
    def content():
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    before = content()
    (folder / "assets" / "example-99.jpg").write_bytes(b"of an older card")
    mark(folder, card.KIND, ["assets/example-99.jpg"])
    card.write_card(folder)
    after = content()
    assert after.pop(folder / MARKER) != before.pop(folder / MARKER) and after == before


@pytest.mark.parametrize("name", ["README.md", "LICENSE.md", "assets/example-0.jpg"])
def test_a_file_that_it_did_not_write_is_not_replaced(tmp_path, name):
    make(tmp_path / "set")
    (tmp_path / "set" / MARKER).write_text("dataset\n")
    for other in ("README.md", "LICENSE.md", "assets"):
        if not name.startswith(other):
            path = tmp_path / "set" / other
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "set" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"set holds .*{name}"):
        card.write_card(tmp_path / "set")
    assert (tmp_path / "set" / name).read_text() == "mine"


def test_one_licence_for_all_is_the_licence(tmp_path):
    make(tmp_path / "set", languages=("en",))
    for name, key in (("pictures.jsonl", "licence"), ("build.json", "sources")):
        path = tmp_path / "set" / name
        lines = path.read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for record in records:
            record[key] = "CC BY-SA 4.0" if key == "licence" else [{"name": "a", "licence": "cc-by-sa-4.0", "rows": 1}]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    card.write_card(tmp_path / "set")
    data = DatasetCard.load(tmp_path / "set" / "README.md").data
    assert data.license == "cc-by-sa-4.0" and "license_link" not in data.to_dict()
    assert data.multilinguality == "monolingual" and not (tmp_path / "set" / "LICENSE.md").exists()


def test_not_a_dataset(tmp_path):
    with pytest.raises(ValueError, match="has no Parquet files; expected a finished dataset"):
        card.write_card(tmp_path)
    make(tmp_path / "set", languages=("en",))
    lines = (tmp_path / "set" / "pictures.jsonl").read_text().splitlines()
    (tmp_path / "set" / "pictures.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"pictures.jsonl has no line for 0.jpg"):
        card.write_card(tmp_path / "set")


def test_citation_is_that_of_the_project():
    cited = yaml.safe_load((Path(card.__file__).parents[2] / "CITATION.cff").read_text())["references"][0]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    assert card.PAPER == {key: str(cited[key]) for key in ("title", "journal", "year", "url")} | {"author": authors}


def test_pictures_are_told_apart_by_their_bytes(tmp_path):
    """Without ``pictures.jsonl`` too, where names would count two files as one and one as two."""
    assert count(make(tmp_path / "set", built=False)).distinct_pictures == len(
        {picture(number) for number in range(5)}
    )
