"""One image file gives one score, through whichever door it comes; the export's is in `test_onnx_2mner.py`."""

import base64
import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from handler import EndpointHandler, Limits
from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from processing_2mner import image_id

TEXT = "Jordan was seen in Paris with Orange."


def save_photograph(path: Path) -> Path:
    """A JPEG with a texture of black and white, which a decoder at reduced size would smooth."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((1600, 1200))
    pixels = np.asarray(coarse).copy()
    pixels[300:900, 400:1200] = generator.integers(0, 2, (600, 800, 1), dtype=np.uint8) * 255
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    return save_photograph(tmp_path_factory.mktemp("images") / "photograph.jpg")


def scores(entities) -> list[float]:
    return [entity["score"] for entity in entities]


@torch.no_grad()
def evaluated(ner, image) -> list[float]:
    """The scores of what a run reads: the collator's batch, the model's logits."""
    words, _ = ner.processor.split_words(TEXT)
    collator = DataCollatorForMultimodalTokenClassification(ner.processor)
    batch = collator([{"tokens": words, "labels": [0] * len(words), "image": image}])
    assert not collator.unreadable_images
    batch.pop("labels")
    return [float(np.exp(span.log_prob)) for span in ner.decode([ner.model(**batch).logits[0]])[0]]


def test_one_file_has_one_score_through_every_door(ner, photograph):
    content = photograph.read_bytes()
    with Image.open(photograph) as opened:
        reference = np.asarray(opened.convert("RGB"))  # all of its pixels, by Pillow alone
    expected = scores(ner(TEXT, images=reference))
    assert len(expected) > 1 and expected != pytest.approx(scores(ner(TEXT)), abs=1e-3)  # the image counts

    encoded = base64.b64encode(content).decode()
    handler = EndpointHandler(ner=ner, limits=Limits())
    table = datasets.Dataset.from_dict({"text": [TEXT], "image": [str(photograph)]})
    table = table.cast_column("image", datasets.Image())
    found = {
        "path": ner(TEXT, images=str(photograph)),
        "bytes": ner(TEXT, images=content),
        "base64": ner(TEXT, images=encoded),
        "opened by the caller": ner(TEXT, images=Image.open(photograph)),
        "dataset": next(ner(table)),
        "streamed dataset": next(ner(table.to_iterable_dataset())),
        "decoded row": ner(TEXT, images=table[0]["image"]),
        "explain": [explained.entity for explained in ner.explain(TEXT, str(photograph)).entities],
        "handler": handler({"inputs": {"text": TEXT, "image": encoded}}),
    }
    found = {door: scores(entities) for door, entities in found.items()}
    for kind, image in (("path", {"path": str(photograph)}), ("bytes", {"bytes": content, "path": None})):
        found[f"evaluation, {kind}"] = evaluated(ner, image)
    for door, values in found.items():
        assert values == pytest.approx(expected, abs=1e-5), door


def test_the_feature_store_and_the_pipeline_see_the_same_image(ner, photograph):
    """A store knows an image by its pixels."""
    opened = DataCollatorForMultimodalTokenClassification(ner.processor).open({"path": str(photograph)})
    batch = ner.processor([["Jordan"]], images=[str(photograph)])
    assert image_id(opened) == batch["image_ids"][0] == image_id(Image.open(photograph).convert("RGB"))


def test_a_streamed_dataset_is_not_decoded_by_datasets(ner, monkeypatch):
    """Only the project's own opening knows which formats are safe to open."""
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    rows = {"text": [TEXT], "image": [{"bytes": eps.getvalue(), "path": "x.png"}]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *args, **options: pytest.fail("datasets decoded it"))
    for rows in (table, table.to_iterable_dataset()):
        with pytest.raises(ValueError, match="of no format of JPEG, PNG"):
            list(ner(rows))
