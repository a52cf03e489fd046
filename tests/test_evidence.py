"""The evidence head: its mixture and its loss against loops, what reaches the tagger, what it can learn."""

import math

import pytest
import torch
from tiny_models import LABELS, tiny_batch, tiny_config, tiny_model

from collaboration_2mner import EvidenceHead

PER, LOC = 1, 3


def make_head(fresh=False) -> EvidenceHead:
    torch.manual_seed(0)
    head = EvidenceHead(tiny_config(labels=LABELS, collaboration="evidence"))
    for parameter in () if fresh else head.parameters():
        parameter.data.normal_(std=0.5)
    return head.eval()


def make_inputs(head, rows=3, words=4, seed=1) -> tuple[torch.Tensor, torch.Tensor]:
    """Word states and log-ratios of an image per row."""
    torch.manual_seed(seed)
    return torch.randn(rows, words, head.shown.in_features), torch.randn(rows, 3)


def shown_by(head, words) -> torch.Tensor:
    return torch.sigmoid(head.shown(head.word_norm(words))).squeeze(-1)


def test_what_is_added_is_the_mixtures_log_ratio_between_types():
    head = make_head()
    words, log_ratios = make_inputs(head)
    logits = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    expected = torch.zeros_like(logits)
    with torch.no_grad():
        added, gates = head(logits, words, mask, log_ratios)
        shown, of = shown_by(head, words), log_ratios.exp()
        for row, length in enumerate((4, 3, 1)):
            number = logits[row].softmax(-1)[:length, [PER, LOC]]  # expected, (word, type)
            of_any, s = of[row, 2], shown[row, :length, None]
            ratio = s * of[row, :2] + (1 - s) * of_any  # (word, type)
            for word in range(length):
                others = torch.arange(length) != word
                # The entities of the other words, one of each type here, and the prior one that is not shown.
                total = 0.01 * of_any + (number[others] * ratio[others]).sum() + ratio[word]
                there = (total / (0.01 + number[others].sum() + 1)) ** head.WEIGHT  # (type,)
                mean = (number[word] / number[word].sum() * there).sum()
                expected[row, word, [PER, LOC]] = (there / mean).log()
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=0)
    found = logits + added
    odds = (found.exp()[..., [PER, LOC]].sum(-1), logits.exp()[..., [PER, LOC]].sum(-1))
    torch.testing.assert_close(*odds, rtol=1e-4, atol=0)  # that an entity begins there is as likely as before
    assert ((gates >= 0) & (gates <= 1)).all()
    assert (gates.sum(1) <= 1 + 1e-6).all()  # at most one entity is the one that is shown
    assert not gates[1, 3]


def test_loss_tells_own_images_from_others():
    head = make_head()
    words, _ = make_inputs(head, rows=4)
    log_ratios = torch.randn(2, 3)  # rows 0 and 2 show the first image, row 1 the second, row 3 none
    index, ids = torch.tensor([0, 1, 0, -1]), torch.tensor([7, 8])
    labels = torch.tensor([[PER, 2, 0, LOC], [0, LOC, 0, -100], [0, 0, 0, 0], [PER, 0, 0, 0]])
    own, others = [], []
    with torch.no_grad():
        found = head.loss(words, labels, log_ratios, index, ids)
        shown, of = shown_by(head, words).tolist(), log_ratios.exp().tolist()
        for row in (0, 1):  # row 2 has no entity, row 3 no image
            entities = [
                (s, (PER, LOC).index(tag))
                for s, tag in zip(shown[row], labels[row].tolist(), strict=True)
                if tag in (PER, LOC)
            ]
            for other in (0, 1, 2):
                image = int(index[other])
                ratio = sum((1 - s) * of[image][2] + s * of[image][kind] for s, kind in entities) / len(entities)
                if other == row:
                    own.append(-math.log(ratio / (1 + ratio)))
                elif index[other] != index[row]:
                    others.append(-math.log(1 / (1 + ratio)))
    assert len(others) == 3
    assert found.item() == pytest.approx(sum(own) / len(own) + sum(others) / len(others), abs=1e-5)
    assert head.loss(words, torch.zeros_like(labels), log_ratios, index, ids).item() == 0


def test_the_tagger_gets_no_gradient_from_the_head():
    model, batch = tiny_model(collaboration="evidence").train(), tiny_batch()
    output = model(**batch)
    text = {name: value for name, value in batch.items() if not name.startswith(("pixel", "image"))}
    torch.testing.assert_close(output.ner_loss, model(**text).ner_loss, atol=0, rtol=0)  # nor does it see the image
    output.evidence_loss.backward()
    tagger = dict(model.model.text_model.named_parameters()) | dict(model.classifier.named_parameters())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in tagger.values())
    reading = [name for name, value in model.evidence.named_parameters() if value.grad.any()]
    assert {"shown.weight", "image_types.weight", "image_projection.linear.weight"} <= set(reading)


def test_consistency_trains_the_tagger():
    model = tiny_model(collaboration="evidence", consistency_weight=1.0).train()
    model(**tiny_batch()).consistency_loss.backward()
    assert model.classifier.weight.grad.any()


def learn(head, steps, rate, draw) -> None:
    """Trains the head with the loss of what `draw` gives: words (B, W, H), labels (B, W), images (N, 1, D), index."""
    optimizer = torch.optim.Adam(head.parameters(), rate)
    for _ in range(steps):
        words, labels, images, index = draw()
        ids = torch.arange(len(images))
        loss = head.loss(words, labels, head.log_ratios(images, None), index, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_learned_ratio_is_the_ratio_of_densities():
    """Two images; one entity a sentence. What is learned is log p(image | type) / p(image), known here."""
    head = make_head(fresh=True)
    images = torch.randn(2, 1, head.image_projection.linear.in_features)
    words = torch.zeros(256, 1, head.shown.in_features)
    given_type = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # type, image

    def draw():
        kinds = torch.randint(2, (256,))
        drawn = torch.multinomial(given_type[kinds], 1).squeeze(1)
        # Each row has a copy of its own, so that others are drawn as often as they come.
        return words, torch.tensor([PER, LOC])[kinds][:, None], images[drawn], torch.arange(256)

    learn(head, 400, 3e-3, draw)
    with torch.no_grad():
        ratio, s = head.log_ratios(images, None).exp(), shown_by(head, words[0, 0][None])[0]
        learned = ((1 - s) * ratio[:, 2:] + s * ratio[:, :2]).log().T  # type, image
    marginal = given_type.mean(0)
    torch.testing.assert_close(learned, (given_type / marginal).log(), atol=0.15, rtol=0)


def test_the_word_tells_how_often_its_entity_is_shown():
    """Beside one word the image is that of the type, beside the other any: s is high for the first alone."""
    head = make_head(fresh=True)
    images = torch.randn(2, 1, head.image_projection.linear.in_features)
    words = torch.randn(2, head.shown.in_features)

    def draw():
        kinds, word = torch.randint(2, (2, 64))
        drawn = torch.where(word == 0, kinds, torch.randint(2, (64,)))
        return words[word][:, None], torch.tensor([PER, LOC])[kinds][:, None], images[drawn], torch.arange(64)

    learn(head, 150, 1e-2, draw)
    with torch.no_grad():
        often, seldom = shown_by(head, words).tolist()
    assert often > 0.8 > 0.3 > seldom


def test_labels_without_entities_are_refused():
    config = tiny_config(labels=("LABEL_0", "LABEL_1"), collaboration="evidence")
    with pytest.raises(ValueError, match='LABEL_0, LABEL_1; `collaboration="evidence"`.*Give IOB2 labels'):
        EvidenceHead(config)
