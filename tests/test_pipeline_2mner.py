"""Tests of the pipeline: entities against all taggings enumerated, windows against one pass, batch against single."""

import io
import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTImageProcessorPil, ViTModel, pipeline

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


def picture(color) -> Image.Image:
    return Image.new("RGB", (40, 24), color)


def same(left, right, tolerance=1e-5):
    """Whether two lists of entities agree, scores to `tolerance`."""
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
    """The same pipeline over a tokenizer that takes `limit` pieces."""
    processor = TwoMNERProcessor(pipe.processor.image_processor, type(pipe.tokenizer)(**_vocabulary(pipe, limit)))
    return TwoMNERPipeline(model=pipe.model, processor=processor, device="cpu")


def _vocabulary(pipe, limit):
    return {"vocab": pipe.tokenizer.get_vocab(), "model_max_length": limit}


class TestEntities:
    @pytest.mark.parametrize("image", [None, picture("red")])
    @pytest.mark.parametrize("text", ["Jordan was seen in Paris", "Orange", "a bc d!"])
    def test_best_tagging_and_posteriors_by_enumeration(self, ner, text, image):
        batch = ner.processor(text, images=image)
        with torch.no_grad():
            emissions = ner.model(**batch).logits[0]
        crf, length = ner.model.crf, emissions.shape[0]
        start, step, end = (
            parameter.detach() for parameter in (crf.start_transitions, crf.transitions, crf.end_transitions)
        )
        scores = {}
        for tags in itertools.product(range(len(LABELS)), repeat=length):
            names = ["O", *(LABELS[tag] for tag in tags)]
            if any(b[0] == "I" and a not in (f"B-{b[2:]}", b) for a, b in itertools.pairwise(names)):
                continue
            score = start[tags[0]] + end[tags[-1]] + sum(emissions[i, tag] for i, tag in enumerate(tags))
            scores[tags] = (score + sum(step[a, b] for a, b in itertools.pairwise(tags))).double()
        total = torch.stack(list(scores.values())).logsumexp(0)
        best = _spans(max(scores, key=scores.get))

        entities = ner(text, images=image)
        words, offsets = ner.processor.split_words(text)
        assert len(words) == length
        assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities] == [
            (offsets[first][0], offsets[last - 1][1], kind) for first, last, kind in best
        ]
        for entity, span in zip(entities, best, strict=True):
            having = [score for tags, score in scores.items() if span in _spans(tags)]
            assert entity["score"] == pytest.approx((torch.stack(having).logsumexp(0) - total).exp().item(), abs=1e-5)

    def test_the_enumerated_texts_have_entities(self, ner):
        # Without any, the enumeration above would compare empty lists.
        assert sum(len(ner(text)) for text in ["Jordan was seen in Paris", "Orange", "a bc d!"]) >= 2

    def test_layout_and_json(self, ner):
        for text, entities in zip(TEXTS, ner(TEXTS), strict=True):
            check_layout(text, entities)
            assert json.loads(json.dumps(entities)) == entities

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(max_size=60))
    def test_offsets_hold_for_any_string(self, ner, text):
        check_layout(text, ner(text))

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
        for text, entities in zip(TEXTS, pipe(TEXTS, images=[picture("blue")] * len(TEXTS)), strict=True):
            check_layout(text, entities)


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
        alone = ner(TEXTS[0], images=picture("red"))
        same(ner({"text": TEXTS[0], "image": picture("red")}), alone)
        same(ner(TEXTS[:2], images=[picture("red"), None])[0], alone)
        same(ner([{"text": TEXTS[0], "image": picture("red")}, TEXTS[1]])[0], alone)

    def test_image_of_every_kind(self, ner, tmp_path):
        image, path, buffer = picture("green"), tmp_path / "green.png", io.BytesIO()
        image.save(path)
        image.save(buffer, format="PNG")
        expected = ner(TEXTS[0], images=image)
        for kind in (path, str(path), buffer.getvalue(), {"bytes": buffer.getvalue(), "path": None}):
            same(ner(TEXTS[0], images=kind), expected)

    def test_the_image_counts(self, ner):
        scores = [
            [entity["score"] for entity in ner(TEXTS[0], images=image)]
            for image in (None, picture("white"), picture("black"))
        ]
        assert scores[0] != scores[1] and scores[1] != scores[2]

    def test_empty_texts(self, ner):
        assert ner("") == [] and ner(" \n\t") == [] and ner([]) == [] and ner([], images=[]) == []
        assert ner("", images=picture("red")) == []
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

    def test_any_iterable_is_a_stream(self, ner):
        results = ner({text: None for text in TEXTS}.keys())
        assert not isinstance(results, list) and list(results) == ner(TEXTS)

    def test_workers_prepare_the_same(self, ner):
        images = [picture("red"), None] * 3
        for left, right in zip(ner(TEXTS, images=images, num_workers=1), ner(TEXTS, images=images), strict=True):
            same(left, right)

    @pytest.mark.parametrize(
        ("inputs", "images", "error", "message"),
        [
            (3, None, TypeError, "Got an input of type int; expected a string"),
            ([["two", "words"]], None, TypeError, "Got an input of type list; expected a string or"),
            ({"text": "a", "picture": None}, None, ValueError, r"keys \['picture', 'text'\]"),
            ({"text": 3}, None, ValueError, "a text of type int"),
            ("a", [None], ValueError, "a list of 1 images for one text"),
            (["a", "b"], picture("red"), ValueError, "one image of type Image for a list of 2 texts"),
            (["a", "b"], [picture("red")], ValueError, "1 images for 2 texts"),
            ({"text": "a"}, picture("red"), ValueError, "beside an input of type dict"),
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
        with pytest.raises(ValueError, match=r"labels are \['NOUN', 'VERB'\]; expected IOB2"):
            TwoMNERPipeline(model=pipe.model, processor=pipe.processor)


class TestBatches:
    @pytest.mark.parametrize("batch_size", [2, 5, 64])
    def test_batch_equals_single_in_any_order(self, ner, batch_size):
        images = [picture("red"), None, picture("blue"), picture("red"), None, picture("black")]
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
        sizes, forward = [], ner.model.forward

        def counted(**inputs):
            sizes.append(len(inputs["input_ids"]))
            return forward(**inputs)

        monkeypatch.setattr(ner.model, "forward", counted)
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

    def test_the_picture_goes_with_every_window(self, ner):
        windowed = limited(ner, 32)
        text = " ".join(text for text in TEXTS if text)
        words = windowed.processor.split_words(text)[0]
        emissions = []
        for window in windowed.processor.windows(words, stride=7):  # a quarter of the 30 that a window holds
            batch = windowed.processor([words[window.start : window.stop]], images=[picture("red")])
            with torch.no_grad():
                logits = windowed.model(**batch).logits[0]
            emissions += [logits[word - window.start] for word in range(window.keep_start, window.keep_stop)]
        mask = torch.ones(1, len(words), dtype=torch.bool)
        tags = windowed.model.crf.decode(torch.stack(emissions)[None], mask)[0].tolist()
        offsets = windowed.processor.split_words(text)[1]
        entities = windowed(text, images=picture("red"))
        assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities] == [
            (offsets[start][0], offsets[end - 1][1], kind) for start, end, kind in _spans(tags)
        ]

    def test_ten_thousand_words(self, ner):
        text = "Jordan was seen in Paris. " * 2000
        entities = ner(text, batch_size=16)
        check_layout(text, entities)
        assert entities[-1]["start"] > len(text) - 1000


class TestTextOnlyModel:
    def test_says_that_images_have_no_effect(self, context_free, monkeypatch):
        messages = []
        monkeypatch.setattr(pipeline_2mner.logger, "warning_once", messages.append)
        assert context_free(TEXTS[0], images=picture("red")) == context_free(TEXTS[0])
        assert messages == ["This model reads text only (collaboration='none'): images have no effect."]


class TestFolder:
    PROGRAM = """
import json, sys
from transformers import pipeline
folder, image, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
results = {}
for task in ("token-classification", "ner"):
    ner = pipeline(task, model=folder, trust_remote_code=True, device="cpu")
    results[task] = [ner(texts), ner(texts, images=[image] * len(texts), batch_size=4)]
print(json.dumps({"class": type(ner).__name__, "module": type(ner).__module__, "results": results}))
"""

    def test_stock_call_in_a_fresh_offline_process(self, ner, tmp_path):
        folder, path = tmp_path / "saved", tmp_path / "image.png"
        picture("red").save(path)
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
        output = json.loads(run.stdout.splitlines()[-1])
        assert output["class"] == "TwoMNERPipeline" and output["module"].startswith("transformers_modules.")
        for results in output["results"].values():
            for expected, got in zip([ner(TEXTS), ner(TEXTS, images=[path] * len(TEXTS))], results, strict=True):
                for left, right in zip(got, expected, strict=True):
                    same(left, right)

    def test_for_objects_the_class_is_named(self, ner):
        pipe = pipeline("ner", model=ner.model, processor=ner.processor, pipeline_class=TwoMNERPipeline, device="cpu")
        assert pipe(TEXTS) == ner(TEXTS)
