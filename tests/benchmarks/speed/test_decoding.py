"""The same weights with and without constraints: what is allowed, and what is counted."""

import itertools

import torch

from benchmarks.speed.decoding import decoded_by, stray_words
from crf_2mner import LinearChainCRF, iob2_constraints

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_stray_words_are_those_that_iob2_forbids():
    constraints = iob2_constraints(LABELS)
    for sequence in itertools.product(range(len(LABELS)), repeat=3):
        forbidden = int(not constraints.start[sequence[0]])
        forbidden += sum(not constraints.transitions[pair] for pair in itertools.pairwise(sequence))
        assert stray_words(LABELS, sequence) == forbidden


def test_weights_stay_and_only_what_is_allowed_changes():
    trained = LinearChainCRF(len(LABELS), iob2_constraints(LABELS))
    with torch.no_grad():
        trained.transitions[3, 0] = 2.0  # O after B-PER
    emissions = torch.tensor([[[0.0, 0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    best = {way: decoded_by(trained, LABELS, way).decode(emissions, mask).tolist()[0] for way in ("free", "IOB2")}
    assert best == {"free": [2, 4], "IOB2": [3, 0]}
    assert torch.equal(
        decoded_by(trained, LABELS, "IOB2").log_likelihood(emissions, torch.tensor([[3, 0]]), mask),
        trained.log_likelihood(emissions, torch.tensor([[3, 0]]), mask),
    )
