"""Batches: the tensors of the contract, and what becomes of an image that does not open."""

import numpy as np
import pytest
import torch
from PIL import Image
from sharded_rows import png

from mmner.data.collator import MultimodalCollator
from mmner.data.feature_store import FeatureStore
from processing_2mner import TwoMNERProcessor

TEXT = {"input_ids", "attention_mask", "word_starts", "labels"}
RED = png(255, 0, 0)


@pytest.fixture(scope="module")
def processor(towers):
    return TwoMNERProcessor.from_towers(towers / "text", towers / "vision")


def feature(words: str, image=None) -> dict:
    return {"tokens": words.split(), "labels": list(range(len(words.split()))), "image": image}


def test_a_batch_is_what_the_processor_makes_of_its_rows(processor):
    features = [feature("Jordan won", RED), feature("Paris is far"), feature("Paris won", RED)]
    batch = MultimodalCollator(processor)(features)
    assert set(batch) == TEXT | {"pixel_values", "image_index", "image_ids"}
    assert batch["labels"].tolist() == [[0, 1, -100], [0, 1, 2], [0, 1, -100]]
    red = Image.fromarray(np.full((8, 8, 3), (255, 0, 0), dtype=np.uint8))
    alone = processor(["Jordan won"], images=[red])
    assert torch.equal(batch["pixel_values"], alone["pixel_values"])  # equal images once
    assert torch.equal(batch["image_ids"], alone["image_ids"])
    assert batch["image_index"].tolist() == [0, -1, 0]
    assert set(MultimodalCollator(processor)(features[1:2])) == TEXT
    assert MultimodalCollator(processor, pad_to_multiple_of=8)(features)["input_ids"].shape[1] % 8 == 0
    blind = MultimodalCollator(processor, use_images=False)  # for a model that reads no image
    assert set(blind([feature("Jordan won", {"bytes": b"no image", "path": None})])) == TEXT
    assert blind.unreadable_images == 0


def test_an_image_that_does_not_open_is_named_once_counted_always_and_left_out(processor, tmp_path, caplog):
    truncated = {"bytes": RED["bytes"][:40], "path": "half.png"}
    absent = {"bytes": None, "path": str(tmp_path / "gone.png")}
    collator = MultimodalCollator(processor)
    features = [feature("Jordan won", truncated), feature("Paris", RED), feature("Paris", absent)]
    batch = collator(features)
    collator(features[:1])
    assert batch["image_index"].tolist() == [-1, 0, -1] and len(batch["pixel_values"]) == 1
    assert collator.unreadable_images == 3
    half, gone = caplog.messages
    assert "half.png" in half and "gone.png" in gone and gone.endswith("Its sentences go without an image.")


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_the_count_includes_what_the_workers_of_a_data_loader_saw(processor, start, workers):
    rows = [feature("Jordan won", {"bytes": b"no image", "path": f"{number}.png"}) for number in range(4)]
    collator = MultimodalCollator(processor)
    options = {"num_workers": workers, "multiprocessing_context": start}
    assert len(list(torch.utils.data.DataLoader(rows, batch_size=1, collate_fn=collator, **options))) == 4
    assert collator.unreadable_images == 4


def test_a_worker_that_is_not_forked_reads_the_store_of_features(processor, tmp_path):
    collator = MultimodalCollator(processor)
    collator.features = FeatureStore(tmp_path, "tower")
    features = {number: torch.randn(4, 8) for number in (7, 9)}
    for number, states in features.items():
        collator.features.add(number, [states])
    rows = [feature("Jordan won", 7), feature("Paris"), feature("Paris is far", 9), feature("Paris", 7)]
    rows += [feature("Jordan", 0)] * 4  # 0: an image that does not open
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    with_images, without = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collator, **options)
    assert with_images["image_ids"].tolist() == [7, 9] and with_images["image_index"].tolist() == [0, -1, 1, 0]
    assert torch.equal(with_images["image_features"], torch.stack([features[7], features[9]]))
    assert set(without) == TEXT
