"""Batches: the tensors of the contract, and what becomes of an image that does not open."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from mmner.data.collator import MultimodalCollator
from mmner.data.feature_store import FeatureStore
from mmner.probe.tiny_towers import make_tiny_towers
from processing_2mner import TwoMNERProcessor


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    towers = make_tiny_towers(folder, [["Jordan", "won"], ["Paris", "is", "far"]], vocab_size=300, image_size_px=32)
    return TwoMNERProcessor.from_towers(*towers)


def png(colour: str) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{colour}.png"}


def feature(words: str, image=None) -> dict:
    return {"tokens": words.split(), "labels": list(range(len(words.split()))), "image": image}


def test_a_batch_is_what_the_processor_makes_of_its_rows(processor):
    features = [feature("Jordan won", png("red")), feature("Paris is far"), feature("Paris won", png("red"))]
    batch = MultimodalCollator(processor)(features)
    text = {"input_ids", "attention_mask", "word_starts", "labels"}
    assert set(batch) == text | {"pixel_values", "image_index", "image_ids"}
    assert batch["labels"].tolist() == [[0, 1, -100], [0, 1, 2], [0, 1, -100]]
    red = np.full((30, 40, 3), (255, 0, 0), dtype=np.uint8)
    alone = processor(["Jordan won"], images=[Image.fromarray(red)])
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])  # equal images once
    assert torch.equal(batch["image_ids"], alone["image_ids"])
    assert batch["image_index"].tolist() == [0, -1, 0]
    assert set(MultimodalCollator(processor)(features[1:2])) == text


def test_a_model_that_reads_no_image_opens_none(processor):
    broken = {"bytes": b"no image", "path": None}
    collator = MultimodalCollator(processor, use_images=False)
    batch = collator([feature("Jordan won", broken)])
    assert set(batch) == {"input_ids", "attention_mask", "word_starts", "labels"}
    assert collator.unreadable_images == 0


def test_tokens_are_padded_to_a_multiple(processor):
    batch = MultimodalCollator(processor, pad_to_multiple_of=8)([feature("Jordan won")])
    assert batch["input_ids"].shape[1] % 8 == 0


def test_an_image_that_does_not_open_is_named_once_counted_always_and_left_out(processor, tmp_path, caplog):
    truncated = {"bytes": png("blue")["bytes"][:60], "path": "half.png"}
    absent = {"bytes": None, "path": str(tmp_path / "gone.png")}
    collator = MultimodalCollator(processor)
    features = [feature("Jordan won", truncated), feature("Paris", png("red")), feature("Paris", absent)]
    with caplog.at_level(logging.WARNING):
        batch = collator(features)
        collator(features[:1])
    assert batch["image_index"].tolist() == [-1, 0, -1] and len(batch["pixel_values"]) == 1
    assert collator.unreadable_images == 3
    assert len(caplog.messages) == 2
    assert "half.png" in caplog.messages[0] and "gone.png" in caplog.messages[1]
    assert all(message.endswith("Its sentences go without an image.") for message in caplog.messages)


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_the_count_includes_what_the_workers_of_a_data_loader_saw(processor, start, workers):
    rows = [feature("Jordan won", {"bytes": b"no image", "path": f"{number}.png"}) for number in range(4)]
    collator = MultimodalCollator(processor)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=1, num_workers=workers, collate_fn=collator, multiprocessing_context=start
    )
    assert len(list(loader)) == 4
    assert collator.unreadable_images == 4


def test_a_worker_that_is_not_forked_reads_the_store_of_features(processor, tmp_path):
    store = FeatureStore(tmp_path, "tower")
    features = {number: torch.randn(4, 8) for number in (7, 9)}
    for number, states in features.items():
        store.add(number, [states])
    collator = MultimodalCollator(processor)
    collator.features = store
    rows = [feature("Jordan won", 7), feature("Paris"), feature("Paris is far", 9), feature("Paris", 7)]
    rows += [feature("Jordan", 0)] * 4  # 0: an image that does not open
    loader = torch.utils.data.DataLoader(
        rows, batch_size=4, num_workers=1, collate_fn=collator, multiprocessing_context="forkserver"
    )
    with_images, without = loader
    assert with_images["image_ids"].tolist() == [7, 9] and with_images["image_index"].tolist() == [0, -1, 1, 0]
    assert torch.equal(with_images["image_features"], torch.stack([features[7], features[9]]))
    assert not {"image_ids", "image_index", "image_features", "pixel_values"} & set(without)


def test_another_error_is_not_swallowed(processor):
    row = {"tokens": ["Jordan", "won"], "labels": [0], "image": None}
    with pytest.raises(ValueError, match="1 labels for the 2 words"):
        MultimodalCollator(processor)([row])
