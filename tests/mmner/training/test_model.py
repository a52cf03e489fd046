"""Which model a run gets, and what of it is frozen."""

import logging

import pytest
import torch
from tiny_models import TEXT_CONFIGS, VISION_CONFIGS
from transformers import AutoModel

from mmner.options import ModelArguments
from mmner.training.model import build_model, freeze

LABELS = ["O", "B-PER", "I-PER"]
CONFIGS = TEXT_CONFIGS | VISION_CONFIGS
del CONFIGS["mobilevit"]  # it has no embeddings of its own


def frozen_names(tower: torch.nn.Module) -> set[str]:
    return {name for name, parameter in tower.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_further_layer_frozen_is_a_layer_more_and_never_all(kind):
    def frozen(how: str) -> set[str]:
        tower = AutoModel.from_config(CONFIGS[kind])
        freeze(tower, how)
        return frozen_names(tower)

    everything = {name for name, _ in AutoModel.from_config(CONFIGS[kind]).named_parameters()}
    assert frozen("none") == set()
    assert frozen("all") == everything
    embeddings = frozen("embeddings")
    assert embeddings and all("embed" in name for name in embeddings)
    steps = [frozen(str(number)) for number in range(3)]
    assert steps[0] == embeddings
    for number, (fewer, more) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
        added = more - fewer
        assert fewer < more and added
        # all in one layer, the next one
        assert len({name.split(f".{number}.")[0] for name in added}) == 1
        assert all(f".{number}." in f".{name}" for name in added)


def test_more_layers_than_there_are_or_another_word_is_an_error():
    tower = AutoModel.from_config(CONFIGS["bert"])
    with pytest.raises(ValueError, match="--freeze_text_model is 3, but BertModel has 2 layers"):
        freeze(tower, "3", "text_model")
    with pytest.raises(ValueError, match="--freeze_tower is 'most'; expected none, embeddings, all, or a number"):
        freeze(tower, "most")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model with a frozen image tower, and its processor."""
    folder = tmp_path_factory.mktemp("towers")
    arguments = ModelArguments(text_model="tiny", vision_model="tiny", freeze_vision_model="all", alignment="clip")
    model, processor = build_model(arguments, LABELS, [["Jordan", "won"]], folder, build=True)
    assert model.config.labels == LABELS and processor.token_counts(["won"]) == [1]
    assert len(frozen_names(model)) == len(list(model.model.vision_model.parameters()))
    return model, processor


def test_a_saved_model_is_loaded_with_other_loss_weights(tiny, tmp_path, caplog):
    model, processor = tiny
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    arguments = ModelArguments(
        model_name_or_path=str(tmp_path / "saved"), text_model="x", alignment="clip", alignment_weight=0.3
    )
    with caplog.at_level(logging.WARNING):
        loaded, _ = build_model(arguments, [], [], tmp_path, build=True)
    assert "text_model not read" in caplog.text
    assert loaded.config.alignment_weight == 0.3
    assert all(torch.equal(parameter, loaded.get_parameter(name)) for name, parameter in model.named_parameters())
    with pytest.raises(ValueError, match="--alignment is token, but the saved .* has clip"):
        build_model(ModelArguments(str(tmp_path / "saved"), alignment="token"), [], [], tmp_path, build=True)


def test_no_model_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="There is no model: give --text_model and --vision_model"):
        build_model(ModelArguments(text_model="tiny"), LABELS, [], tmp_path, build=True)
