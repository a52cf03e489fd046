"""The model that comes with the project: what it finds, that its folder is whole, that its card tells the truth."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from mmner.demo import POSTS, TITLE, report
from mmner.results.release import RESULTS, card
from modeling_2mner import TwoMNERForTokenClassification
from onnx_2mner import export_onnx
from pipeline_2mner import TwoMNERPipeline

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "models" / "2m-ner-small"
# As a person would mark them. A hashtag is a word with its sign.
SENTENCES = {
    "en": """
        [Storm Ophelia|MISC] hits [Cork|LOC] tonight, stay home everyone
        RT @newsdesk: [Emma Watson|PER] visits a school in [Nairobi|LOC] with [Unicef|ORG]
        lol [#Manchester|LOC] is under water again http://t.co/a1b2c3d4e5
        [BBC|ORG] says [Boris Johnson|PER] will resign
        Just watched [Titanic|MISC] again, crying
        Breaking: explosion near [Brussels Airport|LOC], police say
        [Google|ORG] opens a new office in [Lagos|LOC]
        [Serena Williams|PER] beats [Venus|PER] in [Melbourne|LOC]
        my nan still calls it the wireless
        [Liverpool|ORG] 3-1 [Everton|ORG], what a night
    """,
    "de": """
        [Angela Merkel|PER] besucht [Paris|LOC]
        [Sturmtief Sabine|MISC] legt den Verkehr in [Hamburg|LOC] lahm
        RT @tagesschau: Die Polizei sucht in [Köln|LOC] nach Zeugen
        [Siemens|ORG] baut Stellen in [Erlangen|LOC] ab
        heute [tatort|MISC] schauen und pizza
        [Thomas Müller|PER] trifft für den [FC Bayern|ORG] gegen [Borussia Dortmund|ORG]
        Wir sind in [Wien|LOC] angekommen ☀️ #urlaub
        Die [UNO|ORG] warnt vor Hunger im [Sudan|LOC]
        Guten Morgen zusammen, Kaffee?
        [Helene Fischer|PER] singt am Samstag in [Leipzig|LOC]
    """,
    "fr": """
        [Emmanuel Macron|PER] est arrivé à [Berlin|LOC]
        RT @infos: Incendie dans un immeuble à [Marseille|LOC], pas de victime
        Le [PSG|ORG] bat [Lyon|ORG] 2-1
        [Air France|ORG] annule ses vols vers [Beyrouth|LOC]
        j'ai adoré le film [Amélie|MISC]
        [Kylian Mbappé|PER] quitte [Paris|LOC] pour [Madrid|LOC]
        bonne nuit à tous, demain on se lève tôt
        L'[ONU|ORG] envoie une mission en [Haïti|LOC]
        [Stromae|PER] en concert à [Bruxelles|LOC] ce soir #concert
        Séisme au [Maroc|LOC] : l'aide arrive à [Marrakech|LOC]
    """,
    "es": """
        [Lionel Messi|PER] llega a [Miami|LOC]
        RT @noticias: Fuerte sismo sacude [Oaxaca|LOC], sin víctimas
        El [Real Madrid|ORG] gana al [Barcelona|ORG]
        La [NASA|ORG] lanza un cohete desde [Florida|LOC]
        vi [Coco|MISC] con mi hija y lloramos las dos
        [Shakira|PER] canta mañana en [Bogotá|LOC]
        buenos días, hoy toca madrugar
        [Pedro Sánchez|PER] viaja a [Bruselas|LOC]
        El terremoto de [Chile|LOC] dejó sin luz a [Valparaíso|LOC]
        [Netflix|ORG] estrena una serie sobre [Frida Kahlo|PER]
    """,
}


def parse(line: str) -> tuple[str, list[tuple[str, str]]]:
    """The text and its entities."""
    names = re.compile(r"\[([^][|]+)\|(\w+)\]")
    return names.sub(r"\1", line), names.findall(line)


@pytest.fixture(scope="module")
def small():
    return pipeline("token-classification", model=str(FOLDER), trust_remote_code=True)


@pytest.mark.parametrize("lang", SENTENCES)
def test_it_finds_what_a_person_expects(small, lang):
    lines = [line.strip() for line in SENTENCES[lang].strip().splitlines()]
    assert len(lines) == 10
    wrong = []
    for line in lines:
        text, expected = parse(line)
        found = [(entity["word"], entity["entity_group"]) for entity in small(text)]
        if found != expected:
            wrong.append((text, expected, found))
    assert len(wrong) <= 1, wrong


def test_the_folder_is_whole_small_and_holds_one_copy_of_the_code():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"config.json", "tokenizer.json", "processor_config.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 90e6
    assert max(size for name, size in files.items() if name.endswith(".safetensors")) < 45e6
    for path in FOLDER.glob("*.py"):
        assert path.resolve() == ROOT / path.name, path
    assert len(list(FOLDER.glob("*.py"))) == 10


def test_it_loads_by_the_auto_classes_and_computes_in_full_precision():
    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
    assert model.dtype == torch.float32 and type(model).__name__ == "TwoMNERModel"
    states = model(**processor(["Storm Ophelia hits Cork"])).word_states
    assert states.shape[:2] == (1, 4) and states.isfinite().all()


def test_an_image_that_says_nothing_harms_nothing_and_none_is_text(small):
    texts = [text for text, _ in POSTS]
    grey = Image.new("RGB", (64, 64), "grey")
    with_image, without = small(texts, images=[grey] * len(texts)), small(texts)
    same = [
        [(e["word"], e["entity_group"]) for e in one] == [(e["word"], e["entity_group"]) for e in other]
        for one, other in zip(with_image, without, strict=True)
    ]
    assert sum(same) >= len(texts) - 1


def test_the_card_says_what_was_measured():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    widget = ModelCard(text).data.widget
    seeds = {
        yaml.safe_load(path.read_text())["seed"] for path in (FOLDER / "recipe.yaml", ROOT / "recipes/small.yaml")
    }
    assert text == card(json.loads(RESULTS.read_text(encoding="utf-8")), FOLDER.name, widget, *seeds)
    assert len(widget) == 4 and all(example["output"] for example in widget)


def test_what_the_widget_shows_is_what_the_model_says(small):
    for example in ModelCard((FOLDER / "README.md").read_text(encoding="utf-8")).data.widget:
        found = [{**entity, "score": round(entity["score"], 2)} for entity in small(example["text"])]
        assert found == [{**entity, "score": round(entity["score"], 2)} for entity in example["output"]]


def test_the_snippets_of_the_card_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(FOLDER.parent)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    call, shown = re.search(r"^(ner\(.*\))\n# (.*)$", blocks[0], re.MULTILINE).groups()
    first = ast.literal_eval(shown)[0]
    found = names["ner"](ast.literal_eval(call[4:-1]))[0]
    assert first == {**found, "score": ...}


def test_the_demo_shows_each_post_twice(small):
    text, page = report(small, [(text, draw and draw()) for text, draw in POSTS])
    assert TITLE in page and page.count("<article>") == len(POSTS)
    assert text.count("without an image:") == len(POSTS)
    assert text.count("with its image:") == sum(draw is not None for _, draw in POSTS) == page.count("<img")


def test_as_int8_it_tags_nearly_the_same(small, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = TwoMNERForTokenClassification.from_pretrained(FOLDER)
    export_onnx(model, small.processor, tmp_path / "int8", quantize=True)
    fast = TwoMNERPipeline(model=model, processor=small.processor, device="cpu", onnx=tmp_path / "int8")
    texts = [text for text, _ in POSTS]
    pairs = zip(small(texts), fast(texts), strict=True)
    names = [[{(e["word"], e["entity_group"]) for e in found} for found in pair] for pair in pairs]
    assert sum(len(one & other) for one, other in names) >= 0.85 * sum(len(one | other) for one, other in names)
