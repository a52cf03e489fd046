"""The demonstration: which texts it shows, and that its table tells right from wrong."""

import pytest

from mmner.probe import dataset as probe
from mmner.probe import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return probe.build(tmp_path_factory.mktemp("demo") / "probe", num_sentences=400)


def test_the_report_counts_what_is_correct(folder):
    examples = demo.ambiguous_examples(folder)
    assert {example.lang for example in examples} == {"en", "de", "fr", "es"}
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
