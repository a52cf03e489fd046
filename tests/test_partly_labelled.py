"""Sets whose annotators tagged only some of the types: the likelihood sums over what they could not have said."""

import itertools

import numpy as np
import pytest
import torch
from written_files import write_jsonl

from crf_2mner import LinearChainCRF, iob2_constraints
from dataset_script import load
from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.sentences import WindowedSentences
from modeling_2mner import TwoMNERForTokenClassification
from processing_2mner import TwoMNERProcessor

LABELS = ["O", "B-PER", "I-PER", "B-MISC", "I-MISC"]


@pytest.fixture
def crf():
    crf = LinearChainCRF(5, iob2_constraints(LABELS)).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_likelihood_of_sets_of_tags_is_the_sum_over_their_sequences(crf, scale):
    emissions = scale * torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [False] * 4])
    allowed = torch.rand(3, 4, 5) < 0.6
    allowed[:, :, 0] = True
    likelihood = crf.log_likelihood(emissions, allowed, mask)
    for row, length in enumerate([4, 2]):
        sequences = [
            tags
            for tags in itertools.product(*(allowed[row, word].nonzero()[:, 0].tolist() for word in range(length)))
            if crf.allowed_start[tags[0]] and all(crf.allowed_transitions[a, b] for a, b in itertools.pairwise(tags))
        ]
        each = crf.log_likelihood(
            emissions[row, :length].expand(len(sequences), -1, -1),
            torch.tensor(sequences),
            torch.ones(len(sequences), length, dtype=torch.bool),
        )
        torch.testing.assert_close(likelihood[row], each.logsumexp(dim=0), rtol=1e-9, atol=1e-9)
    assert likelihood[2] == 0


def test_one_tag_a_word_is_the_likelihood_of_the_gold_tags_and_all_tags_are_certain(crf):
    emissions, mask = torch.randn(2, 3, 5).double().requires_grad_(), torch.ones(2, 3, dtype=torch.bool)
    tags = torch.tensor([[1, 2, 0], [0, 3, 1]])
    one = torch.nn.functional.one_hot(tags, 5).bool()
    sums, gold = crf.log_likelihood(emissions, one, mask), crf.log_likelihood(emissions, tags, mask)
    torch.testing.assert_close(sums, gold, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss.sum(), emissions, retain_graph=True)[0] for loss in (sums, gold)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    everything = crf.log_likelihood(emissions, torch.ones_like(one), mask)
    torch.testing.assert_close(everything, torch.zeros_like(everything), atol=1e-12, rtol=0)


def test_tags_that_no_allowed_sequence_has_are_refused(crf):
    allowed = torch.zeros(1, 2, 5, dtype=torch.bool)
    allowed[0, :, 2] = True
    with pytest.raises(ValueError, match="row 0"):
        crf.log_likelihood(torch.zeros(1, 2, 5), allowed, torch.ones(1, 2, dtype=torch.bool))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rows: of one the annotators tagged people alone."""
    folder = tmp_path_factory.mktemp("partly")
    rows = [
        {"id": "0", "tokens": ["Ann", "saw", "Katrina"], "ner_tags": ["B-PER", "O", "B-MISC"]},
        {"id": "1", "tokens": ["Ann", "saw", "Katrina"], "ner_tags": ["B-PER", "O", "O"], "known_types": ["PER"]},
    ]
    for split in ("train", "validation"):
        write_jsonl(folder / f"{split}.jsonl", *({"lang": "en", "image": None} | row for row in rows))
    return folder


def test_from_file_to_loss_and_score(folder, towers, tmp_path):
    rows = load(folder, cache_dir=tmp_path)["train"]
    assert rows["known_types"] == [None, ["PER"]]
    labels = rows.features["ner_tags"].feature.names
    processor = TwoMNERProcessor.from_towers(*towers)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=labels)
    sentences = WindowedSentences(rows, processor, model.config.label2id, training=True)
    batch = DataCollatorForMultimodalTokenClassification(processor)([sentences[0], sentences[1]])
    assert batch["unknown_tags"].tolist() == [[False] * 5, [False, True, True, False, False]]  # O, MISC, PER
    assert "unknown_tags" not in DataCollatorForMultimodalTokenClassification(processor)([sentences[0], sentences[0]])
    for parameter in model.crf.parameters():
        torch.nn.init.normal_(parameter)
    output = model(**batch)

    mask = torch.ones(1, 3, dtype=torch.bool)
    ids = [model.config.label2id[tag] for tag in ("O", "B-MISC", "I-MISC")]
    person = model.config.label2id["B-PER"]
    gold = model.crf.log_likelihood(output.logits[:1], torch.tensor([[person, ids[0], ids[1]]]), mask)
    paths = [
        model.crf.log_likelihood(output.logits[1:], torch.tensor([[person, second, third]]), mask)
        for second, third in itertools.product(ids, ids)
        if second != ids[2] and (third != ids[2] or second == ids[1])
    ]
    assert len(paths) == 5
    expected = -(gold + torch.stack(paths).logsumexp(dim=0)).mean() / 2
    torch.testing.assert_close(output.ner_loss, expected, rtol=1e-5, atol=1e-5)

    everything = np.array([[person, ids[0], ids[1]]] * 2)  # Katrina is no mistake where nobody looked for her
    assert sentences.scores(everything)["f1"] == 1
    assert sentences.predicted_tags(everything)[1] == ["B-PER", "O", "B-MISC"]


def test_a_tag_that_nobody_could_have_given_is_refused(tmp_path):
    row = {"id": "1", "lang": "en", "tokens": ["Ann"], "ner_tags": ["B-PER"], "known_types": ["LOC"]}
    write_jsonl(tmp_path / "train.jsonl", row)
    with pytest.raises(ValueError, match=r"train.jsonl:1: an entity of type PER came, which known_types \(LOC\)"):
        load(tmp_path, cache_dir=tmp_path / "cache")
