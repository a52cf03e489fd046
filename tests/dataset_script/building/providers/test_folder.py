"""The folder provider: names find their pictures, whatever their spelling, and identities span languages."""

import json

import pytest

from dataset_script.building.providers.base import Mention
from dataset_script.building.providers.folder import Folder, name_key

INDEX = """file\ttypes\tmentions\tlicence\tsource
athens.jpg\tLOC\tAthens;Athen;Athènes;Atenas\tCC0\thttps://example.org/athens
flag.jpg\tLOC;MISC\tGreece;Griechenland\t\t
georgia1.jpg\tLOC\tGeorgia\tCC BY 4.0\t
georgia2.jpg\tPER\tGeorgia;Georgie\t\t
chair.jpg\t\t\tpublic domain\t
gone.jpg\tPER\tNobody\t\t
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "index.tsv").write_text(INDEX, encoding="utf-8")
    (tmp_path / "images").mkdir()
    for name in ("athens", "flag", "georgia1", "georgia2", "chair"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"not opened here")
    return tmp_path


def shown(provider, surface, kind, lang="en"):
    return [candidate.name for candidate in provider.candidates("row", [Mention(surface, kind, lang)])]


def test_names_find_the_pictures_of_their_type(folder, caplog):
    provider = Folder(folder / "index.tsv")
    assert shown(provider, "Athens", "LOC") == ["athens.jpg"]
    assert shown(provider, "ATHÈNES", "LOC", "fr") == ["athens.jpg"]
    assert shown(provider, "Athe\u0300nes", "LOC", "fr") == ["athens.jpg"], "decomposed accent"
    assert shown(provider, "Athens", "PER") == []
    assert shown(provider, "Greece", "MISC") == ["flag.jpg"]
    assert shown(provider, "Georgia", "LOC") == ["georgia1.jpg"]
    assert shown(provider, "Georgia", "PER") == ["georgia2.jpg"]
    assert "1 of the pictures" in caplog.text and list(provider.names()).count("gone.jpg") == 0


def test_identity_joins_the_names_of_a_picture_and_the_pictures_of_a_name(folder):
    provider = Folder(folder / "index.tsv")
    entity = {provider.entity(Mention(name, "LOC", "en")) for name in ("Athens", "Athen", "atenas")}
    assert len(entity) == 1 and None not in entity
    assert provider.picture("athens.jpg").entity == entity.pop()
    # Georgia the person and Georgia the place share a name: names cannot tell them apart, so they count as one.
    assert provider.entity(Mention("Georgie", "PER", "en")) == provider.picture("georgia1.jpg").entity
    assert provider.entity(Mention("Rome", "LOC", "en")) is None
    assert provider.picture("chair.jpg").entity is None and provider.picture("chair.jpg").types == ()


def test_jsonl_index_is_the_same_as_tsv(folder):
    records = [
        {
            "file": "athens.jpg",
            "types": ["LOC"],
            "mentions": ["Athens", "Athen", "Athènes", "Atenas"],
            "licence": "CC0",
        },
        {"file": "chair.jpg", "types": [], "mentions": []},
    ]
    index = folder / "index.jsonl"
    index.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    picture = Folder(index).picture("athens.jpg")
    assert picture.mentions == Folder(folder / "index.tsv").picture("athens.jpg").mentions
    assert picture.licence == "CC0" and picture.author is None


def test_counts_and_ordering(folder):
    provider = Folder(folder / "index.tsv", folder / "images")
    provider.prepare(
        lambda: iter([(Mention("Athens", "LOC", "en"), 3), (Mention("Rome", "LOC", "en"), 1)]), lambda: iter([])
    )
    assert provider.counts() == {"missing files": 1, "pictures": 5, "mentions asked": 2, "mentions found": 1}
    mentions = [Mention("Greece", "LOC", "en"), Mention("Athens", "LOC", "en"), Mention("Griechenland", "LOC", "de")]
    names = [candidate.name for candidate in provider.candidates("row", mentions)]
    assert names == ["flag.jpg", "athens.jpg"], "in the order of the mentions, each once"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("athens.jpg\tLOC\tAthens", "index.tsv:2: athens.jpg came a second time"),
        ("../x.jpg\tLOC\tAthens", "expected the name of a file in"),
        ("x.jpg\t\tAthens", "x.jpg has mentions but no types"),
        ("x.jpg\tLOC", "expected 3 columns"),
    ],
)
def test_malformed_index_names_the_line(folder, line, message):
    index = folder / "index.tsv"
    index.write_text("file\ttypes\tmentions\n" + "athens.jpg\tLOC\tAthens\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("index.tsv:2", "index.tsv:3")):
        Folder(index)


def test_missing_columns_and_files_are_errors(folder):
    (folder / "index.tsv").write_text("name\tkind\nx\ty\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column file, types, mentions"):
        Folder(folder / "index.tsv")
    with pytest.raises(FileNotFoundError, match="expected the index"):
        Folder(folder / "no.tsv")


def test_name_key_ignores_case_space_and_unicode_form():
    assert name_key("Conan O ' Brien") == name_key("Conan O'Brien") != name_key("Conan Brien")
    assert name_key("STRASSE") == name_key("Straße")
