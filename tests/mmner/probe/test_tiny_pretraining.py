"""The tiny image tower learns motifs that it was not shown, and nothing else in the folder changes."""

import torch
from transformers import AutoImageProcessor, AutoModel

from mmner.probe.tiny_pretraining import pretrain_on_drawings
from mmner.probe.tiny_towers import make_tiny_towers


def test_the_tower_learns_to_tell_fresh_drawings_apart(tmp_path):
    _, folder = make_tiny_towers(tmp_path, [["a"]], vocab_size=300)
    before = AutoModel.from_pretrained(folder).state_dict()
    state = torch.get_rng_state()
    assert pretrain_on_drawings(folder, num_images=320, num_epochs=6) > 0.7
    assert torch.equal(torch.get_rng_state(), state)
    after = AutoModel.from_pretrained(folder).state_dict()
    assert set(after) == set(before)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)
    AutoImageProcessor.from_pretrained(folder, backend="pil")
