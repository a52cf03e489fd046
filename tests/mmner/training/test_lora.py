"""Adapters: what they are, that nothing else of the tower learns, and that a saved model is a plain one."""

import pytest
import torch
from safetensors.torch import load_file
from sharded_rows import LABELS, make_rows
from tiny_models import tiny_batch, tiny_model
from tiny_runs import EVERY_SECOND_STEP, make_model, trainer_of

from mmner.data.sentences import WindowedSentences
from mmner.options import ModelArguments
from mmner.training.lora import add_adapters, merge_adapters
from mmner.training.model import build_model
from mmner.training.trainer import TwoMNERTrainer
from modeling_2mner import TwoMNERForTokenClassification

pytest.importorskip("peft")


@pytest.mark.parametrize("text", ["bert", "xlm-roberta", "deberta-v2"])
def test_a_merged_weight_is_the_old_one_plus_twice_the_product_of_the_adapter(text):
    model, before = tiny_model(text=text), tiny_model(text=text)
    batch = tiny_batch()
    add_adapters(model, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, before(**batch).logits, rtol=0, atol=0)
    torch.manual_seed(1)
    given = model.model.text_model.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()  # as after a training: an adapter begins as zero
        adapted = model(**batch).logits
        merge_adapters(model)
        torch.testing.assert_close(model(**batch).logits, adapted, rtol=1e-4, atol=1e-4)
    old, new = before.model.text_model.state_dict(), model.model.text_model.state_dict()
    assert list(new) == list(old)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    parts = before.model.text_model.named_modules()
    dense = {f"{name}.weight" for name, part in parts if isinstance(part, torch.nn.Linear)}
    assert changed == dense
    for name in dense:
        place = name.removesuffix(".weight")
        product = given[f"{place}.lora_B.default.weight"] @ given[f"{place}.lora_A.default.weight"]
        torch.testing.assert_close(new[name], old[name] + 2 * product)
    merge_adapters(model)  # once more changes nothing
    assert all(torch.equal(value, new[name]) for name, value in model.model.text_model.state_dict().items())


def make_trainer(towers, folder, max_steps, **options) -> TwoMNERTrainer:
    model, processor = make_model(towers, **options)
    train = WindowedSentences(make_rows(12), processor, model.config.label2id, training=True)
    settings = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    return trainer_of(model, processor, folder, train, max_steps=max_steps, **EVERY_SECOND_STEP, **settings)


def test_adapters_heads_and_crf_learn_and_the_tower_does_not(towers, tmp_path):
    trainer = make_trainer(towers, tmp_path, 4, lora_rank=2, freeze_vision_model="all")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} >= {"classifier", "crf", "model"}
    towers_changed = {name for name in changed if name.startswith(("model.text_model.", "model.vision_model."))}
    assert towers_changed and all(".lora_" in name for name in towers_changed)


def test_a_resumed_run_saves_the_same_plain_model(towers, tmp_path):
    for folder, steps in (("whole", (6,)), ("parts", (4, 6))):
        for number, until in enumerate(steps):
            trainer = make_trainer(towers, tmp_path / folder, until, lora_rank=2)
            trainer.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-4") if number else None)
        merge_adapters(trainer.model)
        trainer.save_model(_internal_call=True)
    whole, parts = (load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "parts"))
    assert list(whole) == list(parts) and all(torch.equal(whole[name], parts[name]) for name in whole)
    model, found = TwoMNERForTokenClassification.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not hasattr(model.config, "lora_rank")

    checkpoint = str(tmp_path / "parts" / "checkpoint-6")
    with pytest.raises(ValueError, match="has lora_rank=2, but this run has lora_rank=4"):
        make_trainer(towers, tmp_path / "other", 8, lora_rank=4).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="is a checkpoint of a run with --lora_rank"):
        build_model(ModelArguments(model_name_or_path=checkpoint), LABELS, [], tmp_path, build=False)


def test_frozen_layers_get_no_adapter_and_nonsense_is_refused(towers):
    model, _ = make_model(towers, freeze_text_model="1", lora_rank=2)
    with_adapter = {name.split(".layer.")[1][0] for name, _ in model.named_parameters() if "lora_" in name}
    assert with_adapter and "0" not in with_adapter
    with pytest.raises(ValueError, match="--lora_rank is 0; expected 1 or more"):
        make_model(towers, lora_rank=0)
    with pytest.raises(ValueError, match="has none: leave out --freeze_text_model, or --lora_rank"):
        make_model(towers, freeze_text_model="all", lora_rank=2)
