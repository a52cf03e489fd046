"""The dataset card: its numbers against a count by other libraries, its header against the rules of the Hub."""

import re
from collections import Counter
from itertools import product

import datasets
import pytest
from datasets.utils.metadata import MetadataConfigs
from finished_dataset import image_bytes, make
from hub_server import validate_yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from seqeval.metrics.sequence_labeling import get_entities
from written_files import read_jsonl, write_jsonl

from dataset_script.building.build import build
from dataset_script.files import MARKER
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
    relations, names = table(text, "depicts"), next(one[0][2:] for one in tables(text) if "depicts" in one[0])
    for lang, split in product(("en", "de"), ("train", "validation", "test")):
        mine = [row for row in rows if (row["lang"], row["split"]) == (lang, split)]
        kinds = Counter(kind for row in mine for kind, _ in row["named"])
        images = [row["image"]["bytes"] for row in mine if row["image"]]
        numbers = [len(mine), sum(len(row["tokens"]) for row in mine), kinds.total(), len(images), len({*images})]
        assert counts[lang, split] == [f"{number:,}" for number in numbers]
        assert types[lang, split] == [str(kinds[kind]) for kind in ("PER", "LOC", "MISC")]
        shares = [sum(row["image_relation"] == name for row in mine) / len(mine) for name in names]
        assert relations[lang, split] == [f"{100 * share:.1f} %" for share in shares]
    total = [len(rows), sum(len(row["tokens"]) for row in rows), sum(len(row["named"]) for row in rows)]
    assert re.search(r"^\| all \|  \| (.*)", text, re.M)[1].startswith(" | ".join(f"{number:,}" for number in total))


def test_images_licences_and_origin(folder, text):
    lines = read_jsonl(folder / "pictures.jsonl")
    found = dict(next(one[1:] for one in tables(text) if one[0][0] == "licence of the images"))
    assert found == {str(k or "not stated"): str(v) for k, v in Counter(line["licence"] for line in lines).items()}
    assert f"1 of {len(lines)} (20.0 %) images state no author." in text
    assert f"1 of {len(lines)} (20.0 %) images state no licence." in text
    assert "[Babelscape/wikineural](https://huggingface.co/datasets/Babelscape/wikineural) | 4,321 |" in text
    assert "| train row is a near-duplicate of one in test | 13 |" in text and "| `seed` | 1234 |" in text
    assert "| provider: mentions asked | 77 |" in text and "| images that do not open | 1 |" in text
    rows = count(folder).total()
    assert f"| unrelated image | 25.0 % | {100 * rows.relations['unrelated'] / rows.sentences:.1f} % |" in text


def test_what_is_not_known_is_said_or_left_out(tmp_path):
    text = (make(tmp_path / "set", rows=24, built=False) / "README.md").read_text()
    for section in ("Provenance", "Licences"):
        body = re.search(rf"## {section}\n(.*?)\n## ", text, re.S)[1]
        assert not re.search(r"\d", body) and "not stated" in body
    assert "## Construction" not in text
    assert "Nothing is known of the origin and the licences of the images." in text


def test_header_is_one_the_hub_accepts(folder, text):
    data = DatasetCard.load(folder / "README.md").data
    assert validate_yaml(text) == {"errors": [], "warnings": []}
    assert set(data.language) == {"de", "en"}
    assert (data.task_categories, data.task_ids) == (["token-classification"], ["named-entity-recognition"])
    assert (data.license, data.annotations_creators) == ("other", ["found"])
    configs = MetadataConfigs.from_dataset_card_data(data)
    assert set(configs) == {"all", "de", "en"} and configs.get_default_config_name() == "all"
    for config in configs.values():
        for entry in config["data_files"]:
            assert all(list(folder.glob(pattern)) for pattern in entry["path"])


@pytest.mark.parametrize("kind", ["<script>x</script>", "a|b", "`t`", "a_b_*c*", "&lt;", "{{ 7 }}"])
def test_a_type_is_shown_letter_by_letter_whatever_it_is(kind, tmp_path):
    for split in ("train", "test"):
        ids = [f"{split}{number}" for number in range(3)]
        row = {"lang": "en", "ner_tags": ["O", f"B-{kind}", "B-PER"], "image": None}
        write_jsonl(
            tmp_path / "own" / f"{split}.jsonl", *(row | {"id": one, "tokens": ["Ada", kind, one]} for one in ids)
        )
    folder = build([tmp_path / "own"], tmp_path / "set", None, write_card=card.write_card)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text, "a path on this machine"
    tokens = MarkdownIt("commonmark").enable("table").parse(DatasetCard(text).text)
    inline = [token.children for token in tokens if token.type == "inline"]
    shown = ["".join(child.content for child in children) for children in inline]
    (at,) = [number for number, line in enumerate(shown) if line.startswith("6 sentences in English with 12 named")]
    assert [child.type for child in inline[at]] == ["text"]
    assert f" of the types {' and '.join(sorted([kind, 'PER']))}. " in shown[at]
    assert kind in shown[shown.index("Entities by type:") :]
    assert not {"html_inline", "html_block"} & {token.type for token in [*tokens, *sum(inline, [])]}


def test_a_file_that_it_did_not_write_is_not_replaced(tmp_path):
    make(tmp_path / "set")
    (tmp_path / "set" / MARKER).unlink()
    (tmp_path / "set" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="set holds .*README.md"):
        card.write_card(tmp_path / "set")
    assert (tmp_path / "set" / "README.md").read_text() == "mine"


def test_one_licence_for_all_is_the_licence(tmp_path):
    make(tmp_path / "set", languages=("en",))
    for name, key in (("pictures.jsonl", "licence"), ("build.json", "sources")):
        value = "CC BY-SA 4.0" if key == "licence" else [{"name": "a", "licence": "cc-by-sa-4.0", "rows": 1}]
        path = tmp_path / "set" / name
        write_jsonl(path, *(record | {key: value} for record in read_jsonl(path)))
    card.write_card(tmp_path / "set")
    data = DatasetCard.load(tmp_path / "set" / "README.md").data
    assert data.license == "cc-by-sa-4.0"


def test_not_a_dataset(tmp_path):
    with pytest.raises(ValueError, match="has no Parquet files; expected a finished dataset"):
        card.write_card(tmp_path)
    make(tmp_path / "set", languages=("en",))
    lines = (tmp_path / "set" / "pictures.jsonl").read_text().splitlines()
    (tmp_path / "set" / "pictures.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"pictures.jsonl has no line for 0.jpg"):
        card.write_card(tmp_path / "set")


def test_images_are_told_apart_by_their_bytes(tmp_path):
    """Without ``pictures.jsonl`` too, where names would count two files as one and one as two."""
    assert len(count(make(tmp_path / "set", built=False)).total().images) == len({image_bytes(n) for n in range(5)})
