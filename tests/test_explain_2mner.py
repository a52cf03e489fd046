"""Explanations: scores and attention against the model itself, heat maps where they belong, pages that are whole."""

import json

import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image
from tiny_pipelines import LABELS, TEXTS, limited, make_pipeline, plain_image, same
from transformers import CLIPImageProcessorPil, ViTConfig

import explain_2mner
from explain_2mner import highlight

TEXT, LONG = TEXTS[0], " ".join(TEXTS)


@pytest.fixture(scope="module", params=["none", "gated"])
def reader(request, towers):
    """A pipeline that reads captions."""
    return make_pipeline(towers, collaboration=request.param, image_as_text=True)


def halves() -> Image.Image:
    """Black on the left, white on the right."""
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (40, 0, 80, 40))
    return image


def check_scores_without_image(pipe, text, explanation) -> None:
    """Each is the posterior of the same words as the same type, in the text alone; and the image counts."""
    mask = torch.ones(1, len(pipe.processor.split_words(text)[0]), dtype=torch.bool)
    with torch.no_grad():
        logits = pipe.model(**pipe.processor(text)).logits
    changed = 0
    for explained in explanation.entities:
        kind, words = explained.entity["entity_group"], word_range(pipe, text, explained.entity)
        query = [[0, words.start, words.stop, LABELS.index(f"B-{kind}"), LABELS.index(f"I-{kind}")]]
        expected = pipe.model.crf.span_log_prob(logits, mask, torch.tensor(query)).exp().item()
        assert explained.score_without_image == pytest.approx(expected, abs=5e-5)
        changed += abs(explained.score_without_image - explained.entity["score"]) > 1e-3
    assert changed  # else the image or caption would not have been read, or not have been hidden


def word_range(pipe, text, entity) -> slice:
    starts, ends = zip(*pipe.processor.split_words(text)[1], strict=True)
    return slice(starts.index(entity["start"]), ends.index(entity["end"]) + 1)


def entities_of(explanation) -> list[dict]:
    return [entity.entity for entity in explanation.entities]


class TestData:
    @pytest.mark.parametrize("collaboration", ["cross_attention", "gated", "umt", "evidence", "none"])
    @pytest.mark.parametrize("second_tower", [False, True])
    def test_entities_are_the_pipelines(self, towers, collaboration, second_tower):
        folders = (*towers, towers[1]) if second_tower else towers
        pipe = make_pipeline(folders, seed=1, collaboration=collaboration)
        explanation = pipe.explain(LONG, halves())
        same(entities_of(explanation), pipe(LONG, images=halves()))
        if collaboration == "none":
            assert explanation.image is None and explanation.entities_without_image is None
            return
        same(explanation.entities_without_image, pipe(LONG))
        assert explanation.entities
        for entity in explanation.entities:
            assert (entity.gate is None) == (collaboration not in ("gated", "evidence"))
            assert (entity.attention is None) == (collaboration == "evidence")
            assert entity.attention is None or entity.attention.shape == (2, 2)
            assert entity.gate is None or 0 <= entity.gate <= 1

    def test_score_without_the_image_is_that_of_the_same_span(self, ner):
        check_scores_without_image(ner, LONG, ner.explain(LONG, halves()))

    def test_gates_and_attention_are_the_models(self, ner):
        batch = ner.processor(TEXT, images=halves())
        with torch.no_grad():
            outputs = ner.model.model(**batch, output_attentions=True)
        explanation = ner.explain(TEXT, halves())
        assert explanation.entities
        for entity in explanation.entities:
            span = word_range(ner, TEXT, entity.entity)
            assert entity.gate == pytest.approx(outputs.gates[0, span].mean().item(), abs=1e-5)
            weights = outputs.image_attentions[0][0].mean(0)[span].mean(0).numpy()  # the [CLS] of ViT, then patches
            np.testing.assert_allclose(entity.attention.flatten(), weights[1:], atol=1e-5)
            assert entity.attention.sum() + weights[0] == pytest.approx(1, abs=1e-5)

    def test_without_an_image_there_is_only_the_text(self, ner):
        explanation = ner.explain(TEXT)
        same(entities_of(explanation), ner(TEXT))
        assert explanation.entities_without_image is None and explanation.image is None
        for entity in explanation.entities:
            assert entity == explain_2mner.EntityExplanation(entity.entity)
        page = Page(explanation.to_html())
        assert page.all("img") == [] and page.all("mark")
        assert "ithout the" not in page.text and "Caption" not in page.text
        assert ner.explain("", plain_image("red")).entities == [] and ner.explain(" ").entities == []

    def test_long_text(self, ner):
        windowed = limited(ner, 32)
        explanation = windowed.explain(LONG, halves(), stride=5)
        same(entities_of(explanation), windowed(LONG, images=halves(), stride=5))
        assert len(explanation.entities) > 2
        assert all(entity.attention.shape == (2, 2) for entity in explanation.entities)

    def test_options_and_other_inputs(self, ner):
        for item, options in (
            ({"text": LONG, "image": halves()}, {"entity_types": ["PER"]}),
            ({"tokens": [*TEXT.split(), "New York"], "image": halves()}, {}),
        ):
            found = entities_of(ner.explain(item, **options))
            assert found
            same(found, ner(item, **options))
        with pytest.raises(TypeError, match="takes no aggregation_strategy"):
            ner.explain(TEXT, aggregation_strategy="none")
        with pytest.raises(TypeError, match="of one text; it takes no batch_size, num_workers"):
            ner.explain(TEXT, num_workers=1, batch_size=1)
        with pytest.raises(ValueError, match="another as `image`"):
            ner.explain({"text": TEXT, "image": halves()}, halves())

    def test_json(self, ner):
        explanation = ner.explain(TEXT, halves(), top_k=2)
        data = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
        assert data["text"] == TEXT
        for item, entity in zip(data["entities"], explanation.entities, strict=True):
            assert item["word"] == entity.entity["word"] and np.allclose(item["attention"], entity.attention)


class TestCaptions:
    CAPTION = "a <i>man runs in Santiago"

    @pytest.mark.parametrize("image", [None, halves()])
    def test_without_the_image_is_without_its_caption(self, reader, image):
        item = {"text": LONG, "image": image, "caption": self.CAPTION}
        explanation = reader.explain(item)
        same(entities_of(explanation), reader(item))
        same(explanation.entities_without_image, reader(LONG))
        check_scores_without_image(reader, LONG, explanation)
        assert json.loads(json.dumps(explanation.to_dict(), allow_nan=False))["caption"] == self.CAPTION
        assert f"Caption: {self.CAPTION}" in Page(explanation.to_html()).text

    def test_words_long_texts_and_none(self, reader):
        windowed = limited(reader, 40)
        for pipe, item in ((windowed, {"text": LONG}), (reader, {"tokens": TEXT.split()}), (reader, {"text": ""})):
            item["caption"] = "a man"
            same(entities_of(pipe.explain(item)), pipe(item))
        for caption in (None, " "):
            explanation = reader.explain({"text": TEXT, "caption": caption})
            assert explanation.caption is None and explanation.entities_without_image is None

    def test_a_model_that_reads_no_captions_says_so_as_in_a_call(self, ner):
        for asked in (ner, ner.explain):
            with pytest.raises(ValueError, match="not trained to read captions"):
                asked({"text": TEXT, "caption": self.CAPTION})


class TestHeatMap:
    @pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
    def test_warm_where_the_attention_is(self, corner):
        attention = np.zeros((2, 2), np.float32)
        attention[corner] = 0.5
        image = Image.new("RGB", (120, 60), "black")
        explained = explain_2mner.EntityExplanation({}, attention=attention)
        shown = explain_2mner.Explanation("a", [explained], None, image).heat_map(0)
        assert shown.size == image.size
        quarters = np.asarray(shown, dtype=float).reshape(2, 30, 2, 60, 3).mean((1, 3, 4))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == corner

    def test_of_nothing(self, ner):
        with pytest.raises(IndexError):
            ner.explain(TEXT, halves()).heat_map(99)
        with pytest.raises(ValueError, match="no image was given"):
            ner.explain(TEXT).heat_map(0)

    @pytest.mark.parametrize(
        ("config", "patches", "size", "expected"),
        [
            (ViTConfig(patch_size=16), 197, (224, 224), (14, 14, 1)),
            (ViTConfig(patch_size=14), 261, (224, 224), (16, 16, 5)),  # four registers
            (ViTConfig(patch_size=4), 49, (224, 224), (7, 7, 0)),  # patches merged on the way, as in Swin
            (object(), 32, (128, 256), (4, 8, 0)),  # a convolutional map
            (object(), 47, (224, 224), None),
        ],
    )
    def test_how_a_sequence_covers_the_image(self, config, patches, size, expected):
        assert explain_2mner._grid(config, patches, size) == expected

    def test_a_cropped_image_is_shown_as_it_was_seen(self):
        processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32})
        image = Image.new("RGB", (200, 100), "black")
        box = explain_2mner._seen_box(processor, image.size)
        assert box == (67, 17, 133, 83)  # two thirds of the height, as wide, from the middle
        # What lies outside the box changes nothing in what the model sees; what lies inside does.
        for inside, left in ((False, 20), (True, 90)):
            marked = image.copy()
            marked.paste("white", (left, 40, left + 20, 60))
            pixels = [processor(shown, return_tensors="np")["pixel_values"] for shown in (image, marked)]
            assert (pixels[0] != pixels[1]).any() == inside
        whole = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
        assert explain_2mner._seen_box(whole, (200, 100)) == (0, 0, 200, 100)


class TestPage:
    def test_text_and_entities(self):
        text = "<b>Jordan</b> & Paris\n\u202eשלום"
        entities = [
            {"entity_group": "PER", "score": 0.5, "word": "Jordan", "start": 3, "end": 9},
            {"entity_group": 'a"<', "score": 0.25, "word": "Paris", "start": 16, "end": 21},
        ]
        page = Page(highlight(text, entities))
        assert page.text == '<b>JordanPER</b> & Parisa"<\n\u202eשלום'
        first, second = page.all("mark")
        assert first["style"] != second["style"]
        assert Page(highlight(text, [])).text == text

    def test_the_page_needs_nothing_else(self, ner):
        explanation = ner.explain(TEXTS[3] + " <script>alert(1)</script> \" ' & </p>", halves(), top_k=1)
        page = Page(explanation.to_html())
        assert not page.all("script")
        number = len(explanation.entities)
        assert number and len(page.all("mark")) == 2 * number + len(explanation.entities_without_image)
        assert len(page.all("img")) == 1 + number
        links = [one[name] for one in page.elements for name in ("href", "src") if name in one]
        assert all(link.startswith("data:image/jpeg;base64,") for link in links)
        assert f"{explanation.entities[0].score_without_image:.3f}" in page.text
