"""The folder provider: names find their images, whatever their spelling, and identities span languages."""

from types import SimpleNamespace

import pytest
from written_files import write_jsonl

from dataset_script.building.providers.folder import Folder, name_key
from dataset_script.building.stage import Mention

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


def test_names_find_the_images_of_their_type(folder, caplog):
    provider = Folder(folder / "index.tsv")
    for surface, kind, names in (
        ("Athens", "LOC", ["athens.jpg"]),
        ("ATHÈNES", "LOC", ["athens.jpg"]),
        ("Athe\u0300nes", "LOC", ["athens.jpg"]),  # decomposed accent
        ("Athens", "PER", []),
        ("Greece", "MISC", ["flag.jpg"]),
        ("Georgia", "LOC", ["georgia1.jpg"]),
        ("Georgia", "PER", ["georgia2.jpg"]),
    ):
        assert provider.showing(Mention(surface, kind, "fr")) == names
    assert "1 of the images" in caplog.text and "gone.jpg" not in provider.images
    names = [Mention(name, "LOC", "en") for name in ("Greece", "Athens", "Griechenland")]
    assert list(provider.candidates(SimpleNamespace(mentions=names))) == ["flag.jpg", "athens.jpg"]
    provider.prepare(SimpleNamespace(mentions=lambda: iter([names[0], Mention("Rome", "LOC", "en")])))
    assert provider.counts == {"missing files": 1, "images": 5, "mentions asked": 2, "mentions found": 1}


def test_identity_joins_the_names_of_an_image_and_the_images_of_a_name(folder):
    provider = Folder(folder / "index.tsv")
    entity = {provider.entity(Mention(name, "LOC", "en")) for name in ("Athens", "Athen", "atenas")}
    assert len(entity) == 1 and provider.images["athens.jpg"].entity == entity.pop() is not None
    # Georgia the person and Georgia the place share a name: names cannot tell them apart, so they count as one.
    assert provider.entity(Mention("Georgie", "PER", "en")) == provider.images["georgia1.jpg"].entity
    assert provider.entity(Mention("Rome", "LOC", "en")) is None
    assert provider.images["chair.jpg"].entity is None and provider.images["chair.jpg"].types == ()
    assert name_key("Conan O ' Brien") == name_key("Conan O'Brien") != name_key("Conan Brien")


def test_jsonl_index_is_the_same_as_tsv(folder):
    mentions = ["Athens", "Athen", "Athènes", "Atenas"]
    athens = {"file": "athens.jpg", "types": ["LOC"], "mentions": mentions, "licence": "CC0"}
    records = [athens | {"source": "https://example.org/athens"}, {"file": "chair.jpg", "types": [], "mentions": []}]
    index = write_jsonl(folder / "index.jsonl", *records)
    assert Folder(index).images["athens.jpg"] == Folder(folder / "index.tsv").images["athens.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("athens.jpg\tLOC\tAthens", "index.tsv:3: athens.jpg came a second time"),
        ("../x.jpg\tLOC\tAthens", "expected the name of a file in"),
        ("x.jpg\t\tAthens", "x.jpg has mentions but no types"),
    ],
)
def test_malformed_index_names_the_line(folder, line, message):
    index = folder / "index.tsv"
    index.write_text("file\ttypes\tmentions\n" + "athens.jpg\tLOC\tAthens\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Folder(index)


def test_missing_files_are_errors(folder):
    with pytest.raises(FileNotFoundError, match="--image_index"):
        Folder(folder / "no.tsv")
    with pytest.raises(FileNotFoundError, match="--image_folder"):
        Folder(folder / "index.tsv", folder / "none")
