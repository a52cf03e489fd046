"""Tags and scores of whole sentences: against the pipeline, and against every sequence of tags."""

import datasets
import pytest
import torch
from sharded_rows import LABELS, png, random_rows
from test_crf_2mner import enumerate_paths
from tiny_pipelines import same
from tiny_runs import trainer_of

from crf_2mner import LinearChainCRF, iob2_constraints
from mmner.data.sentences import WindowedSentences
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.results.report import prediction_rows
from mmner.training.decoding import entity_posteriors
from mmner.training.trainer import TwoMNERTrainer
from modeling_2mner import TwoMNERForTokenClassification
from pipeline_2mner import TwoMNERPipeline
from processing_2mner import TwoMNERProcessor

WORDS = ["Jordan", "won", "in", "Paris", "Donaudampfschifffahrt", ".", "Été", "the"]


@pytest.fixture(scope="module")
def model_and_processor(tmp_path_factory):
    """Random weights, large enough for confident and varied tags; windows of 48 pieces."""
    towers = make_tiny_towers(
        tmp_path_factory.mktemp("towers"), [WORDS], vocab_size=300, max_length_tokens=48, image_size_px=32
    )
    torch.manual_seed(0)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=LABELS, collaboration="gated")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.mul_(3)
        model.classifier.weight.mul_(4)
        for begin in (1, 3):  # an entity has two words, as a rule
            model.crf.transitions[begin, begin + 1] = 4.0
    return model, TwoMNERProcessor.from_towers(*towers)


def make_rows(lengths, seed=0) -> datasets.Dataset:
    return random_rows(WORDS, lengths, [png(60 * row, 0, 0) if row % 3 else None for row in range(len(lengths))], seed)


def make_trainer(model_and_processor, folder) -> TwoMNERTrainer:
    return trainer_of(*model_and_processor, folder, do_train=False, per_device_eval_batch_size=3)


@pytest.mark.parametrize("stride", [None, 0, 20])
def test_evaluation_and_pipeline_give_the_same_entities(model_and_processor, tmp_path, stride):
    model, processor = model_and_processor
    rows = make_rows([70, 3, 0, 60, 140, 9, 50, 85])
    sentences = WindowedSentences(rows, processor, model.config.label2id, stride=stride)
    windows = [sentences.row_of.count(row) for row in range(8)]
    assert 3 in windows and max(windows) > 3 and windows.count(1) >= 3

    output = make_trainer(model_and_processor, tmp_path).predict(sentences)
    found = prediction_rows(sentences, *output.predictions)
    ner = TwoMNERPipeline(model=model, processor=processor, device="cpu")
    inputs = [
        {"text": " ".join(row["tokens"]), "image": row["image"] and row["image"]["bytes"]}
        for row in rows.cast_column("image", datasets.Image(decode=False))
    ]
    assert [processor.split_words(item["text"])[0] for item in inputs] == rows["tokens"][:]
    expected = ner(inputs, stride=stride)
    assert sum(map(len, expected)) > 20 and any(" " in entity["word"] for entities in expected for entity in entities)
    for row, entities in zip(found, expected, strict=True):
        assert len(row["predicted_tags"]) == len(row["tokens"])  # no gold word is without a prediction
        same(row["entities"], entities, tolerance=1e-4)


def test_without_gold_labels_the_same_is_predicted_and_nothing_is_scored(model_and_processor, tmp_path):
    model, processor = model_and_processor
    rows = make_rows([70, 3, 60, 9])
    hidden = rows.map(lambda row: {"ner_tags": [-1] * len(row["tokens"])}, features=rows.features)
    trainer = make_trainer(model_and_processor, tmp_path)
    found, metrics = [], []
    for one in (rows, hidden):
        sentences = WindowedSentences(one, processor, model.config.label2id, may_be_unlabelled=True)
        output = trainer.predict_with_controls(sentences, "test")
        found.append(prediction_rows(sentences, *output.predictions))
        metrics.append(set(output.metrics))
    assert {"test_loss", "test_f1", "test_text_only_f1", "test_shuffled_image_f1"} <= metrics[0]
    assert not [name for name in metrics[1] if "loss" in name or "f1" in name]
    for labelled, row in zip(*found, strict=True):
        assert row["ner_tags"] is None and labelled["ner_tags"] is not None
        assert {**row, "ner_tags": 0, "entities": 0} == {**labelled, "ner_tags": 0, "entities": 0}
        assert [entity["word"] for entity in row["entities"]] == [entity["word"] for entity in labelled["entities"]]


def test_entity_posteriors_are_those_of_all_tag_sequences():
    """Against the sum over every sequence of tags of a short sentence."""
    torch.manual_seed(0)
    labels = ["O", "B-LOC", "I-LOC", "B-PER"]  # PER has no I-
    crf = LinearChainCRF(4, iob2_constraints(labels))
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    emissions = torch.randn(2, 6, 4)
    emissions[1, 4:] = -100.0  # as the Trainer pads
    predictions = torch.tensor([[1, 2, 2, 0, 3, 1], [0, 1, 1, 2, -100, -100]])
    scores = entity_posteriors(crf, dict(enumerate(labels)), predictions, emissions)
    entities = {(0, 0, 3, 1, 2), (0, 4, 5, 3, -1), (0, 5, 6, 1, 2), (1, 1, 2, 1, 2), (1, 2, 4, 1, 2)}
    assert {(row, start) for row, start in scores.nonzero().tolist()} == {entity[:2] for entity in entities}

    for row, length in ((0, 6), (1, 4)):
        weights = dict(zip(*enumerate_paths(crf, emissions[row, :length], iob2_constraints(labels)), strict=True))
        for _, start, end, begin, inside in (entity for entity in entities if entity[0] == row):
            expected = sum(
                weight
                for tags, weight in weights.items()
                if tags[start] == begin
                and all(tag == inside for tag in tags[start + 1 : end])
                and (end == length or tags[end] != inside)
            )
            assert scores[row, start].item() == pytest.approx(expected, abs=1e-5)
