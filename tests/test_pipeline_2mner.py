"""Tests of the pipeline: entities against all taggings enumerated, windows against one pass, stock code unchanged."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import stranger
import torch
from seqeval.metrics.sequence_labeling import get_entities
from test_crf_2mner import enumerate_paths
from tiny_pipelines import (
    LABELS,
    LETTERS,
    TEXTS,
    check_layout,
    limited,
    make_pipeline,
    make_towers,
    plain_image,
    same,
)
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    TokenClassificationPipeline,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset
from transformers.pipelines.token_classification import AggregationStrategy

import pipeline_2mner
from crf_2mner import iob2_constraints
from pipeline_2mner import TwoMNERPipeline

WORDS = ["Jordan", "was", "seen", "in"]
RED = plain_image("red")


@pytest.fixture(scope="module")
def context_free(tmp_path_factory):
    """A model whose emissions of a word depend on nothing but its first letter: the same in any window."""
    towers = make_towers(tmp_path_factory.mktemp("context_free"), num_layers=0)
    pipe = make_pipeline(towers, seed=3, collaboration="none")
    with torch.no_grad():
        pipe.model.model.text_model.embeddings.position_embeddings.weight.zero_()
    return pipe


@torch.no_grad()
def taggings(pipe, text, image=None) -> tuple[dict[tuple[int, ...], float], list[tuple[int, int]]]:
    """The probability of every tagging that IOB2 allows, and the offsets of the words."""
    emissions = pipe.model(**pipe.processor(text, images=image)).logits[0]
    paths = enumerate_paths(pipe.model.crf, emissions, iob2_constraints(LABELS))
    return dict(zip(*paths, strict=True)), pipe.processor.split_words(text)[1]


def spans_of(tags) -> list[tuple[int, int, str]]:
    return [(start, end + 1, kind) for kind, start, end in get_entities([LABELS[tag] for tag in tags])]


class TestEntities:
    @pytest.mark.parametrize("image", [None, RED])
    @pytest.mark.parametrize("text", ["Jordan was seen in Paris", "Orange", "a bc d!"])
    def test_best_tagging_posteriors_and_alternatives_by_enumeration(self, ner, text, image):
        probabilities, offsets = taggings(ner, text, image)
        best = spans_of(max(probabilities, key=probabilities.get))
        entities = ner(text, images=image, top_k=5)
        assert entities or text == "Orange"
        assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities] == [
            (offsets[first][0], offsets[last - 1][1], kind) for first, last, kind in best
        ]
        for entity, (start, end, kind) in zip(entities, best, strict=True):
            posterior = {
                other: sum(p for tags, p in probabilities.items() if (start, end, other) in spans_of(tags))
                for other in ("PER", "LOC")
            }
            alternatives = entity.pop("alternatives")
            found = {item["entity_group"]: item["score"] for item in alternatives} | {kind: entity["score"]}
            assert found == pytest.approx(posterior, abs=1e-5) and len(alternatives) == 1
        same(entities, ner(text, images=image))
        assert all(len(entity["alternatives"]) == 1 for entity in ner(text, top_k=1))

    @pytest.mark.parametrize("label", ["B-work-of-art", "B-DAY"])
    def test_types_may_have_hyphens_or_no_inside_tag(self, towers, label):
        labels = ["O", "B-work-of-art", "I-work-of-art", "B-DAY"]
        pipe = make_pipeline(towers, labels=labels)
        with torch.no_grad():
            pipe.model.classifier.weight.zero_()
            pipe.model.classifier.bias.copy_(torch.tensor([5.0 * (other == label) for other in labels]))
        found = [(entity["entity_group"], entity["word"]) for entity in pipe("Orange gewinnt")]
        assert found == [(label[2:], "Orange"), (label[2:], "gewinnt")]


class TestInputs:
    def test_one_gives_a_list_and_many_give_lists(self, ner):
        alone = ner(TEXTS[0])
        assert alone and ner([TEXTS[0]]) == ner((TEXTS[0],)) == [alone]
        assert ner({"text": TEXTS[0]}) == ner({"text": TEXTS[0], "image": None}) == alone
        assert ner("") == ner(" \n\t") == ner([]) == ner([], images=[]) == ner("", images=RED) == []
        assert ner(["", " "], batch_size=2) == [[], []]

    def test_image_as_argument_or_in_the_dict(self, ner):
        alone = ner(TEXTS[0], images=RED)
        same(ner({"text": TEXTS[0], "image": RED}), alone)
        same(ner(TEXTS[:2], images=[RED, None])[0], alone)
        same(ner([{"text": TEXTS[0], "image": RED}, TEXTS[1]])[0], alone)
        assert ner(TEXTS[0], image=RED) == ner(TEXTS[0], RED) == alone
        assert ner.explain(TEXTS[0], RED).to_dict() == ner.explain(TEXTS[0], images=RED).to_dict()
        for call in (ner, ner.explain):
            with pytest.raises(ValueError, match="both `image` and `images`"):
                call(TEXTS[0], image=RED, images=RED)

    def test_whatever_holds_texts_is_a_stream(self, ner):
        class Indexed(torch.utils.data.Dataset):
            def __len__(self):
                return len(TEXTS)

            def __getitem__(self, index):
                return {"text": TEXTS[index % len(TEXTS)]}  # never an IndexError

        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(TEXTS)

        expected = ner(TEXTS)
        by_number = pd.Series(TEXTS[::-1], index=range(5, -1, -1))[::-1]
        keyed = KeyDataset([{"text": text} for text in TEXTS], "text")
        for inputs in (dict.fromkeys(TEXTS).keys(), np.array(TEXTS), Indexed(), Stream(), by_number, keyed):
            results = ner(inputs, batch_size=4)
            assert not isinstance(results, list)
            same(results, expected)
        assert list(ner(KeyDataset([], "text"))) == []

    def test_tables(self, ner):
        frame = pd.DataFrame({"text": TEXTS[:2], "image": [RED, None]}, index=[5, 0])
        with pytest.raises(TypeError, match=r'Got a DataFrame.*df\["text"\].*df.to_dict\("records"\)'):
            ner(frame)
        expected = ner(TEXTS[:2], images=[RED, None])
        same(ner(frame.to_dict("records")), expected)
        same(ner(frame["text"], images=frame["image"]), expected)
        same(ner([{"text": TEXTS[0], "image": RED, "id": 7}, {"text": TEXTS[1], "image": float("nan")}]), expected)
        images = [None, RED, None, None, plain_image("blue"), None]
        table = datasets.Dataset.from_dict({"id": list("abcdef"), "text": TEXTS, "image": images})
        expected = ner(TEXTS, images=images)
        for rows in (table, table.to_iterable_dataset()):
            same(ner(rows, batch_size=2), expected)
        same(ner(table["text"], images=table["image"]), expected)
        with pytest.raises(ValueError, match=r"columns \['id'\]; expected `text` or `tokens`"):
            ner(table.select_columns(["id"]))

    @pytest.mark.parametrize(
        "kind",
        [tuple, np.array, lambda words: pd.Series(words, [7, 0, 3, 1])]
        + [lambda words: datasets.Dataset.from_dict({"word": words})["word"]],
        ids=["tuple", "array", "series", "column"],
    )
    def test_words_that_are_given_in_whatever_holds_them(self, ner, kind):
        expected = ner({"tokens": WORDS})
        check_layout(" ".join(WORDS), expected)
        assert expected and ner({"tokens": kind(WORDS)}) == expected
        same([found.entity for found in ner.explain({"tokens": kind(WORDS)}).entities], expected)
        shown = {"tokens": kind(WORDS), "image": RED}
        same(ner([shown])[0], ner(shown))

    def test_rows_of_words(self, ner):
        rows = [["Jordan", "was", "seen"], ["in", "New York", "."], []]
        table = datasets.Dataset.from_dict({"tokens": rows, "ner_tags": [[1, 0, 0], [0, 3, 0], []]})
        for inputs in (table, table.with_format("numpy"), ({"tokens": row} for row in rows)):
            same(ner(inputs), [ner({"tokens": row}) for row in rows])

    @pytest.mark.parametrize(
        ("words", "tags", "found", "labelled"),
        [
            (["", "Radbury"], [1, 2], ("Radbury", 1), [2]),
            (["Radbury", "", "\u200b"], [1, 2, 2], ("Radbury", 0), [1]),
            (["Hermes", "\u200b", "Bay"], [1, 2, 2], ("Hermes \u200b Bay", 0), [1, 3]),
            (["", "\ufe0f", "Bay"], [1, 2, 3], ("Bay", 3), [3]),
        ],
    )
    def test_words_of_which_nothing_is_shown(self, ner, monkeypatch, words, tags, found, labelled):
        """The model reads them, as in training; no entity begins or ends with one."""
        monkeypatch.setattr(ner.model.crf, "decode", lambda emissions, mask: torch.tensor([tags]))
        (entity,) = ner({"tokens": words})
        check_layout(" ".join(words), [entity])
        assert (entity["word"], entity["start"]) == found
        labels = ner({"tokens": words}, aggregation_strategy="none")
        assert [label["index"] for label in labels] == labelled and all(label["word"] for label in labels)

    @pytest.mark.parametrize("character", ["\u200b", "\u200f", "\u200d", "\x1c", "\u2066"])
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
            ({"text": "a", "photo": None}, None, ValueError, "key 'photo'; did you mean 'image'"),
            ({"texts": "a"}, None, ValueError, "key 'texts'; did you mean 'text'"),
            ({"content": "a"}, None, ValueError, r"keys \['content'\]"),
            ({"text": 3}, None, ValueError, "a text of type int"),
            ({"tokens": ["a", None]}, None, ValueError, "tokens of type list"),
            ("a", [None], ValueError, "a list of 1 images for one text"),
            (["a", "b"], RED, ValueError, "one image of type Image for a list of 2 texts"),
            ({"text": "a"}, RED, ValueError, "beside an input of type dict"),
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
def stock(towers):
    """The stock pipeline over a model of text alone, with the same labels."""
    torch.manual_seed(0)
    label2id = {label: index for index, label in enumerate(LABELS)}
    config = BertConfig.from_pretrained(towers[0], id2label=dict(enumerate(LABELS)), label2id=label2id)
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=3)
    return pipeline("ner", model=model, tokenizer=BertTokenizerFast.from_pretrained(towers[0]), device="cpu")


def layout(items) -> set[tuple]:
    kinds = {np.float32: float, np.float64: float}
    return {tuple((key, kinds.get(type(value), type(value))) for key, value in item.items()) for item in items}


class TestStockCode:
    """What was written for the stock, text-only pipeline."""

    @pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max", *AggregationStrategy])
    def test_keys_and_types_are_the_stock_ones(self, ner, stock, strategy):
        ours, theirs = (pipe(TEXTS[0], aggregation_strategy=strategy) for pipe in (ner, stock))
        assert len(layout(ours)) == 1 and layout(ours) == layout(theirs)

    def test_nesting_and_loops(self, ner, stock):
        for inputs in (TEXTS[0], TEXTS, [TEXTS[0]]):
            ours, theirs = (pipe(inputs, aggregation_strategy="none") for pipe in (ner, stock))
            assert isinstance(ours, list) and len(ours) > 0
            assert {type(item) for item in ours} == {type(item) for item in theirs}
        default = TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", aggregation_strategy="none")
        for pipe in (default, stock):
            for entities in pipe(KeyDataset([{"text": text} for text in TEXTS], "text"), batch_size=2):
                assert all(e["entity"] in LABELS[1:] and e["score"] > 0 for e in entities)

    def test_a_labels_score_is_its_posterior(self, ner):
        probabilities, _ = taggings(ner, "Jordan was seen")
        for item in ner("Jordan was seen", aggregation_strategy="none"):
            tag, word = LABELS.index(item["entity"]), item["index"] - 1
            expected = sum(p for tags, p in probabilities.items() if tags[word] == tag)
            assert item["score"] == pytest.approx(expected, abs=1e-5)


class TestOptions:
    def test_a_minimum_score(self, ner):
        entities = [entity for found in ner(TEXTS) for entity in found]
        middle = np.float64(sorted(entity["score"] for entity in entities)[len(entities) // 2])
        kept = [entity for found in ner(TEXTS, min_score=middle) for entity in found]
        assert kept == [entity for entity in entities if entity["score"] >= middle] and 0 < len(kept) < len(entities)

    def test_a_minimum_score_for_each_type(self, ner):
        everything = ner(TEXTS)
        for least in ({"PER": 1.0}, {"PER": 1, "LOC": 1}, {}):
            expected = [[item for item in found if item["entity_group"] not in least] for found in everything]
            assert ner(TEXTS, min_score=least) == expected

    def test_offsets_as_javascript_counts_them(self, ner):
        text = "🙂 Jordan 🙂🙂 was seen in Paris 🙂"
        found = ner(text, offsets="utf-16")
        code_units = text.encode("utf-16-le")
        assert [code_units[2 * item["start"] : 2 * item["end"]].decode("utf-16-le") for item in found] == [
            item["word"] for item in ner(text)
        ]
        assert found and found[-1]["start"] > ner(text)[-1]["start"]

    def test_what_cannot_be_read_is_skipped(self, ner, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        broken = {"text": TEXTS[0], "image": str(tmp_path / "broken.jpg")}
        inputs = [TEXTS[0], broken, {"text": None}, {"text": TEXTS[0], "image": RED}, 3, TEXTS[4]]
        readable = [0, 3, 5]
        for found in (ner(inputs, errors="skip"), list(ner(iter(inputs), errors="skip", batch_size=2))):
            assert [place for place, item in enumerate(found) if isinstance(item, list)] == readable
            assert "broken.jpg cannot be read as an image" in found[1]["error"] and found[2].keys() == {"error"}
            same([found[place] for place in readable], ner([inputs[place] for place in readable]))
        assert ner(broken, errors="skip")["error"] == found[1]["error"]
        with pytest.raises(ValueError, match="broken.jpg"):
            ner(inputs)

        def failing():
            yield from inputs
            raise ValueError("the source broke")

        stream = ner(failing(), errors="skip")
        assert [next(stream) for _ in inputs]
        with pytest.raises(ValueError, match="the source broke"):
            next(stream)

    @pytest.mark.parametrize("strategy", [None, "none"])
    def test_allowed_types(self, ner, strategy):
        key = "entity" if strategy else "entity_group"
        everything = ner(TEXTS, aggregation_strategy=strategy)
        for kind in ("PER", "LOC"):
            expected = [[item for item in found if item[key].endswith(kind)] for found in everything]
            assert ner(TEXTS, aggregation_strategy=strategy, entity_types=[kind]) == expected != everything
        assert ner(TEXTS[0], entity_types="PER") == ner(TEXTS[0], entity_types=["PER"])
        assert ner(TEXTS, entity_types=[]) == [[]] * len(TEXTS)

    def test_options_of_the_pipeline_are_defaults_of_its_calls(self, ner):
        pipe = TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", entity_types=["PER"], top_k=1)
        assert pipe(TEXTS) == ner(TEXTS, entity_types=["PER"], top_k=1)
        assert pipe(TEXTS, entity_types=["LOC"]) == ner(TEXTS, entity_types=["LOC"], top_k=1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"entity_types": ["PER", "DOG"]}, r"no entities of \['DOG'\]; its types are \['PER', 'LOC'\]"),
            ({"min_score": "0.5"}, "`min_score` is '0.5'; expected a number from 0 to 1"),
            ({"batch_size": 0}, "`batch_size` is 0; expected a whole number, 1 or more"),
            ({"top_k": "3"}, "`top_k` is '3'; expected a whole number, 1 or more"),
            ({"stride": "3"}, "`stride` is '3'; expected a whole number, 0 or more"),
            ({"entity_types": [1]}, r"`entity_types` is \[1\]; expected a list of strings"),
            ({"aggregation_strategy": "sum"}, "'sum'; expected one of none, simple"),
            ({"aggregation_strategy": "x" * 100_000}, "^.{0,200}expected one of none, simple.{0,50}$"),
            ({"threshold": 0.5}, "no option `threshold`; did you mean `min_score`?"),
            ({"batchsize": 4}, "no option `batchsize`; did you mean `batch_size`?"),
            ({"colour": 4}, "no option `colour`; expected one of aggregation_strategy, min_score"),
            ({"min_score": {"PER": 0.5, "DOG": 1}}, r"no entities of \['DOG'\]"),
            ({"min_score": {"PER": 2}}, "expected a number from 0 to 1, or one for each type"),
            ({"errors": "ignore"}, "`errors` is 'ignore'; expected 'raise' or 'skip'"),
        ],
    )
    def test_what_cannot_be_is_an_error(self, ner, options, message):
        for call in (
            lambda: ner(TEXTS[0], **options),
            lambda: ner(iter(TEXTS), **options),
            lambda: TwoMNERPipeline(model=ner.model, processor=ner.processor, device="cpu", **options),
        ):
            with pytest.raises(TypeError if "no option" in message else ner.InputError, match=message):
                call()


class TestLongTexts:
    @pytest.mark.parametrize("stride", [0, 6, 20])
    def test_windows_give_what_one_pass_gives(self, context_free, stride):
        windowed = limited(context_free, 32)
        generator = np.random.default_rng(stride)
        for _ in range(20):
            words = [str(letter) * generator.integers(1, 6) for letter in generator.choice(list(LETTERS[:26]), 50)]
            expected = context_free(" ".join(words))
            assert len(windowed.processor.windows(words, stride=stride)) > 3 and expected
            same(windowed(" ".join(words), stride=stride, batch_size=3), expected)

    def test_the_image_goes_with_every_window(self, ner):
        windowed = limited(ner, 32)
        text = " ".join(TEXTS)
        words, offsets = windowed.processor.split_words(text)
        emissions = []
        for window in windowed.processor.windows(words, stride=7):  # a quarter of the 30 that a window holds
            batch = windowed.processor([words[window.start : window.stop]], images=[RED])
            with torch.no_grad():
                logits = windowed.model(**batch).logits[0]
            emissions += logits[window.keep_start - window.start : window.keep_stop - window.start]
        mask = torch.ones(1, len(words), dtype=torch.bool)
        tags = windowed.model.crf.decode(torch.stack(emissions)[None], mask)[0].tolist()
        found = [(entity["start"], entity["end"], entity["entity_group"]) for entity in windowed(text, images=RED)]
        assert found == [(offsets[start][0], offsets[end - 1][1], kind) for start, end, kind in spans_of(tags)]


def test_a_text_only_model_says_that_images_have_no_effect(context_free, monkeypatch):
    messages = []
    monkeypatch.setattr(pipeline_2mner.logger, "warning_once", messages.append)
    assert context_free(TEXTS[0], images=RED) == context_free(TEXTS[0])
    assert messages == ["This model reads text only (collaboration='none'): images have no effect."]


def run_as_stranger(code: str, folder, *arguments: str) -> dict:
    """What a process prints as JSON that has no network and nothing of this repository."""
    return json.loads(stranger.run(code, folder, *arguments)[0].splitlines()[-1])


class TestFolder:
    PROGRAM = """
import json
from transformers import pipeline
texts = json.loads(sys.argv[1])
results = {}
for task in ("token-classification", "ner", "multimodal-ner"):
    ner = pipeline(task, model="saved", trust_remote_code=True, device="cpu")
    results[task] = [ner(texts), ner(texts, images=["image.png"] * len(texts), batch_size=4)]
print(json.dumps({"class": type(ner).__name__, "module": type(ner).__module__, "results": results}))
"""

    def test_stock_call_in_a_fresh_offline_process(self, ner, tmp_path):
        RED.save(tmp_path / "image.png")
        ner.save_pretrained(tmp_path / "saved")
        output = run_as_stranger(self.PROGRAM, tmp_path, json.dumps(TEXTS))
        assert output["class"] == "TwoMNERPipeline" and output["module"].startswith("transformers_modules.")
        for text_only, shown in output["results"].values():
            same(text_only, ner(TEXTS))
            same(shown, ner(TEXTS, images=[RED] * len(TEXTS)))

    HASHES = """
import json
from datasets.fingerprint import Hasher
from transformers import pipeline
ner = pipeline("token-classification", model="saved", trust_remote_code=True, device="cpu")
hashes = [Hasher.hash(ner)]
ner("Jordan was seen in Paris.")
hashes.append(Hasher.hash(ner))
ner.model.classifier.bias.data += 1
print(json.dumps([*hashes, Hasher.hash(ner)]))
"""

    def test_the_fingerprint_by_which_a_map_is_cached_is_that_of_the_weights_in_all_processes(self, ner, tmp_path):
        ner.save_pretrained(tmp_path / "saved")
        first, second = (run_as_stranger(self.HASHES, tmp_path) for _ in range(2))
        before, after, of_other_weights = first
        assert first == second and before == after != of_other_weights

    def test_for_objects_the_class_is_named(self, ner):
        pipe = pipeline("ner", model=ner.model, processor=ner.processor, pipeline_class=TwoMNERPipeline, device="cpu")
        assert pipe(TEXTS) == ner(TEXTS)
        with pytest.raises(Exception, match="guess which tokenizer"):
            pipeline("ner", model=ner.model, device="cpu", processor=ner.processor)
        pipe = pipeline("ner", model=ner.model, tokenizer=ner.processor.tokenizer, device="cpu")
        assert type(pipe) is TokenClassificationPipeline  # as the README warns
