"""
transformers' own common model tests over the two models. They come with its source, not its wheel: `make test-common`
fetches that and points TRANSFORMERS_SOURCE at it; without it there is nothing to run here.
"""

import os
import sys
import types
import unittest

import pytest
import torch
from tiny_models import IMAGE_SIZE, LABELS, tiny_config

from configuration_2mner import TwoMNERConfig
from modeling_2mner import TwoMNERForTokenClassification, TwoMNERModel

SOURCE = os.environ.get("TRANSFORMERS_SOURCE")
if not SOURCE:
    pytest.skip("TRANSFORMERS_SOURCE does not point at the source of transformers", allow_module_level=True)
sys.path.insert(0, os.path.abspath(SOURCE))
# The source distribution leaves two folders out; they hold tests of export and generation, which do not apply.
for name, mixin in (
    ("exporters.test_export", "ExportTesterMixin"),
    ("generation.test_utils", "GenerationTesterMixin"),
):
    stub = types.ModuleType(f"tests.{name}")
    setattr(stub, mixin, type(mixin, (), {}))
    sys.modules.setdefault(f"tests.{name.split('.')[0]}", types.ModuleType(f"tests.{name.split('.')[0]}"))
    sys.modules.setdefault(f"tests.{name}", stub)
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor  # noqa: E402


class ModelTester:
    """What the common tests ask a model's own test file for."""

    batch_size = 3
    seq_length = 7
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 2
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> TwoMNERConfig:
        return tiny_config(text="bert", vision="vit", alignment="clip", labels=LABELS)

    def prepare_config_and_inputs_for_common(self):
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], 60),
            "attention_mask": torch.ones(self.batch_size, self.seq_length, dtype=torch.long),
            "pixel_values": floats_tensor([self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE]),
            "image_ids": torch.arange(1, self.batch_size + 1),
        }
        return self.get_config(), inputs


class TwoMNERCommonTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (TwoMNERModel, TwoMNERForTokenClassification)
    test_resize_embeddings = True
    has_attentions = True
    _is_composite = True

    def setUp(self):
        self.model_tester = ModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is TwoMNERForTokenClassification:
            inputs["labels"] = torch.zeros(inputs["input_ids"].shape, dtype=torch.long)
        return inputs

    def test_reverse_loading_mapping(self):
        # The library saves some towers (ViT here) under the weight names of their first release. `save_pretrained` of
        # these models keeps the present names, the only ones that a checkpoint of Trainer is restored by.
        super().test_reverse_loading_mapping(check_keys_were_modified=False)
