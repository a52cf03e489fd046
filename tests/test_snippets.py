"""Every Python snippet of the README and of a model card runs as it stands, with stand-ins for model and data."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import pipeline
from written_files import write_jsonl

from mmner.options import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.results.examples import own_sentences, widget_examples
from mmner.results.model_card import write_model_card
from mmner.results.publish import card_for
from modeling_2mner import TwoMNERForTokenClassification
from pipeline_2mner import TwoMNERPipeline
from processing_2mner import TwoMNERProcessor

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["O", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
ROW = {"tokens": ["Jordan", "gewinnt", "."], "ner_tags": ["B-PER", "O", "O"], "image": "1.jpg"}


def blocks(markdown: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder in which models of the README and of serving, `org/model` one with the card of its publication ..."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    towers = make_tiny_towers(folder / "towers", [ROW["tokens"]], vocab_size=300, image_size_px=32)
    data = folder / "path" / "to" / "folder"
    for lang in ("en", "de"):
        for split in ("train", "validation", "test"):
            write_jsonl(data / lang / f"{split}.jsonl", {"id": f"{lang}-{split}", "lang": lang, **ROW})
    (data / "images").mkdir()
    for image in (folder / "photo.jpg", data / "images" / "1.jpg"):
        Image.new("RGB", (40, 24), "red").save(image)

    text_only = {"collaboration": "none", "alignment": "none"}
    places = {"models/2m-ner-small": {}, "outputs/probe": {}, "org/model": {}, "org/text": text_only}
    for place, options in places.items():
        model = TwoMNERForTokenClassification.from_towers(*towers, labels=LABELS, **options)
        ner = TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_towers(*towers), device="cpu")
        ner.save_pretrained(folder / place)
        training = TrainingArguments(output_dir=str(folder / place), use_cpu=True)
        arguments = (ModelArguments(text_model="tiny", vision_model="tiny"), DataArguments(dataset="probe"), training)
        examples = widget_examples(ner, own_sentences(["en", "de"]))
        card = write_model_card(folder / place, arguments, model.config, {}, {}, examples)
        card.write_text(card_for(folder / place, place), encoding="utf-8")
    return folder


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", world / "cache")
    return world


@pytest.mark.parametrize("place", ["org/model", "org/text"])
def test_the_snippets_of_a_model_card_run_each_by_itself(here, place):
    card = (here / place / "README.md").read_text(encoding="utf-8")
    snippets = blocks(card, "python")
    assert len(snippets) == 3 and card.count("```python") == 3
    results: list[dict] = [{}, {}, {}]
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"card {place}, snippet {number}", "exec"), results[number])
    assert type(results[0]["ner"]).__name__ == "TwoMNERPipeline"
    assert len(results[1]["tags"]) == len(results[1]["words"]) and set(results[1]["tags"]) <= set(LABELS)
    trained = TwoMNERForTokenClassification.from_pretrained(here / "mine")
    before = TwoMNERForTokenClassification.from_pretrained(here / place)
    assert not torch.equal(trained.classifier.weight, before.classifier.weight)


def test_what_the_card_says_the_model_answers_it_answers(here):
    card = (here / "org" / "model" / "README.md").read_text(encoding="utf-8")
    (answer,) = blocks(card, "text")
    ner = pipeline("token-classification", model="org/model", trust_remote_code=True, device="cpu")
    (example,) = widget_examples(ner, own_sentences(["en"]))
    assert eval(answer) == example["output"]


def test_the_commands_of_a_card_and_the_readme_are_options_that_exist(here):
    found = 0
    for path in (here / "org" / "model" / "README.md", ROOT / "README.md"):
        for block in blocks(path.read_text(encoding="utf-8"), "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "run_mmner.py" in words:
                    recipe, *options = words[words.index("run_mmner.py") + 1 :]
                    parse_arguments([str(path.parent / recipe), *options])
                    found += 1
    assert found >= 2


@pytest.mark.parametrize(("page", "number"), [("README.md", 3), ("docs/serving.md", 2)])
def test_the_snippets_of_a_page_run_one_after_the_other(here, page, number):
    names: dict = {}
    snippets = blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert len(snippets) >= number
    for place, snippet in enumerate(snippets):
        exec(compile(snippet, f"{page}, snippet {place}", "exec"), names)
