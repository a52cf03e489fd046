"""The Space: what it shows, its examples and card; the page itself, served where Gradio is installed."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from html_page import Page
from PIL import Image
from test_load_image import encoded_size
from tiny_pipelines import make_pipeline, same

SPACE = Path(__file__).resolve().parent.parent / "space"
TEXT = "Jordan was seen in Paris."


@pytest.fixture(scope="module", autouse=True)
def space_modules():
    """The Space's files are run from their own folder, and their names are too common to be left behind."""
    sys.path.insert(0, str(SPACE))
    yield
    sys.path.remove(str(SPACE))
    for name in ("answers", "examples", "app"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def ner(towers):
    # Entities of one word each, hence many.
    return make_pipeline(towers, labels=["O", "B-PER", "B-BIRD"], collaboration="evidence")


MARKED = "<img src=x onerror=alert(1)> Jordan <script>alert(1)</script> &amp; Paris"


def marked(page: str) -> list[str]:
    """Each entity of the text with its type, which stands on it as text."""
    parsed = Page(page)
    return [mark["text"] for mark in parsed.all("mark") if mark["text"].count(" ")]


def shown(entities) -> list[str]:
    return [f"{entity['word']} {entity['entity_group']}" for entity in entities]


def saved(image: Image.Image, folder: Path, **options) -> str:
    image.save(folder / "image.png", **options)
    return str(folder / "image.png")


def uploaded(path: str | Path) -> dict:
    """As Gradio has an uploaded file."""
    return {"path": str(path), "url": None}


def test_an_answer_is_the_pipelines_with_the_image_and_without(ner, tmp_path):
    from answers import answer, checked
    from examples import person

    page, data = answer(ner, TEXT, checked(ner, TEXT, uploaded(saved(person(), tmp_path))))
    expected, expected_without = ner(TEXT, images=person()), ner(TEXT)
    assert marked(page) == shown(expected) and expected
    same([{key: entity[key] for key in expected[0]} for entity in data["entities"]], expected)
    same(data["entities_without_image"], expected_without)
    assert data["image_ratios"] and "times as likely" in Page(page).text and len(Page(page).all("img")) == 1
    page, data = answer(ner, TEXT, checked(ner, TEXT, None))
    assert marked(page) == shown(expected_without) and data["entities_without_image"] is None
    assert not Page(page).all("img") and "image" not in Page(page).text


def test_what_a_visitor_writes_is_no_html(ner):
    from answers import answer

    page = Page(answer(ner, MARKED, None)[0])
    assert not page.all("script") and not page.all("img")
    for part in ("<img src=x onerror=alert(1)>", "<script>", "&amp;"):
        assert part in "".join(re.split(" (?:PER|BIRD)", page.all("p")[0]["text"]))


def test_the_model_is_named_and_its_card_linked(tmp_path):
    from answers import about

    assert "[org/2m-ner](https://huggingface.co/org/2m-ner)" in about("org/2m-ner")
    assert f"**{tmp_path.name}**" in about(str(tmp_path)) and "http" not in about(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "of no format of JPEG, PNG, WEBP, GIF, BMP"),
        (b"", "or empty"),
        (encoded_size(5000, 4000), "the limit is 16000000. Give a smaller image.$"),
    ],
)
def test_an_image_that_does_not_open_is_an_error_that_says_why(content, message, ner, tmp_path):
    from answers import checked

    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        checked(ner, TEXT, uploaded(tmp_path / "image.png"))
    assert str(tmp_path) not in str(caught.value)


def test_a_text_that_cannot_be_read_or_a_url_is_an_error(ner):
    from answers import MAX_CHARACTERS, checked

    with pytest.raises(ValueError, match=f"has {MAX_CHARACTERS + 1} characters; this page reads {MAX_CHARACTERS}"):
        checked(ner, "x" * (MAX_CHARACTERS + 1), None)
    for text in (None, "", " \n"):
        with pytest.raises(ValueError, match="There is no text to read"):
            checked(ner, text, None)
    with pytest.raises(ValueError, match="no uploaded file"):
        checked(ner, TEXT, {"path": None, "url": "http://127.0.0.1/a.png"})


def test_the_card_is_one_that_spaces_read():
    head = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    card = yaml.safe_load(head)
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", card["sdk_version"]) and isinstance(card["python_version"], str)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colours
    assert len(card["short_description"]) <= 60 and card["license"] == "apache-2.0"


@pytest.fixture(scope="module")
def url(ner):
    """The page, served on the loopback."""
    pytest.importorskip("gradio", reason="the page needs Gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from app import build

        page = build(ner, "org/2m-ner")
        _, local_url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", inbrowser=False)
        yield local_url
        page.close()


def test_the_page_answers_through_its_api(url, ner, tmp_path):
    from examples import badge
    from gradio_client import Client, exceptions, handle_file

    badge().save(tmp_path / "a.png")
    client = Client(url, verbose=False)
    found, data = client.predict(TEXT, handle_file(tmp_path / "a.png"), api_name="/entities")
    assert marked(found) == shown(data["entities"]) == shown(ner(TEXT, images=badge()))
    found, data = client.predict(TEXT, None, api_name="/entities")
    assert marked(found) == shown(ner(TEXT)) and data["image_ratios"] is None
    with pytest.raises(exceptions.AppError, match="There is no text"):
        client.predict(" ", None, api_name="/entities")
    path = saved(badge(), tmp_path, format="EPS")
    with pytest.raises(exceptions.AppError, match="of no format of JPEG, PNG"):
        client.predict(TEXT, handle_file(path), api_name="/entities")
    for path in ("/etc/hostname", str(SPACE / "app.py")):  # a file of the server, which nobody uploaded
        with pytest.raises(exceptions.AppError):
            client.predict(TEXT, {"path": path, "meta": {"_type": "gradio.FileData"}}, api_name="/entities")


def test_the_page_names_its_model_and_reads_an_example_at_one_click(url):
    import urllib.request

    from examples import EXAMPLES

    with urllib.request.urlopen(f"{url}config") as response:
        config = json.load(response)
    (about, _) = [part["props"]["value"] for part in config["components"] if part["type"] == "markdown"]
    assert "(https://huggingface.co/org/2m-ner)" in about
    buttons = [part for part in config["components"] if "example" in (part["props"].get("elem_classes") or ())]
    assert [part["props"]["value"].rsplit(" (")[0] for part in buttons] == [example.text for example in EXAMPLES]
    events = {event["id"]: event for event in config["dependencies"]}
    (answered,) = {tuple(event["outputs"]) for event in events.values() if event["api_name"] == "entities"}
    for button in buttons:
        (chain,) = [event["id"] for event in events.values() if [button["id"], "click"] in event["targets"]]
        while tuple(events[chain]["outputs"]) != answered:
            after = [event for event in events.values() if event["trigger_after"] == chain]
            (chain,) = [event["id"] for event in after if event["trigger_only_on_success"]]
