"""Explanations: scores and ratios against the model itself, pages that are whole and hide nothing."""

import json
import re

import pytest
import torch
from html_page import Page
from PIL import Image
from tiny_pipelines import LABELS, TEXTS, limited, make_pipeline, plain_image, same

from explain_2mner import EntityExplanation, Explanation, highlight

TEXT, LONG = TEXTS[0], " ".join(TEXTS)


@pytest.fixture(scope="module")
def evidence(towers):
    return make_pipeline(towers, seed=1, collaboration="evidence")


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
            assert (entity.shown is None) == (collaboration != "evidence")
            assert 0 <= (entity.shown or 0) <= 1
        assert (explanation.image_ratios is None) == (collaboration != "evidence")

    def test_score_without_the_image_is_that_of_the_same_span(self, ner):
        check_scores_without_image(ner, LONG, ner.explain(LONG, halves()))

    def test_what_the_image_shows_is_from_the_evidence_head(self, evidence):
        batch = evidence.processor(LONG, images=halves())
        with torch.no_grad():
            outputs, ratios = evidence.model(**batch), evidence.model.emissions(**batch).log_ratios[0].exp()
        explanation = evidence.explain(LONG, halves())
        assert list(explanation.image_ratios) == ["PER", "LOC"]
        assert list(explanation.image_ratios.values()) == pytest.approx(ratios[:2].tolist(), rel=1e-4)
        assert len({round(ratio, 4) for ratio in explanation.image_ratios.values()}) == 2
        for entity in explanation.entities:
            first = word_range(evidence, LONG, entity.entity).start
            assert entity.shown == pytest.approx(outputs.gates[0, first].item(), abs=1e-5)
        assert sum(entity.shown for entity in explanation.entities) > 0
        other = evidence.explain("Orange", halves()).image_ratios  # of the image alone
        assert other == pytest.approx(explanation.image_ratios)
        assert evidence.explain(" ", halves()).image_ratios == pytest.approx(other)
        assert evidence.explain(LONG).image_ratios is None

    def test_without_an_image_there_is_only_the_text(self, ner):
        explanation = ner.explain(TEXT)
        same(entities_of(explanation), ner(TEXT))
        assert explanation.entities_without_image is None and explanation.image is None
        for entity in explanation.entities:
            assert entity == EntityExplanation(entity.entity)
        page = Page(explanation.to_html())
        assert page.all("img") == [] and page.all("mark")
        assert not re.search("image|caption|Shown|likely", page.text, re.IGNORECASE)
        assert ner.explain("", plain_image("red")).entities == [] and ner.explain(" ").entities == []

    def test_long_text(self, ner):
        windowed = limited(ner, 32)
        explanation = windowed.explain(LONG, halves(), stride=5)
        same(entities_of(explanation), windowed(LONG, images=halves(), stride=5))
        assert len(explanation.entities) > 2

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
            assert item == {**entity.entity, "score_without_image": entity.score_without_image, "shown": None}
        assert data["image_ratios"] is None and "image" not in data


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


class TestPage:
    def test_text_and_entities(self):
        text = "<b>Jordan</b> & Paris\n\u202eשלום"
        entities = [
            {"entity_group": "PER", "score": 0.5, "word": "Jordan", "start": 3, "end": 9},
            {"entity_group": 'a"<', "score": 0.25, "word": "Paris", "start": 16, "end": 21},
        ]
        page = Page(highlight(text, entities))
        assert page.text == '<b>Jordan PER</b> & Paris a"<\n\u202eשלום'
        first, second = page.all("mark")
        assert first["style"] != second["style"]
        assert Page(highlight(text, [])).text == text

    def test_the_page_needs_nothing_else(self, ner):
        explanation = ner.explain(TEXTS[3] + " <script>alert(1)</script> \" ' & </p>", halves(), top_k=1)
        page = Page(explanation.to_html())
        assert not page.all("script")
        number = len(explanation.entities)
        assert number and len(page.all("mark")) == 2 * number + len(explanation.entities_without_image)
        (image,) = page.all("img")
        assert image["alt"] == "The image that was given with the text"
        links = [one[name] for one in page.elements for name in ("href", "src") if name in one]
        assert all(link.startswith("data:image/jpeg;base64,") for link in links)
        (viewport,) = page.all("meta", name="viewport")
        assert "width=device-width" in viewport["content"]
        assert {rule.split("{")[0].strip()[:9] for rule in style_rules(page)} <= {".two-mner", ":where(.t"}

    def test_a_row_for_each_entity_and_type(self, evidence):
        explanation = evidence.explain(LONG, halves())
        page = Page(explanation.to_html())
        assert len(page.all("table")) == 1
        rows = {row[0]: row[1:] for row in table(page)}
        for entity in explanation.entities:
            kind, score = entity.entity["entity_group"], entity.entity["score"]
            without, with_image, shown = rows[entity.entity["word"]]
            assert f"{kind} {score:.3f}" in with_image and shown == f"{entity.shown:.3f}"
            assert f"{kind} {entity.score_without_image:.3f}" in without.replace(":", "")
        for kind, ratio in explanation.image_ratios.items():
            assert rows[kind] == [f"{ratio:.3g} times as likely"]
        for part in ("A score is the probability", "Shown is the probability", "How many times as likely this image"):
            assert page.text.count(part) == 1

    def test_what_the_image_changed_is_marked(self):
        found = [("Jordan", "PER", 0.8), ("Paris", "LOC", 0.9), ("Ann", "PER", 0.6)]
        alone = [("Jordan", "LOC", 0.5), ("Paris", "LOC", 0.7), ("<i>Bo", "PER", 0.4)]
        text = "Jordan, Paris, Ann, <i>Bo"
        new = [EntityExplanation(entity(text, *one), 0.25, shown=0.125) for one in found]
        new[0].entity["alternatives"] = [{"entity_group": "ORG", "score": 0.0625}]
        old = [entity(text, *one) for one in alone]
        page = Page(Explanation(text, new, old, halves(), None, {"PER": 2.0, "LOC": 0.5}).to_html())
        assert table(page) == [
            ["Entity", "Without the image", "With the image", "Shown"],
            ["Jordan", "LOC 0.500 as PER: 0.250", "PER 0.800 changed: LOC → PER as ORG: 0.062", "0.125"],
            ["Paris", "LOC 0.700", "LOC 0.900", "0.125"],
            ["Ann", "not found as PER: 0.250", "PER 0.600 only with the image", "0.125"],
            ["<i>Bo", "PER 0.400", "not found only without the image", "–"],
            ["PER", "2 times as likely"],
            ["LOC", "0.5 times as likely"],
        ]
        assert [row["text"][:3] for row in page.all("tr", class_="changed")] == ["Jor", "Ann", "<i>"]

    def test_nothing_found(self):
        page = Page(Explanation("hola").to_html())
        assert table(page) == [["Entity", "Type and score"], ["No entity was found."]]
        assert all(cell["text"] for cell in page.elements if cell["tag"] in ("td", "th", "p"))

    def test_a_notebook_shows_what_is_on_the_page(self, evidence):
        explanation = evidence.explain(TEXT, halves())
        shown, page = Page(explanation._repr_html_()), Page(explanation.to_html())
        assert shown.all("html") == shown.all("body") == [] and shown.elements[0]["class"] == "two-mner"
        assert table(shown) == table(page) and shown.all("img") == page.all("img")
        assert style_rules(shown) == style_rules(page)

    def test_save_writes_a_new_file_only(self, ner, tmp_path):
        explanation = ner.explain(TEXT, halves())
        explanation.save(tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text(encoding="utf-8") == explanation.to_html()
        (tmp_path / "mine.html").write_text("mine")
        with pytest.raises(FileExistsError, match="mine.html is there already; remove it or give another name"):
            explanation.save(str(tmp_path / "mine.html"))
        assert (tmp_path / "mine.html").read_text() == "mine"


def entity(text: str, word: str, kind: str, score: float) -> dict:
    start = text.index(word)
    return {"entity_group": kind, "score": score, "word": word, "start": start, "end": start + len(word)}


def table(page: Page) -> list[list[str]]:
    """The text of each cell, row by row, without the titles."""
    rows: list[list[str]] = []
    for one in page.elements:
        if one["tag"] == "tr":
            rows.append([])
        elif one["tag"] in ("th", "td") and one.get("class") != "title":
            rows[-1].append(one["text"].strip())
    return [row for row in rows if row]


def style_rules(page: Page) -> list[str]:
    (style,) = page.all("style")
    return [rule.strip() for rule in style["text"].split("}") if rule.strip()]
