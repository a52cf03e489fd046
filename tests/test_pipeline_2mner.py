"""Tests of the pipeline: entities against all taggings enumerated, windows against one pass, batch against single."""

import io
import itertools
import json
import os
import subprocess
import sys
import tracemalloc

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
    TokenClassificationPipeline,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset
from transformers.pipelines.token_classification import AggregationStrategy

import pipeline_2mner
from modeling_2mner import TwoMNERForTokenClassification
from pipeline_2mner import TwoMNERPipeline
from processing_2mner import TwoMNERProcessor

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = [
    "Jordan was seen in Paris.",
    "Orange",
    "",
    "L'Amazone coule vers l'Atlantique, dit Victoria Santiago.",
    "Die Königin besuchte München und den FC Bayern!",
    "¿Vive Florencia en Santiago de Chile? 🙂",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?'0123456789"
MAX_POSITIONS = 512


def make_towers(folder, num_layers=1):
    """A BERT that spells words letter by letter and a ViT, both tiny, as folders."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    text, vision = folder / "text", folder / "vision"
    text.mkdir(parents=True)
    (text / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(text / "vocab.txt"), model_max_length=MAX_POSITIONS).save_pretrained(text)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary), num_hidden_layers=num_layers, max_position_embeddings=MAX_POSITIONS, **sizes
        )
    ).save_pretrained(text)
    ViTModel(ViTConfig(image_size=32, patch_size=16, num_hidden_layers=1, **sizes)).save_pretrained(vision)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(vision)
    return text, vision


def make_pipeline(towers, seed=0, labels=LABELS, **config) -> TwoMNERPipeline:
    """A pipeline over random weights, large enough for confident and varied tags."""
    torch.manual_seed(seed)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=labels, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.normal_(std=0.5)
    return TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_towers(*towers), device="cpu")


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return make_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def ner(towers):
    return make_pipeline(towers)


@pytest.fixture(scope="module")
def context_free(tmp_path_factory):
    """A model whose emissions of a word depend on nothing but its first letter: the same in any window."""
    text, vision = make_towers(tmp_path_factory.mktemp("context_free"), num_layers=0)
    pipe = make_pipeline((text, vision), seed=3, collaboration="none")
    with torch.no_grad():
        pipe.model.model.text_model.embeddings.position_embeddings.weight.zero_()
    return pipe


def plain_image(color) -> Image.Image:
    return Image.new("RGB", (40, 24), color)


def same(left, right, tolerance=5e-5):
    """Whether two lists of entities agree, scores to `tolerance`: emissions do to 1e-5, and a score sums them up."""
    assert [{**entity, "score": None} for entity in left] == [{**entity, "score": None} for entity in right]
    assert [entity["score"] for entity in left] == pytest.approx(
        [entity["score"] for entity in right], abs=tolerance, rel=tolerance
    )


def check_layout(text, entities):
    end = 0
    for entity in entities:
        assert list(entity) == ["entity_group", "score", "word", "start", "end"]
        assert type(entity["score"]) is float and 0 < entity["score"] <= 1
        assert end <= entity["start"] < entity["end"] <= len(text)
        assert text[entity["start"] : entity["end"]] == entity["word"]
        end = entity["end"]


def limited(pipe, limit):
    """The same pipeline over a tokenizer that takes `limit` tokens."""
    tokenizer = type(pipe.tokenizer)(vocab=pipe.tokenizer.get_vocab(), model_max_length=limit)
    processor = TwoMNERProcessor(pipe.processor.image_processor, tokenizer)
    return TwoMNERPipeline(model=pipe.model, processor=processor, device="cpu")


class TestEntities:
    @pytest.mark.parametrize("image", [None, plain_image("red")])
    @pytest.mark.parametrize("text", ["Jordan was seen in Paris", "Orange", "a bc d!"])
    def test_best_tagging_and_posteriors_by_enumeration(self, ner, text, image):
        batch = ner.processor(text, images=image)
        with torch.no_grad():
            emissions = ner.model(**batch).logits[0]
        length, scores = emissions.shape[0], enumerated(ner.model.crf, emissions)
        total = torch.stack(list(scores.values())).logsumexp(0)
        best = _spans(max(scores, key=scores.get))

        entities = ner(text, images=image)
        assert entities or text == "Orange"
        words, offsets = ner.processor.split_words(text)
        assert len(words) == length
        assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities] == [
            (offsets[first][0], offsets[last - 1][1], kind) for first, last, kind in best
        ]
        for entity, span in zip(entities, best, strict=True):
            having = [score for tags, score in scores.items() if span in _spans(tags)]
            assert entity["score"] == pytest.approx((torch.stack(having).logsumexp(0) - total).exp().item(), abs=1e-5)

    def test_layout_and_json(self, ner):
        for text, entities in zip(TEXTS, ner(TEXTS), strict=True):
            check_layout(text, entities)
            assert json.loads(json.dumps(entities)) == entities

    def test_types_may_have_hyphens_or_no_inside_tag(self, towers):
        labels = ["O", "B-work-of-art", "I-work-of-art", "B-DAY"]
        pipe = make_pipeline(towers, labels=labels)
        for begin, group in (("B-work-of-art", "work-of-art"), ("B-DAY", "DAY")):
            with torch.no_grad():
                pipe.model.classifier.weight.zero_()
                pipe.model.classifier.bias.copy_(torch.tensor([5.0 * (label == begin) for label in labels]))
            found = pipe("Orange gewinnt")
            assert [(entity["entity_group"], entity["word"]) for entity in found] == [
                (group, "Orange"),
                (group, "gewinnt"),
            ]

    def test_softmax_head_is_read_strictly(self, towers):
        pipe = make_pipeline(towers, tagging_head="softmax")
        with torch.no_grad():
            pipe.model.classifier.weight.zero_()
            pipe.model.classifier.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0]))
        assert pipe("Jordan was seen") == []  # every word is I-PER: an entity that never began

    def test_half_precision(self, towers):
        pipe = make_pipeline(towers)
        pipe.model.to(torch.bfloat16)
        for text, entities in zip(TEXTS, pipe(TEXTS, images=[plain_image("blue")] * len(TEXTS)), strict=True):
            check_layout(text, entities)


def enumerated(crf, emissions) -> dict[tuple[int, ...], torch.Tensor]:
    """The score of every tagging that IOB2 allows."""
    start, step, end = (
        parameter.detach() for parameter in (crf.start_transitions, crf.transitions, crf.end_transitions)
    )
    scores = {}
    for tags in itertools.product(range(len(LABELS)), repeat=len(emissions)):
        names = ["O", *(LABELS[tag] for tag in tags)]
        if any(b[0] == "I" and a not in (f"B-{b[2:]}", b) for a, b in itertools.pairwise(names)):
            continue
        score = start[tags[0]] + end[tags[-1]] + sum(emissions[i, tag] for i, tag in enumerate(tags))
        scores[tags] = (score + sum(step[a, b] for a, b in itertools.pairwise(tags))).double()
    return scores


def _spans(tags) -> list[tuple[int, int, str]]:
    spans, names = [], [LABELS[tag] for tag in tags]
    for start, name in enumerate(names):
        if name.startswith("B-"):
            inside = itertools.takewhile(lambda tag: tag == f"I-{name[2:]}", names[start + 1 :])  # noqa: B023
            spans.append((start, start + 1 + len(list(inside)), name[2:]))
    return spans


class TestInputs:
    def test_one_gives_a_list_and_many_give_lists(self, ner):
        alone = ner(TEXTS[0])
        assert alone and ner([TEXTS[0]]) == [alone] and ner((TEXTS[0],)) == [alone]
        assert ner({"text": TEXTS[0]}) == alone and ner({"text": TEXTS[0], "image": None}) == alone

    def test_image_as_argument_or_in_the_dict(self, ner):
        alone = ner(TEXTS[0], images=plain_image("red"))
        same(ner({"text": TEXTS[0], "image": plain_image("red")}), alone)
        same(ner(TEXTS[:2], images=[plain_image("red"), None])[0], alone)
        same(ner([{"text": TEXTS[0], "image": plain_image("red")}, TEXTS[1]])[0], alone)

    def test_image_of_every_kind(self, ner, tmp_path):
        image, path, buffer = plain_image("green"), tmp_path / "green.png", io.BytesIO()
        image.save(path)
        image.save(buffer, format="PNG")
        expected = ner(TEXTS[0], images=image)
        for kind in (path, str(path), buffer.getvalue(), {"bytes": buffer.getvalue(), "path": None}):
            same(ner(TEXTS[0], images=kind), expected)

    def test_the_image_counts(self, ner):
        scores = [
            [entity["score"] for entity in ner(TEXTS[0], images=image)]
            for image in (None, plain_image("white"), plain_image("black"))
        ]
        assert scores[0] != scores[1] and scores[1] != scores[2]

    def test_empty_texts(self, ner):
        assert ner("") == [] and ner(" \n\t") == [] and ner([]) == [] and ner([], images=[]) == []
        assert ner("", images=plain_image("red")) == []
        assert ner(["", " "], batch_size=2) == [[], []]

    def test_stream_is_read_as_it_is_consumed(self, ner):
        read = []

        def texts():
            for text in itertools.cycle(TEXTS):
                read.append(text)
                yield {"text": text, "image": None}

        results = ner(texts(), batch_size=2)
        for text, expected in zip(TEXTS, ner(TEXTS), strict=True):
            check_layout(text, expected)
            same(next(results), expected)
        assert len(read) <= len(TEXTS) + 3

    @pytest.mark.parametrize("batch_size", [None, 1, 4])
    def test_whatever_holds_texts_is_a_stream(self, ner, batch_size):
        class Indexed:
            def __len__(self):
                return len(TEXTS)

            def __getitem__(self, index):
                return TEXTS[index % len(TEXTS)]  # never an IndexError

        class Stream(torch.utils.data.IterableDataset):
            def __len__(self):
                return len(TEXTS)

            def __iter__(self):
                return iter(TEXTS)

        class Rows(torch.utils.data.Dataset, Indexed):
            def __getitem__(self, index):
                return {"text": TEXTS[index]}

        expected = ner(TEXTS)
        by_number = pd.Series(TEXTS[::-1], index=range(5, -1, -1))[::-1]
        for inputs in (
            *({text: None for text in TEXTS}.keys(), np.array(TEXTS), Indexed(), Stream(), Rows(), by_number),
            *(pd.Series(TEXTS, index=list("fedcba")), KeyDataset([{"text": text} for text in TEXTS], "text")),
        ):
            results = ner(inputs, batch_size=batch_size)
            assert not isinstance(results, list)
            for left, right in zip(results, expected, strict=True):
                same(left, right)
        assert list(ner(KeyDataset([], "text"))) == []

    def test_a_data_frame_is_an_error_that_says_what_to_pass(self, ner):
        frame = pd.DataFrame({"text": TEXTS[:2], "image": [plain_image("red"), None]}, index=[5, 0])
        with pytest.raises(TypeError, match=r'Got a DataFrame.*df\["text"\].*df.to_dict\("records"\)'):
            ner(frame)
        expected = ner(TEXTS[:2], images=[plain_image("red"), None])
        for left, right in zip(ner(frame.to_dict("records")), expected, strict=True):
            same(left, right)

    def test_datasets_columns(self, ner):
        table = datasets.Dataset.from_dict(
            {
                "id": list("abcdef"),
                "text": TEXTS,
                "image": [None, plain_image("red"), None, None, plain_image("blue"), None],
            },
            features=datasets.Features(
                {"id": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
            ),
        )
        expected = ner(TEXTS, images=table["image"][:])
        for rows in (table, table.to_iterable_dataset()):
            for left, right in zip(ner(rows, batch_size=2), expected, strict=True):
                same(left, right)
        tokens = datasets.Dataset.from_dict({"tokens": [["Jordan", "was", "seen"], []], "ner_tags": [[1, 0, 0], []]})
        assert list(ner(tokens)) == [ner({"tokens": ["Jordan", "was", "seen"]}), []]
        with pytest.raises(ValueError, match=r"columns \['id'\]; expected `text` or `tokens`"):
            ner(table.select_columns(["id"]))

    def test_words_that_are_given(self, ner):
        words = ["Jordan", "was", "seen", "in", "New York"]
        found = ner({"tokens": words})
        check_layout(" ".join(words), found)
        shown = ner({"tokens": words, "image": plain_image("red")})
        same(ner([{"tokens": words, "image": plain_image("red")}])[0], shown)

    @pytest.mark.parametrize(
        "kind",
        [tuple, np.array, lambda words: np.array(words, dtype=object), lambda words: pd.Series(words, [7, 0, 3, 1])]
        + [lambda words: datasets.Dataset.from_dict({"word": words})["word"]],
        ids=["tuple", "array", "objects", "series", "column"],
    )
    def test_words_in_whatever_holds_them_are_one_text(self, ner, kind):
        words = ["Jordan", "was", "seen", "in"]
        expected = ner({"tokens": words})
        assert expected and ner({"tokens": kind(words)}) == expected
        explained = ner.explain({"tokens": kind(words)})
        same([found.entity for found in explained.entities], expected)

    def test_rows_of_words(self, ner):
        rows = [["Jordan", "was", "seen"], ["in", "Paris", "."]]
        expected = [ner({"tokens": row}) for row in rows]
        table = datasets.Dataset.from_dict({"tokens": rows})
        for inputs in (table, table.with_format("numpy"), iter({"tokens": row} for row in rows)):
            for left, right in zip(ner(inputs), expected, strict=True):
                same(left, right)

    def test_words_of_which_nothing_is_shown(self, ner, monkeypatch):
        """The model reads them, as in training; no entity begins or ends with one."""

        def tagged(words, tags):
            monkeypatch.setattr(ner.model.crf, "decode", lambda emissions, mask: torch.tensor([tags]))
            text = " ".join(words)
            found = ner({"tokens": words})
            assert all(text[entity["start"] : entity["end"]] == entity["word"] for entity in found)
            labels = ner({"tokens": words}, aggregation_strategy="none")
            assert all(text[label["start"] : label["end"]] == label["word"] != "" for label in labels)
            return [(entity["word"], entity["start"]) for entity in found], [label["index"] for label in labels]

        assert tagged(["", "Radbury"], [1, 2]) == ([("Radbury", 1)], [2])
        assert tagged(["Radbury", "", "\u200b"], [1, 2, 2]) == ([("Radbury", 0)], [1])
        assert tagged(["Hermes", "\u200b", "Bay"], [1, 2, 2]) == ([("Hermes \u200b Bay", 0)], [1, 3])
        assert tagged(["", "\ufe0f", "Bay"], [1, 2, 3]) == ([("Bay", 3)], [3])

    @pytest.mark.parametrize("character", ["\u200b", "\ufeff", "\u200e", "\u200f", "\u200d", "\x1c", "\x1f", "\u2066"])
    def test_what_is_not_shown_between_two_words_cuts_no_entity(self, ner, character, monkeypatch):
        monkeypatch.setattr(ner.model.crf, "decode", lambda emissions, mask: torch.tensor([[3, 4]]))
        for text in (f"Hermes{character} Bay", f"Hermes {character}Bay"):
            (found,) = ner(text)
            check_layout(text, [found])
            assert found["word"] == text and found["entity_group"] == "LOC"

    @pytest.mark.parametrize(
        ("inputs", "images", "error", "message"),
        [
            (3, None, TypeError, "Got an input of type int; expected a string"),
            ([["two", "words"]], None, TypeError, "Got an input of type list; expected a string, "),
            ({"text": "a", "photo": None}, None, ValueError, r"keys \['photo', 'text'\]"),
            ({"text": 3}, None, ValueError, "a text of type int"),
            ({"tokens": ["a", None]}, None, ValueError, "tokens of type list"),
            ({"tokens": "a b"}, None, ValueError, "tokens of type str"),
            ("a", [None], ValueError, "a list of 1 images for one text"),
            (["a", "b"], plain_image("red"), ValueError, "one image of type Image for a list of 2 texts"),
            (["a", "b"], [plain_image("red")], ValueError, "1 images for 2 texts"),
            ({"text": "a"}, plain_image("red"), ValueError, "beside an input of type dict"),
            (iter(["a"]), [None], ValueError, "cannot be matched with texts from a list_iterator"),
            ("a", "no/such/file.png", ValueError, "no/such/file.png does not exist"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, ner, inputs, images, error, message):
        with pytest.raises(error, match=message):
            ner(inputs, images=images)

    def test_without_processor_or_entities(self, ner, towers):
        with pytest.raises(ValueError, match="was given no processor"):
            TwoMNERPipeline(model=ner.model)
        pipe = make_pipeline(towers)
        pipe.model.config.id2label = {0: "NOUN", 1: "VERB"}
        with pytest.raises(ValueError, match=r"labels are \['NOUN', 'VERB'\]; expected IOB2: O, B-PER"):
            TwoMNERPipeline(model=pipe.model, processor=pipe.processor)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The stock pipeline over a model of text alone, with the same labels."""
    text, _ = make_towers(tmp_path_factory.mktemp("stock"))
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(
        text, id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)}
    )
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=3)
    return pipeline("ner", model=model, tokenizer=BertTokenizerFast.from_pretrained(text), device="cpu")


def layout(items) -> set[tuple]:
    kinds = {np.float32: float, np.float64: float}
    return {tuple((key, kinds.get(type(value), type(value))) for key, value in item.items()) for item in items}


class TestStockCode:
    """What was written for the stock, text-only pipeline."""

    @pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max", *AggregationStrategy])
    def test_keys_and_types_are_the_stock_ones(self, ner, stock, strategy):
        ours, theirs = (pipe(TEXTS[0], aggregation_strategy=strategy) for pipe in (ner, stock))
        assert len(layout(ours)) == 1 and layout(ours) == layout(theirs)

    def test_nesting_and_names(self, ner, stock):
        for inputs in (TEXTS[0], TEXTS, [TEXTS[0]]):
            ours, theirs = (pipe(inputs, aggregation_strategy="none") for pipe in (ner, stock))
            assert isinstance(ours, list) and len(ours) > 0
            assert {type(item) for item in ours} == {type(item) for item in theirs}
        for item in ner(TEXTS[0], aggregation_strategy="none"):
            assert item["entity"] in LABELS and item["entity"] != "O"

    def test_a_stock_loop_runs_unchanged(self, ner, stock):
        for pipe in (ner, stock):
            for entities in pipe(KeyDataset([{"text": text} for text in TEXTS], "text"), batch_size=2):
                names = [f"{e['word']}/{e['entity']}" for e in entities if "entity" in e and e["score"] > 0.1]
                assert all("/" in name for name in names)
        pipe = TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", aggregation_strategy="none")
        assert "entity" in pipe(TEXTS[0])[0] and "entity_group" in pipe(TEXTS[0], aggregation_strategy="simple")[0]

    def test_a_labels_score_is_its_posterior(self, ner):
        batch = ner.processor(TEXTS[0])
        with torch.no_grad():
            logits = ner.model(**batch).logits
            posterior = ner.model.crf.marginals(logits, torch.ones(logits.shape[:2], dtype=torch.bool))[0]
        for item in ner(TEXTS[0], aggregation_strategy="none"):
            expected = posterior[item["index"] - 1, LABELS.index(item["entity"])].item()
            assert item["score"] == pytest.approx(expected, abs=1e-5)


class TestOptions:
    def test_a_minimum_score(self, ner):
        entities = [entity for found in ner(TEXTS) for entity in found]
        middle = sorted(entity["score"] for entity in entities)[len(entities) // 2]
        kept = [entity for found in ner(TEXTS, min_score=middle) for entity in found]
        assert kept == [entity for entity in entities if entity["score"] >= middle] and 0 < len(kept) < len(entities)

    @pytest.mark.parametrize("strategy", [None, "none"])
    def test_allowed_types(self, ner, strategy):
        key = "entity" if strategy else "entity_group"
        everything = [item for found in ner(TEXTS, aggregation_strategy=strategy) for item in found]
        for kind in ("PER", "LOC"):
            expected = [item for item in everything if item[key].endswith(kind)]
            found = ner(TEXTS, aggregation_strategy=strategy, entity_types=[kind])
            assert [item for items in found for item in items] == expected != everything
        assert ner(TEXTS[0], entity_types="PER") == ner(TEXTS[0], entity_types=["PER"])
        assert ner(TEXTS, entity_types=[]) == [[]] * len(TEXTS)

    def test_alternatives_by_enumeration(self, ner):
        text = "Jordan was seen in Paris"
        with torch.no_grad():
            emissions = ner.model(**ner.processor(text)).logits[0]
        scores = enumerated(ner.model.crf, emissions)
        total = torch.stack(list(scores.values())).logsumexp(0)

        def posterior(holds):
            having = [score for tags, score in scores.items() if holds(tags)]
            return (torch.stack(having).logsumexp(0) - total).exp().item() if having else 0.0

        entities = ner(text, top_k=5)
        offsets = ner.processor.split_words(text)[1]
        assert entities
        for entity in entities:
            start = [begin for begin, _ in offsets].index(entity["start"])
            end = [stop for _, stop in offsets].index(entity["end"]) + 1
            other = {"PER": "LOC", "LOC": "PER"}[entity["entity_group"]]
            expected = {other: posterior(lambda tags, span=(start, end, other): span in _spans(tags))}
            alternatives = entity.pop("alternatives")
            assert {item["entity_group"]: item["score"] for item in alternatives} == pytest.approx(expected, abs=1e-5)
            assert alternatives == sorted(alternatives, key=lambda item: -item["score"])
        same(entities, ner(text))
        assert [len(entity["alternatives"]) for entity in ner(text, top_k=1)] == [1] * len(entities)

    def test_options_of_the_pipeline_are_defaults_of_its_calls(self, ner):
        pipe = TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", entity_types=["PER"], top_k=1)
        assert pipe(TEXTS) == ner(TEXTS, entity_types=["PER"], top_k=1)
        assert pipe(TEXTS, entity_types=["LOC"]) == ner(TEXTS, entity_types=["LOC"], top_k=1)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            (
                {"entity_types": ["PER", "DOG"]},
                ValueError,
                r"no entities of \['DOG'\]; its types are \['PER', 'LOC'\]",
            ),
            ({"min_score": "0.5"}, ValueError, "`min_score` is '0.5'; expected a number from 0 to 1"),
            ({"min_score": float("nan")}, ValueError, "`min_score` is nan"),
            ({"batch_size": "8"}, ValueError, "`batch_size` is '8'; expected a whole number, 1 or more"),
            ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
            ({"num_workers": "2"}, ValueError, "`num_workers` is '2'; expected a whole number, 0 or more"),
            ({"num_workers": -1}, ValueError, "`num_workers` is -1"),
            ({"top_k": "3"}, ValueError, "`top_k` is '3'; expected a whole number, 1 or more"),
            ({"stride": "3"}, ValueError, "`stride` is '3'; expected a whole number, 0 or more"),
            ({"entity_types": 3}, ValueError, "`entity_types` is 3; expected a list of strings"),
            ({"entity_types": [1]}, ValueError, r"`entity_types` is \[1\]; expected a list of strings"),
            ({"aggregation_strategy": 1}, ValueError, "`aggregation_strategy` is 1; expected one of none, simple"),
            ({"aggregation_strategy": "x" * 100_000}, ValueError, "^.{0,200}expected one of none, simple.{0,50}$"),
            ({"top_k": True}, ValueError, "`top_k` is True"),
            ({"aggregation_strategy": "sum"}, ValueError, "'sum'; expected one of none, simple"),
            ({"threshold": 0.5}, TypeError, "no option `threshold`; expected one of aggregation_strategy, min_score"),
        ],
    )
    def test_what_cannot_be_is_an_error(self, ner, options, error, message):
        for call in (
            lambda: ner(TEXTS[0], **options),
            lambda: ner(iter(TEXTS), **options),
            lambda: TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", **options),
        ):
            with pytest.raises(error, match=message) as caught:
                call()
            assert error is TypeError or isinstance(caught.value, ner.InputError)

    def test_numbers_of_numpy_are_numbers(self, ner):
        options = {"min_score": np.float32(0.25), "top_k": np.int64(2), "batch_size": np.int64(2)}
        assert ner(TEXTS, **options) == ner(TEXTS, min_score=0.25, top_k=2, batch_size=2)


class TestBatches:
    @pytest.mark.parametrize("batch_size", [2, 5, 64])
    def test_batch_equals_single_in_any_order(self, ner, batch_size):
        images = [plain_image("red"), None, plain_image("blue"), plain_image("red"), None, plain_image("black")]
        items = [{"text": text, "image": image} for text, image in zip(TEXTS * 2, images + images[::-1], strict=True)]
        items[3]["text"] *= 30  # longer than the encoder takes
        alone = [ner(item) for item in items]
        assert sum(map(len, alone)) > len(items)
        for order in (range(len(items)), reversed(range(len(items)))):
            order = list(order)
            together = ner([items[index] for index in order], batch_size=batch_size)
            for index, entities in zip(order, together, strict=True):
                same(entities, alone[index])

    def test_batches_are_of_the_size_asked_for(self, ner, monkeypatch):
        sizes, emissions = [], ner.model.emissions

        def counted(**inputs):
            sizes.append(len(inputs["input_ids"]))
            return emissions(**inputs)

        monkeypatch.setattr(ner.model, "emissions", counted)
        ner([text for text in TEXTS if text] * 2, batch_size=4)
        assert sizes == [4, 4, 2]


class TestLongTexts:
    @pytest.mark.parametrize("stride", [0, 6, 20])
    def test_windows_give_what_one_pass_gives(self, context_free, stride):
        windowed = limited(context_free, 32)
        generator = torch.Generator().manual_seed(stride)
        for _ in range(20):
            lengths = torch.randint(1, 6, (50,), generator=generator).tolist()
            letters = torch.randint(0, 26, (50,), generator=generator).tolist()
            text = " ".join(LETTERS[letter] * length for letter, length in zip(letters, lengths, strict=True))
            expected = context_free(text)
            assert len(windowed.processor.windows(text.split(), stride=stride)) > 3 and expected
            same(windowed(text, stride=stride, batch_size=3), expected)

    def test_an_entity_is_found_once_wherever_the_seam_falls(self, context_free):
        pipe = context_free
        begins = {letter: [entity["word"] for entity in pipe(letter)] == [letter] for letter in LETTERS[:26]}
        outside = next(letter for letter, is_entity in begins.items() if not is_entity)
        name = next(
            name
            for name in map(" ".join, itertools.product(LETTERS[:26], repeat=3))
            if [entity["word"] for entity in pipe(f"{outside} {outside} {name} {outside} {outside}")] == [name]
        )
        windowed = limited(pipe, 12)  # ten words a window
        for before in range(25):
            text = f"{outside} " * before + name + f" {outside}" * 12
            entities = windowed(text, stride=4)
            assert [(entity["word"], entity["start"]) for entity in entities] == [(name, 2 * before)]
            same(entities, pipe(text))

    def test_the_image_goes_with_every_window(self, ner):
        windowed = limited(ner, 32)
        text = " ".join(text for text in TEXTS if text)
        words = windowed.processor.split_words(text)[0]
        emissions = []
        for window in windowed.processor.windows(words, stride=7):  # a quarter of the 30 that a window holds
            batch = windowed.processor([words[window.start : window.stop]], images=[plain_image("red")])
            with torch.no_grad():
                logits = windowed.model(**batch).logits[0]
            emissions += [logits[word - window.start] for word in range(window.keep_start, window.keep_stop)]
        mask = torch.ones(1, len(words), dtype=torch.bool)
        tags = windowed.model.crf.decode(torch.stack(emissions)[None], mask)[0].tolist()
        offsets = windowed.processor.split_words(text)[1]
        entities = windowed(text, images=plain_image("red"))
        assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities] == [
            (offsets[start][0], offsets[end - 1][1], kind) for start, end, kind in _spans(tags)
        ]

    def test_what_is_kept_of_a_long_text_is_little(self, context_free):
        """A hundred thousand characters: some hundred bytes a word in Python, and one window's tensors at a time."""
        text = ("Jordan was seen in Paris, L'Amazone coule. " * 2400)[:100_000]
        rows, read = [], context_free._read

        def counted(windows):
            rows.append(sum(window.stop - window.start for _, window in windows))
            read(windows)

        context_free._read = counted
        tracemalloc.start()
        entities = context_free(text, batch_size=16)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del context_free._read
        check_layout(text, entities)
        words = len(context_free.processor.split_words(text)[0])
        assert len(entities) > 1000 and peak_bytes < 2000 * words
        assert max(rows) <= 16 * MAX_POSITIONS and sum(rows) < 1.3 * words


class TestTextOnlyModel:
    def test_says_that_images_have_no_effect(self, context_free, monkeypatch):
        messages = []
        monkeypatch.setattr(pipeline_2mner.logger, "warning_once", messages.append)
        assert context_free(TEXTS[0], images=plain_image("red")) == context_free(TEXTS[0])
        assert messages == ["This model reads text only (collaboration='none'): images have no effect."]


class TestFolder:
    PROGRAM = """
import json, sys
from transformers import pipeline
folder, image, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
results = {}
for task in ("token-classification", "ner", "multimodal-ner"):
    ner = pipeline(task, model=folder, trust_remote_code=True, device="cpu")
    results[task] = [ner(texts), ner(texts, images=[image] * len(texts), batch_size=4)]
print(json.dumps({"class": type(ner).__name__, "module": type(ner).__module__, "results": results}))
"""

    def test_stock_call_in_a_fresh_offline_process(self, ner, tmp_path):
        folder, path = tmp_path / "saved", tmp_path / "image.png"
        plain_image("red").save(path)
        ner.save_pretrained(folder)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        # -P: nothing of the repository, installed or not, may be found by its own name.
        block = "import sys; sys.meta_path.insert(0, type('B', (), {'find_spec': staticmethod(" + (
            "lambda name, path=None, target=None: (_ for _ in ()).throw(ModuleNotFoundError(name))"
            " if name.endswith('_2mner') and '.' not in name else None)})())\n"
        )
        run = subprocess.run(
            [sys.executable, "-P", "-c", block + self.PROGRAM, str(folder), str(path), json.dumps(TEXTS)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["custom_pipelines"]
        assert set(saved) == {"token-classification", "ner", "multimodal-ner"}
        output = json.loads(run.stdout.splitlines()[-1])
        assert output["class"] == "TwoMNERPipeline" and output["module"].startswith("transformers_modules.")
        for results in output["results"].values():
            for expected, got in zip([ner(TEXTS), ner(TEXTS, images=[path] * len(TEXTS))], results, strict=True):
                for left, right in zip(got, expected, strict=True):
                    same(left, right)

    MAP = """
import json, sys, time
import datasets
from datasets.fingerprint import Hasher
from transformers import pipeline

datasets.disable_progress_bars()
ner = pipeline("token-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
started = time.perf_counter()
hashes = [Hasher.hash(ner)]
seconds = time.perf_counter() - started
calls, rows = [], datasets.load_from_disk(sys.argv[2])
for _ in range(2):
    before = ner.call_count
    found = rows.map(lambda row: {"entities": ner(row["text"])})
    calls.append(ner.call_count - before)
hashes += [Hasher.hash(ner), Hasher.hash(ner.model), Hasher.hash(ner.processor)]
ner.model.classifier.bias.data += 1
hashes.append(Hasher.hash(ner))
print(json.dumps({"hashes": hashes, "seconds": seconds, "calls": calls, "entities": found["entities"][:]}))
"""

    def test_a_map_over_a_dataset_is_cached_for_all_processes(self, ner, tmp_path):
        """The fingerprint of the pipeline depends on its weights and options alone, and is quickly made."""
        ner.save_pretrained(tmp_path / "saved")
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "rows")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        outputs = []
        for _ in range(2):
            command = [sys.executable, "-P", "-c", self.MAP, str(tmp_path / "saved"), str(tmp_path / "rows")]
            run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert run.returncode == 0, run.stderr
            outputs.append(json.loads(run.stdout.splitlines()[-1]))
        first, second = outputs
        assert first["calls"] == [len(TEXTS), 0] and second["calls"] == [0, 0]
        assert first["hashes"] == second["hashes"]
        before, after, *_, of_other_weights = first["hashes"]
        assert before == after != of_other_weights
        for output in outputs:
            assert output["seconds"] < 1
            for found, expected in zip(output["entities"], ner(TEXTS), strict=True):
                same(found, expected)

    def test_for_objects_the_class_is_named(self, ner):
        pipe = pipeline("ner", model=ner.model, processor=ner.processor, pipeline_class=TwoMNERPipeline, device="cpu")
        assert pipe(TEXTS) == ner(TEXTS)
        for options in ({}, {"processor": ner.processor}):
            with pytest.raises(Exception, match="guess which tokenizer"):
                pipeline("ner", model=ner.model, device="cpu", **options)
        pipe = pipeline("ner", model=ner.model, tokenizer=ner.processor.tokenizer, device="cpu")
        assert type(pipe) is TokenClassificationPipeline  # as the README warns
