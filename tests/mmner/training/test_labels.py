"""Another set of labels for a trained model."""

import pytest
import torch
from tiny_models import LABELS, tiny_batch, tiny_model

from mmner.training.labels import types_of, with_labels

NEW = [*LABELS, "B-DISH", "I-DISH"]


def trained(**options):
    model = tiny_model(collaboration="evidence", **options).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.crf.parameters(), *model.classifier.parameters(), *model.evidence.parameters()):
            parameter.normal_()
    return model


def test_what_is_known_of_the_types_that_stay_is_kept_in_any_order():
    model, batch = trained(), tiny_batch()
    order = ["O", *(tag for kind in reversed(types_of(LABELS)) for tag in (f"B-{kind}", f"I-{kind}"))]
    other = with_labels(model, order)
    places = [order.index(label) for label in LABELS]
    with torch.no_grad():
        before, after = model(**batch), other(**batch)
    torch.testing.assert_close(after.logits[..., places], before.logits)
    mask = batch["word_starts"] >= 0
    renamed = torch.tensor(places)[before.predictions.clamp(min=0)]
    assert torch.equal(after.predictions[mask], renamed[mask])


def test_a_new_type_begins_as_the_mean_of_the_others_and_one_can_go():
    model = trained()
    other = with_labels(model, NEW)
    begins = [LABELS.index(f"B-{kind}") for kind in types_of(LABELS)]
    insides = [LABELS.index(f"I-{kind}") for kind in types_of(LABELS)]
    torch.testing.assert_close(other.classifier.weight[-2], model.classifier.weight[begins].mean(0))
    torch.testing.assert_close(other.crf.transitions[-2, -1], model.crf.transitions[begins, insides].mean())
    torch.testing.assert_close(other.crf.transitions[0, -2], model.crf.transitions[0, begins].mean())
    torch.testing.assert_close(other.crf.transitions[: len(LABELS), : len(LABELS)], model.crf.transitions)
    torch.testing.assert_close(other.evidence.image_types.bias[-1], model.evidence.image_types.bias[-1])
    assert other.config.labels == NEW and model.config.labels == list(LABELS)
    back = with_labels(other, LABELS)
    batch = tiny_batch()
    with torch.no_grad():
        torch.testing.assert_close(back(**batch).logits, model(**batch).logits)


def test_labels_must_be_iob2():
    with pytest.raises(ValueError, match="IOB2"):
        with_labels(trained(), ["O", "DISH"])
