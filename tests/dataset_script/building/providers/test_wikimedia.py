"""The provider of Wikimedia's images against a loopback server, with all that can go wrong between them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from wikimedia_server import WikimediaServer

from dataset_script.building.providers import wikimedia
from dataset_script.building.providers.fetching import Politeness
from dataset_script.building.providers.mediawiki import batches, title_of
from dataset_script.building.providers.wikimedia import LICENCES, Taxonomy, Wikimedia
from dataset_script.building.stage import Mention

HUMAN, CITY, CLUB, SETTLEMENT, ORGANISATION = "Q5", "Q515", "Q476028", "Q486972", "Q43229"
HURRIED = Politeness(requests_per_second=1000, attempts=4, backoff_s=0, sleep=lambda seconds: None)
OPENED: list[Wikimedia] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WikimediaServer]:
    with WikimediaServer() as server:
        monkeypatch.setattr(wikimedia, "MediaWiki", server.apis)
        # A city is an organisation by way of the body that governs it.
        above = {CITY: ["Q702492", ORGANISATION], "Q702492": [SETTLEMENT], SETTLEMENT: ["Q27096213"]}
        above |= {CLUB: ["Q847017"], "Q847017": [ORGANISATION]}
        for item in (HUMAN, CITY, CLUB, SETTLEMENT, ORGANISATION, "Q702492", "Q27096213", "Q847017"):
            server.items[item] = {"P279": above.get(item, [])}
        yield server
        while OPENED:
            OPENED.pop().close()
        assert not server.violations
        assert all("2M-NER" in agent and "me@example.org" in agent for agent in server.agents)


def run(folder: Path, *mentions: Mention, **options: object) -> Wikimedia:
    made = Wikimedia(folder, "me@example.org", **{"politeness": HURRIED} | options)
    OPENED.append(made)
    made.prepare(SimpleNamespace(mentions=lambda: iter(mentions)))
    return made


def test_a_name_gets_the_image_of_its_item_with_licence_author_and_origin(server, tmp_path):
    server.add_entity("en", "Ada Lovelace", "Q7259", [HUMAN], "Ada L.jpg")
    mention = Mention("Ada Lovelace", "PER", "en")
    made = run(tmp_path, mention)
    (name,) = made.showing(mention)
    image = made.images[name]
    assert (image.entity, made.entity(mention)) == ("Q7259", "Q7259")
    assert (image.types, image.mentions) == (("PER",), ("Ada Lovelace",))
    assert (image.licence, image.author) == ("CC BY-SA 4.0", "Someone")
    assert image.source == "https://commons.wikimedia.org/wiki/File:Ada_L.jpg"
    assert image.path == tmp_path / "images" / name and Image.open(image.path).size == (500, 40)
    assert made.counts == {"mentions asked": 1, "mentions: found": 1, "questions without an answer": 0, "images": 1}
    assert made.entity(Mention("Ada", "PER", "en")) is None


def test_names_that_need_normalising_and_redirects_find_their_page(server, tmp_path):
    server.add_entity("fr", "Côte d'Ivoire", "Q1008", [CITY], "Flag.svg")
    server.add_entity("fr", "Nations unies", "Q1065", [ORGANISATION], "UN.jpg")
    server.redirects["fr"] = {"ONU": ("Organisation (ONU)", None), "Organisation (ONU)": ("Nations unies", None)}
    server.redirects["fr"] |= {"Aaa": ("Bbb", None), "Bbb": ("Nations unies", "Histoire")}
    server.redirects["fr"] |= {"Rond": ("Cercle", None), "Cercle": ("Rond", None)}
    kinds = {"côte d' Ivoire": "LOC", "ONU": "ORG", "Aaa": "ORG", "rond": "MISC", "de:Rond": "MISC"}
    mentions = [Mention(name, kind, "fr") for name, kind in kinds.items()]
    made = run(tmp_path, *mentions)
    assert [made.entity(mention) for mention in mentions] == ["Q1008", "Q1065", None, None, None]
    assert made.counts["mentions: a section of another page"] == 1
    assert made.counts["mentions: no such page"] == 2
    path = made.images[made.showing(mentions[0])[0]].path
    assert path.suffix == ".png" and Image.open(path).format == "PNG", "the thumbnail of an SVG"


def test_names_that_no_page_has_and_items_of_another_class(server, tmp_path):
    server.pages["en"] = {"Nothing": {}, "Talk": {"item": "Q1", "ns": 1}}
    server.add_entity("en", "Paris", "Q90", [CITY], "Paris.jpg")
    server.pages["en"]["Mercury"] = {"disambiguation": True, "item": "Q2"}
    names = ["No such page", "Nothing", "Talk", "a | b", "de:Berlin", "C#", "Paris", "Mercury"]
    paris = [Mention("Paris", kind, "en") for kind in ("PER", "LOC", "ORG", "MISC")]
    made = run(tmp_path, *(Mention(name, "PER", "en") for name in names), Mention("x", "TIME", "en"), *paris)
    assert [made.entity(mention) for mention in paris] == [None, "Q90", None, None]
    assert {key: number for key, number in made.counts.items() if "mentions:" in key} == {
        "mentions: no such page": 3,
        "mentions: not a title": 2,
        "mentions: disambiguation": 1,
        "mentions: page without a Wikidata item": 1,
        "mentions: type without classes": 1,
        "mentions: item of another class": 3,
        "mentions: found": 1,
    }


def test_classes_are_closed_over_their_parents_as_networkx_closes_them(monkeypatch):
    networkx = pytest.importorskip("networkx")
    graph = networkx.gnp_random_graph(60, 0.04, seed=3, directed=True)
    graph = networkx.relabel_nodes(graph, {0: 5} | {node: node + 1000 for node in range(1, 60)})
    names = {node: f"Q{node}" for node in graph}
    parents = {names[node]: [names[parent] for parent in graph.successors(node)] for node in graph}
    for depth in (0, 1, 3, 60):
        monkeypatch.setattr(wikimedia, "MAX_DEPTH", depth)
        taxonomy = Taxonomy(parents.get)
        for node in graph:
            near = networkx.single_source_shortest_path_length(graph, node, cutoff=depth)
            assert taxonomy.agrees([names[node]], "PER") == (5 in near)


@pytest.mark.parametrize(
    ("licences", "taken"),
    [
        ({"Best.jpg": "CC BY-NC 2.0", "Plain.jpg": None, "Old.jpg": "CC0"}, "Page_image.jpg"),
        (dict.fromkeys(["Best.jpg", "Plain.jpg", "Old.jpg"], "CC0"), "Best.jpg"),
    ],
)
def test_the_first_image_that_is_allowed_is_taken_and_preferred_rank_goes_first(server, tmp_path, licences, taken):
    server.add_entity("en", "Ada", "Q1", [HUMAN], None)
    server.items["Q1"]["P18"] = ["Plain.jpg", ("Old.jpg", "deprecated"), ("Best.jpg", "preferred"), (None, "normal")]
    server.pages["en"]["Ada"]["image"] = "Page image.jpg"
    server.files |= {name: {"licence": licence} for name, licence in licences.items()}
    server.files["Page image.jpg"] = {"licence": "Public domain", "metadata": {"Credit": "<i>Archive</i>"}}
    mention = Mention("Ada", "PER", "en")
    made = run(tmp_path, mention)
    image = made.images[made.showing(mention)[0]]
    assert image.source.endswith(f"File:{taken}")
    assert set(server.downloads()) == {f"/thumb/500/{taken.replace('_', ' ')}"}
    if taken != "Best.jpg":
        assert image.author == "Archive"
        assert made.counts["files refused: licence not allowed"] == 1
        assert made.counts["files refused: no licence stated"] == 1


def test_files_that_are_no_images_and_items_without_one(server, tmp_path):
    files = {"A.ogg": {"mime": "audio/ogg"}, "A.djvu": {"mime": "image/vnd.djvu"}}
    files["U.jpg"] = {"metadata": {"NonFree": "1"}}
    for number, (name, file) in enumerate(files.items()):
        server.add_entity("en", name, f"Q{number + 100}", [HUMAN], name, **file)
    server.add_entity("en", "Local", "Q200", [HUMAN], "Local.jpg")
    del server.files["Local.jpg"]
    server.add_entity("en", "Nobody", "Q201", [HUMAN], None)
    made = run(tmp_path, *(Mention(name, "PER", "en") for name in [*files, "Local", "Nobody"]))
    assert not made.images and not server.downloads()
    assert made.counts == {
        "mentions asked": 5, "mentions: item whose images are refused": 4, "mentions: item without an image": 1,
        "files refused: not a free file": 1, "files refused: not an image": 2, "files refused: not on Commons": 1,
        "questions without an answer": 0, "images": 0,
    }  # fmt: skip


def test_items_that_were_merged_or_share_an_image_are_one_entity(server, tmp_path):
    server.add_entity("en", "Old", "Q10", [HUMAN], None)
    server.add_entity("en", "New", "Q20", [HUMAN], "One.jpg")
    server.items["Q10"] = {"merged": "Q20"}
    server.add_entity("en", "Band", "Q15", [ORGANISATION], "One.jpg")
    mentions = [Mention("Old", "PER", "en"), Mention("New", "PER", "en"), Mention("Band", "ORG", "en")]
    made = run(tmp_path, *mentions)
    assert {made.entity(mention) for mention in mentions} == {"Q15"}
    (image,) = made.images.values()
    assert (image.entity, image.types) == ("Q15", ("ORG", "PER"))


def many(server: WikimediaServer, number: int) -> list[Mention]:
    for count in range(number):
        server.add_entity("en", f"Person {count}", f"Q{count + 1000}", [HUMAN], f"Face {count}.jpg")
    return [Mention(f"person {count}", "PER", "en") for count in range(number)]


def test_questions_are_put_in_batches_and_by_few_workers(server, tmp_path):
    mentions = many(server, 120)
    server.props_a_part = 20  # continuation
    made = run(tmp_path, *mentions)
    assert all(made.entity(mention) == f"Q{count + 1000}" for count, mention in enumerate(mentions))
    assert len(server.asked("^/en/")) == 3 + 3 + 1 and len(server.asked("^/commons/")) == 3
    assert len(server.asked("^/wikidata/")) == 3 + 1
    assert server.most_at_once <= 2 and sum(server.downloads().values()) == 120
    assert list(batches(["é" * 400] * 3)) == [["é" * 400] * 2, ["é" * 400]]


def test_nothing_is_asked_again_by_another_run(server, tmp_path):
    server.pages["en"] = {"Mercury": {"disambiguation": True, "item": "Q1"}}
    mentions = [*many(server, 5), Mention("Mercury", "PER", "en"), Mention("Nobody", "PER", "en")]
    first = run(tmp_path, *mentions)
    asked = len(server.requests)
    second = run(tmp_path, *mentions)
    assert len(server.requests) == asked and second.counts == first.counts and second.images == first.images
    assert [second.entity(mention) for mention in mentions] == [first.entity(mention) for mention in mentions]
    third = run(tmp_path, mentions[2])
    assert len(server.requests) == asked and len(third.images) == 1 and third.counts["mentions asked"] == 1


@pytest.mark.parametrize(("how", "cause"), [("404", "HTTP 404"), ("html", "not an image"), ("junk", "does not open")])
def test_an_image_that_is_none_is_refused_for_good(server, tmp_path, how, cause):
    (mention,) = many(server, 1)
    server.fail_next("^/thumb/", how, times=100)
    made = run(tmp_path, mention)
    assert made.counts["mentions: item whose images are refused"] == 1
    assert any(key.startswith(f"files refused: {cause}") for key in made.counts)
    asked = len(server.requests)
    assert run(tmp_path, mention).counts == made.counts and len(server.requests) == asked
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.parametrize("pattern", ["^/en/.*pageprops", "^/wikidata/.*Q1000", "Q5$|Q5&", "^/commons/", "^/thumb/"])
@pytest.mark.parametrize("how", ["503", "403"])
def test_no_answer_is_not_an_answer_and_is_asked_for_again(server, tmp_path, pattern, how, caplog):
    (mention,) = many(server, 1)
    server.fail_next(pattern, how, times=1000)
    made = run(tmp_path, mention)
    assert made.counts["mentions: no answer"] == 1 and made.counts["questions without an answer"] >= 1
    assert "no answer" in caplog.text.lower()
    server.faults.clear()
    again = run(tmp_path, mention)
    assert again.counts["mentions: found"] == 1 and again.counts["questions without an answer"] == 0
    assert all(number == 1 for number in server.downloads().values()) or "thumb" in pattern


@pytest.mark.parametrize("silent", ["Person 1", "Q1001", "File:Face 1.jpg"])
def test_what_an_answer_leaves_out_does_not_hold_up_the_rest(server, tmp_path, silent):
    server.silent = {silent}
    made = run(tmp_path, *many(server, 3))
    assert (made.counts["mentions: found"], made.counts["mentions: no answer"]) == (2, 1)
    assert made.counts["questions without an answer"] == 1


def test_a_server_that_is_down_ends_the_run(server, tmp_path, monkeypatch):
    mentions = many(server, 700)
    server.fail_next("^/en/", "503", times=1000)
    monkeypatch.setattr(wikimedia, "MAX_FAILURES_IN_A_ROW", 3)
    with pytest.raises(ConnectionError, match="run the same command again"):
        run(tmp_path, *mentions)
    assert len(server.requests) <= 4 * 2 * 3 + 8


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("CC BY-SA 4.0", True), ("CC BY-SA 3.0 de", True), ("cc-by-2.5", True), ("CC0", True), ("Public domain", True),
        ("PD-old", True), ("No restrictions", True), ("GFDL", True), ("CC BY-SA 4.0,3.0,2.5,2.0,1.0", True),
        ("CC BY 4.0 International", True), ("CC BY-NC 2.0", False), ("CC BY-ND 4.0", False), ("CC BY NC", False),
        ("CC BY-NC-SA 3.0", False), ("CC BY-SA 2.0 nc", False), ("Fair use", False), ("", False), ("Not CC0", False),
        ("All rights reserved", False), ("Public domain in the USA only", False),
    ],
)  # fmt: skip
def test_the_licences_that_are_taken(licence, allowed):
    assert any(pattern.fullmatch(licence) for pattern in LICENCES) is allowed


@pytest.mark.parametrize(
    ("surface", "title"),
    [
        ("Washington , D.C .", "Washington, D.C."), ("Jean - Luc Godard", "Jean-Luc Godard"), ("Moody 's", "Moody's"),
        ("L' Oréal", "L'Oréal"), ("Rock 'n' Roll", "Rock 'n' Roll"), ("Ge\u0301rard", "Gérard"), ("AC/DC", "AC/DC"),
        ("ARD ( Rundfunk )", "ARD (Rundfunk)"), ("a|b", None), ("x_y", None), ("<b>", None), ("é" * 128, None),
    ],
)  # fmt: skip
def test_titles_of_names(surface, title):
    assert title_of(surface) == title
