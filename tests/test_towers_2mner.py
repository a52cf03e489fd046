"""How image towers are read."""

import pytest
import torch
from tiny_models import IMAGE_SIZE, tiny_model
from transformers import logging

from towers_2mner import CPU_PICTURES, sequence_of

logging.set_verbosity_error()


@pytest.fixture(params=["vit", "resnet"])
def tower(request):
    return tiny_model(vision=request.param).eval().model.vision_model


def sizes_read(tower, pixels) -> tuple[list[int], torch.Tensor]:
    """How many pictures each call of the tower got, and what came of it."""
    read = []
    handle = tower.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    states = sequence_of(tower, pixels)
    handle.remove()
    return read, states


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [(1, [1]), (CPU_PICTURES, [CPU_PICTURES]), (CPU_PICTURES + 1, [3, 2]), (2 * CPU_PICTURES + 1, [3, 3, 3])],
)
def test_a_frozen_tower_reads_few_at_once_and_sees_the_same(tower, pictures, expected):
    tower.requires_grad_(False)
    pixels = torch.randn(pictures, 3, IMAGE_SIZE, IMAGE_SIZE)
    read, states = sizes_read(tower, pixels)
    assert read == expected
    single = torch.cat([sequence_of(tower, pixel[None]) for pixel in pixels])
    torch.testing.assert_close(states, single, rtol=1e-5, atol=1e-5)


def test_a_trained_tower_reads_all_at_once(tower):
    tower.requires_grad_(True)
    pixels = torch.randn(3 * CPU_PICTURES, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert sizes_read(tower, pixels)[0] == [3 * CPU_PICTURES]
    with torch.no_grad():
        assert max(sizes_read(tower, pixels)[0]) <= CPU_PICTURES
