"""The handler: answers as the pipeline does, and each kind of bad request to its own error, never an exception."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from test_load_image import encoded, encoded_size
from tiny_pipelines import limited, make_pipeline, noise, same

import handler as handler_module
from handler import EndpointHandler, Limits

TEXTS = ["Jordan was seen in Paris.", "Orange gewinnt gegen München!", "", "L'Amazone coule 🙂", "¿Vive en Santiago?"]


@pytest.fixture(scope="module")
def ner(ner):
    """With windows of 62 tokens."""
    return limited(ner, 64)


@pytest.fixture
def handler(ner):
    return EndpointHandler(ner=ner, limits=Limits())


def in_base64(content: bytes | Image.Image) -> str:
    return base64.b64encode(encoded(content) if isinstance(content, Image.Image) else content).decode()


def with_image(image) -> dict:
    return {"inputs": {"text": TEXTS[0], "image": image}}


def check_error(answer, kind: str, status: int, message: str = "") -> str:
    assert list(answer) == ["error"] and set(answer["error"]) == {"type", "message", "status"}
    assert (answer["error"]["type"], answer["error"]["status"]) == (kind, status), answer
    assert message in answer["error"]["message"], answer
    assert len(answer["error"]["message"]) < 700
    assert "Traceback" not in json.dumps(answer)
    return answer["error"]["message"]


# Good requests


def test_answers_are_the_pipelines(handler, ner):
    expected = ner(TEXTS, images=[noise(), None, None, noise(seed=1), None])
    assert sum(map(len, expected)) > 4
    inputs = [
        {"text": TEXTS[0], "image": in_base64(noise())},
        TEXTS[1],
        {"text": TEXTS[2]},
        {"text": TEXTS[3], "image": f"data:image/png;base64,{in_base64(noise(seed=1))}"},
        {"text": TEXTS[4], "image": None},
    ]
    answer = json.loads(json.dumps(handler({"inputs": inputs})))  # JSON takes it as it is
    same(answer, expected)
    assert handler({"inputs": inputs[1]}) == ner(TEXTS[1])
    assert handler({"inputs": inputs[0], "parameters": None}) == ner(TEXTS[0], images=noise())
    assert handler({"inputs": []}) == []


def test_parameters_reach_the_pipeline(handler, ner):
    options = {"min_score": 0.3, "entity_types": ["PER"], "top_k": 1, "stride": 4}
    found = handler({"inputs": TEXTS[:2], "parameters": options | {"batch_size": 2}})
    same(found, ner(TEXTS[:2], **options))
    assert all(len(entity["alternatives"]) == 1 for entity in found[0])
    labels = handler({"inputs": TEXTS[0], "parameters": {"aggregation_strategy": "none"}})
    same(labels, ner(TEXTS[0], aggregation_strategy="none"))


def test_threads_get_the_answers_to_their_own_questions(handler, ner):
    expected = [ner(text) for text in TEXTS]
    wrong = []

    def ask(start):
        for turn in range(10):
            number = (start + turn) % len(TEXTS)
            found = handler({"inputs": TEXTS[number]})
            if not isinstance(found, list) or [e["word"] for e in found] != [e["word"] for e in expected[number]]:
                wrong.append((number, found))

    with ThreadPoolExecutor(6) as pool:
        pool.map(ask, range(6))
    assert not wrong


def test_a_saved_model_is_served_from_its_folder(ner, tmp_path):
    ner.save_pretrained(tmp_path)
    served = EndpointHandler(str(tmp_path))
    assert served(with_image(in_base64(noise()))) == ner(TEXTS[0], images=noise())


def test_a_model_of_captions_reads_them(towers):
    ner = make_pipeline(towers, collaboration="none", image_as_text=True)
    handler, caption = EndpointHandler(ner=ner, limits=Limits(max_text_characters=50)), "a man in Santiago"
    expected = ner([{"text": TEXTS[0], "caption": caption}, TEXTS[0]])
    assert expected[0] != expected[1]
    inputs = [{"text": TEXTS[0], "caption": caption}, {"text": TEXTS[0], "caption": None}]
    same(handler({"inputs": inputs}), expected)
    same([handler({"inputs": one}) for one in inputs], expected)
    for wrong in (17, [], "half \ud83d of one"):
        error = handler({"inputs": {"text": "a", "caption": wrong}})
        check_error(error, "invalid_request", 400, "inputs.caption ")
    check_error(handler({"inputs": inputs[0] | {"caption": "x" * 40}}), "too_large", 413, "65 characters in inputs")


# Requests of the wrong form


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "Got null; expected"),
        ({"text": "a"}, "Got an object with the keys ['text']; expected"),
        ({"inputs": "a", "options": {}}, "unknown 'options'; known are inputs, parameters"),
        ({"inputs": None}, "inputs is null"),
        ({"inputs": Image.new("RGB", (1, 1))}, "inputs is of type Image"),
        ({"inputs": ["a", 17]}, "inputs[1] is a number"),
        ({"inputs": {"text": "a", "photo": "b"}}, "inputs has the unknown 'photo'; known are text, image"),
        (
            {"inputs": {"text": "a", "image": 17}},
            'inputs.image is a number; `inputs` is a text, or {"text": ..., "image": base64',
        ),
        ({"inputs": {"text": "a", "caption": "b"}}, "inputs has the unknown 'caption'; known are text, image"),
        ({"inputs": "half \ud83d of one"}, "half of a surrogate pair at character 5"),
        ({"inputs": "a", "parameters": []}, "`parameters` is a list; expected an object"),
    ],
)
def test_a_request_of_the_wrong_form(data, message, handler):
    check_error(handler(data), "invalid_request", 400, message)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("min_score", 1.5, "a number from 0 to 1"),
        ("min_score", 10**400, "a number from 0 to 1"),
        ("entity_types", ["ANIMAL"], "['PER', 'LOC']"),
        ("top_k", 0, "1 or more"),
        ("entity_types", [f"ANIMAL{n}" for n in range(10_000)], "no entities of ['ANIMAL0', "),
        ("min_score", [[["x" * 1000] * 9] * 9] * 9, "a number from 0 to 1"),
        ("stride", 32, "at most 31"),  # of 62 pieces: more would make a window for every few words
        ("batch_size", 10**9, "at most 32"),
        ("aggregation_strategy", "median", "none, simple, first, average, max"),
    ],
)
def test_a_parameter_of_the_wrong_value(name, value, expected, handler):
    check_error(handler({"inputs": TEXTS[0], "parameters": {name: value}}), "invalid_parameter", 400, expected)
    answer = handler({"inputs": TEXTS[0], "parameters": {"top_k": 10**400}})
    assert isinstance(answer, list)  # more alternatives than there are is no error
    message = check_error(handler({"inputs": "a", "parameters": {"threshold": 1}}), "unknown_parameter", 400)
    assert "'threshold'" in message and "min_score, entity_types" in message


@pytest.mark.parametrize("error", [ValueError, TypeError, MemoryError])
def test_our_own_faults_are_logged_and_not_told(handler, error, monkeypatch, caplog):
    """Whatever goes wrong inside is no fault of the request, of whatever class the error is."""

    def broken(*args, **kwargs):
        raise error("cannot open /srv/secret/weights.bin")

    monkeypatch.setattr(handler.ner, "forward", broken)
    answer = handler({"inputs": TEXTS[0], "parameters": {"min_score": 0.5}})
    assert "secret" not in check_error(answer, "internal_error", 500, "has been logged")
    assert "/srv/secret/weights.bin" in caplog.text


# Limits


@pytest.mark.parametrize(
    ("limits", "inputs", "message"),
    [
        ({"max_texts": 2}, ["a"] * 3, "Got 3 texts; the limit is 2"),
        ({"max_text_characters": 9}, ["a", "x" * 10], "10 characters in inputs[1]; the limit is 9"),
        ({"max_total_characters": 9}, ["xxxxx", "xxxxx"], "10 characters in all"),
    ],
)
def test_too_much_at_once(limits, inputs, message, ner):
    check_error(EndpointHandler(ner=ner, limits=Limits(**limits))({"inputs": inputs}), "too_large", 413, message)


def test_pixels_are_counted_over_all_images(ner):
    inputs = [{"text": "a", "image": in_base64(noise((30, 20), seed))} for seed in (0, 0, 1)]
    served = EndpointHandler(ner=ner, limits=Limits(max_total_pixels=1000))
    assert isinstance(served({"inputs": inputs[:2]}), list)  # the same image counts once
    check_error(served({"inputs": inputs}), "too_large", 413, "1200 pixels in all")


# Images that are none, and sources that are not read


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("%%% not base64 %%%" * 3, "expected base64 of an image file"),
        ("", "expected base64 of an image file"),
        (in_base64(b"\x89PNG, or so it says, but no more than that"), "cannot be read as an image"),
        (in_base64(encoded_size(4001, 4000)), "the limit is 16000000"),
        ("http://127.0.0.1/a.png", "expected base64 of an image file"),
    ],
)
def test_a_bad_image(image, message, handler):
    check_error(handler(with_image(image)), "invalid_image", 422, message)
    answer = handler({"inputs": ["a", {"text": "b", "image": image}]})
    check_error(answer, "invalid_image", 422, "inputs[1].image: ")


def test_nothing_is_ever_raised(handler):
    """Every JSON value in every place, and one that is nested deep."""
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    check_error(handler({"inputs": deep}), "invalid_request", 400, "inputs[0] is a list")
    values = [None, True, 0, -1, 1e308, float("nan"), "", "a", "\0", "\udcff", [], [None], {}, {"text": "a"}]
    for value in values:
        requests = [value, {"inputs": value}, {"inputs": [value]}, {"inputs": {"text": value}}, with_image(value)]
        requests += [{"inputs": "a", "parameters": value}]
        requests += [{"inputs": "a", "parameters": {name: value}} for name in handler_module.PARAMETERS]
        for request in requests:
            answer = handler(request)
            json.dumps(answer)
            assert isinstance(answer, list) or 400 <= answer["error"]["status"] < 500, (request, answer)
