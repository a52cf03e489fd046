"""How towers are loaded, and how image towers are read."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import IMAGE_SIZE, TEXT_CONFIGS, VISION_CONFIGS, save_tower, tiny_model
from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel, logging

from collaboration_2mner import CPU_IMAGES, encode_pixels, pretrained_tower

logging.set_verbosity_error()


@pytest.fixture(params=["vit", "resnet"])
def tower(request):
    return tiny_model(vision=request.param).eval().model.vision_model


def sizes_read(tower, pixels) -> tuple[list[int], torch.Tensor]:
    """How many images each call of the tower got, and what came of it."""
    read = []
    hook = tower.register_forward_pre_hook(lambda *call: read.append(len(call[2]["pixel_values"])), with_kwargs=True)
    states = encode_pixels(tower, pixels)
    hook.remove()
    return read, states


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, [1]), (CPU_IMAGES, [CPU_IMAGES]), (CPU_IMAGES + 1, [3, 2]), (2 * CPU_IMAGES + 1, [3, 3, 3])],
)
def test_a_frozen_tower_reads_few_at_once_and_sees_the_same(tower, images, expected):
    tower.requires_grad_(False)
    pixels = torch.randn(images, 3, IMAGE_SIZE, IMAGE_SIZE)
    read, states = sizes_read(tower, pixels)
    assert read == expected
    single = torch.cat([encode_pixels(tower, pixel[None]) for pixel in pixels])
    torch.testing.assert_close(states, single, rtol=1e-5, atol=1e-5)


def test_a_trained_tower_reads_all_at_once(tower):
    pixels = torch.randn(3 * CPU_IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert sizes_read(tower, pixels)[0] == [3 * CPU_IMAGES]
    with torch.no_grad():
        assert max(sizes_read(tower, pixels)[0]) <= CPU_IMAGES


def dual_encoder():
    config = VisionTextDualEncoderConfig.from_vision_text_configs(VISION_CONFIGS["vit"], TEXT_CONFIGS["bert"])
    return VisionTextDualEncoderModel(config)


@pytest.mark.parametrize("side", ["text", "vision"])
@pytest.mark.parametrize(("make", "kind"), [(dual_encoder, "vision-text-dual-encoder"), (tiny_model, "2m-ner")])
def test_a_side_whose_weights_have_other_names_is_refused_and_loads_on_its_own(make, kind, side, tmp_path):
    whole = make()
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=rf"The {side} tower .* lacks (\d+) of the \1 weights of a .* `{kind}`"):
        pretrained_tower(tmp_path / "whole", side, torch.float32)
    part = getattr(getattr(whole, "model", whole), f"{side}_model")
    part.save_pretrained(tmp_path / "part")
    loaded, expected = pretrained_tower(tmp_path / "part", side, torch.float32).state_dict(), part.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


@pytest.mark.parametrize(
    ("vision", "absent", "is_read"),
    [
        ("clip-vision", "post_layernorm.weight", False),
        ("siglip-vision", "post_layernorm.weight", True),
        ("resnet", "encoder.stages.0.layers.0.layer.0.normalization.num_batches_tracked", False),
        ("resnet", "encoder.stages.0.layers.0.layer.0.normalization.running_mean", True),
    ],
)
def test_a_checkpoint_may_lack_what_is_not_read(vision, absent, is_read, tmp_path):
    file = save_tower(VISION_CONFIGS[vision], tmp_path) / "model.safetensors"
    weights = load_file(file)
    gone = [name for name in weights if name.endswith(absent)]
    assert len(gone) == 1
    save_file({name: value for name, value in weights.items() if name not in gone}, file, {"format": "pt"})
    if is_read:
        with pytest.raises(ValueError, match=rf"lacks 1 of the \d+ weights of a .*\({absent}, \.\.\.\)"):
            pretrained_tower(tmp_path, "vision", torch.float32)
    else:
        pretrained_tower(tmp_path, "vision", torch.float32)
