"""The demonstration: which texts it shows, and that its table tells right from wrong."""

import json

import pytest

from mmner.probe import dataset as probe
from mmner.probe import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return probe.build(tmp_path_factory.mktemp("demo") / "probe", num_sentences=400)


def test_examples_are_texts_whose_entities_depend_on_the_image(folder):
    examples = demo.ambiguous_examples(folder)
    assert {example.lang for example in examples} == {"en", "de", "fr", "es"}
    for example in examples:
        rows = [json.loads(line) for line in (folder / example.lang / "test.jsonl").read_text("utf-8").splitlines()]
        tags = {tuple(row["ner_tags"]) for row in rows if " ".join(row["tokens"]) == example.text}
        assert len(tags) == len(example.images) == len(set(example.images.values())) > 1
        for image, entities in example.images.items():
            assert image.is_file() and entities and all(words in example.text for words, _ in entities)


def test_the_report_counts_what_is_correct(folder):
    examples = demo.ambiguous_examples(folder)
    expected = {str(image): entities for example in examples for image, entities in example.images.items()}

    def oracle(texts, images):
        """Right wherever there is an image; predicts nothing without."""
        found = [expected.get(image, ()) for image in images]
        return [[{"word": word, "entity_group": kind, "score": 0.5} for word, kind in row] for row in found]

    def blind(texts, images):
        """Always right for the first image of a text."""
        return oracle(texts, [str(next(iter(next(e for e in examples if e.text == text).images))) for text in texts])

    shown = demo.report(oracle, examples)
    assert shown.startswith("The probe is SYNTHETIC") and "nothing" in shown and "(0.50)" in shown
    assert shown.endswith(f"All entities correct in {len(expected)} of {len(expected)} rows with an image.")
    correct = f"All entities correct in {len(examples)} of {len(expected)} rows with an image."
    assert demo.report(blind, examples).endswith(correct)
