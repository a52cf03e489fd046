"""The Space: what it shows, its examples and card; the page itself, served where Gradio is installed."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from test_load_image import encoded_size
from tiny_pipelines import make_pipeline

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
    return make_pipeline(towers, labels=["O", "B-PER", "B-BIRD"])  # of one word each, hence many


def spans(entities) -> list[dict]:
    return [{"entity": entity["entity_group"], "start": entity["start"], "end": entity["end"]} for entity in entities]


def saved(image: Image.Image, folder: Path, **options) -> str:
    image.save(folder / "image.png", **options)
    return str(folder / "image.png")


def uploaded(path: str | Path) -> dict:
    """As Gradio has an uploaded file."""
    return {"path": str(path), "url": None}


def test_an_answer_is_the_pipelines_with_the_image_and_without(ner, tmp_path):
    from answers import COLUMNS, answer, checked
    from examples import person

    shown = answer(ner, TEXT, checked(ner, TEXT, uploaded(saved(person(), tmp_path))))
    expected, expected_without = ner(TEXT, images=person()), ner(TEXT)
    assert shown.highlighted == {"text": TEXT, "entities": spans(expected)} and expected
    assert shown.highlighted_without == {"text": TEXT, "entities": spans(expected_without)}
    assert len(shown.rows) == len(shown.heat_maps) == len(expected)
    for row, (heat_map, caption), entity in zip(shown.rows, shown.heat_maps, expected, strict=True):
        assert len(row) == len(COLUMNS) and row[:2] == [entity["word"], entity["entity_group"]]
        assert float(row[2]) == pytest.approx(entity["score"], abs=1e-3)
        assert caption == f"{entity['word']} ({entity['entity_group']})" and heat_map.size == person().size
    shown = answer(ner, TEXT, checked(ner, TEXT, None))
    assert shown.highlighted == {"text": TEXT, "entities": spans(expected_without)}
    assert shown.highlighted_without is None and not shown.heat_maps
    assert all(row[3:] == ["", ""] for row in shown.rows)


def test_heat_maps_are_few_and_small(ner, tmp_path):
    from answers import MAX_HEAT_MAPS, MAX_IMAGE_SIDE_PX, answer, checked

    image = checked(ner, TEXT, uploaded(saved(Image.new("RGBA", (3000, 20), "red"), tmp_path)))
    shown = answer(ner, "Jordan was seen. " * 20, image)
    assert 0 < len(shown.heat_maps) <= MAX_HEAT_MAPS < len(shown.rows)
    assert max(shown.heat_maps[0][0].size) <= MAX_IMAGE_SIDE_PX


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

        page = build(ner)
        _, local_url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", inbrowser=False)
        yield local_url
        page.close()


def test_the_page_answers_through_its_api(url, ner, tmp_path):
    from examples import badge
    from gradio_client import Client, exceptions, handle_file

    badge().save(tmp_path / "a.png")
    client = Client(url, verbose=False)
    found, without, rows, maps = client.predict(TEXT, handle_file(tmp_path / "a.png"), api_name="/entities")
    assert "".join(part["token"] for part in found) == TEXT == "".join(part["token"] for part in without)
    marked = [(part["token"], part["class_or_confidence"]) for part in found if part["class_or_confidence"]]
    assert marked == [(entity["word"], entity["entity_group"]) for entity in ner(TEXT, images=badge())]
    assert len(rows["data"]) == len(maps) == len(marked)
    _, without, _, maps = client.predict(TEXT, None, api_name="/entities")
    assert not without and not maps
    with pytest.raises(exceptions.AppError, match="There is no text"):
        client.predict(" ", None, api_name="/entities")
    path = saved(badge(), tmp_path, format="EPS")
    with pytest.raises(exceptions.AppError, match="of no format of JPEG, PNG"):
        client.predict(TEXT, handle_file(path), api_name="/entities")
    for path in ("/etc/hostname", str(SPACE / "app.py")):  # a file of the server, which nobody uploaded
        with pytest.raises(exceptions.AppError):
            client.predict(TEXT, {"path": path, "meta": {"_type": "gradio.FileData"}}, api_name="/entities")
