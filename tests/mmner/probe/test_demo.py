"""Tests of the demonstration: which texts it shows, and that its table tells right from wrong."""

import json

import pytest

from mmner.probe import dataset as probe
from mmner.probe import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return probe.build(tmp_path_factory.mktemp("demo") / "probe", num_sentences=400)


def test_examples_are_texts_that_the_picture_decides(folder):
    examples = demo.ambiguous_examples(folder)
    assert {example.lang for example in examples} == {"en", "de", "fr", "es"}
    for example in examples:
        rows = [json.loads(line) for line in (folder / example.lang / "test.jsonl").read_text("utf-8").splitlines()]
        tags = {tuple(row["ner_tags"]) for row in rows if " ".join(row["tokens"]) == example.text}
        assert len(tags) == len(example.sights) > 1
        assert len({sight.entities for sight in example.sights}) == len(example.sights)
        for sight in example.sights:
            assert sight.image.is_file() and sight.entities
            assert all(words in example.text for words, _ in sight.entities)


def test_more_texts_of_a_language(folder):
    assert len(demo.ambiguous_examples(folder, texts_per_language=0)) == 0
    assert len(demo.ambiguous_examples(folder, texts_per_language=2)) > len(demo.ambiguous_examples(folder))


def test_report_counts_what_is_right(folder):
    examples = demo.ambiguous_examples(folder)
    expected = {str(sight.image): sight.entities for example in examples for sight in example.sights}

    def oracle(texts, images):
        """Right wherever there is a picture."""
        return [
            [{"word": words, "entity_group": kind, "score": 0.5} for words, kind in expected.get(image, ())]
            for text, image in zip(texts, images, strict=True)
        ]

    total = len(expected)
    right = demo.report(oracle, examples)
    assert right.startswith("The probe is SYNTHETIC")
    assert right.endswith(f"All entities right in {total} of {total} rows with a picture.")
    assert "nothing" in right and "(0.50)" in right  # without a picture this oracle finds nothing

    def blind(texts, images):
        return oracle(texts, [str(next(e for e in examples if e.text == text).sights[0].image) for text in texts])

    wrong = demo.report(blind, examples)
    assert wrong.endswith(f"All entities right in {len(examples)} of {total} rows with a picture.")
