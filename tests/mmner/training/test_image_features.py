"""A run whose pictures' vectors are stored: the same to the last bit as one that computes them in each batch."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import VISION_CONFIGS, tiny_batch, tiny_model
from torch.utils.data import DataLoader
from transformers import AutoModel, ViTImageProcessorPil

import run_mmner
from mmner.data import collator as collator_module
from mmner.data.collator import MultimodalCollator
from mmner.data.feature_store import FeatureStore
from mmner.data.sentences import WindowedSentences, label_names, load_splits
from mmner.options import parse_arguments
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.training.image_features import store_image_features, tower_fingerprint
from mmner.training.model import build_model
from mmner.training.trainer import TwoMNERTrainer
from processing_2mner import image_id

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """
dataset: probe
probe_sentences: 120
freeze_vision_model: all
alignment: token
modality_dropout: 0.3
dropout: 0.1
num_train_epochs: 2
save_total_limit: 3
per_device_train_batch_size: 8
per_device_eval_batch_size: 8
learning_rate: 2e-3
logging_steps: 1
use_cpu: true
disable_tqdm: true
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A recipe with its towers; the image tower is a ViT, whose rows do not depend on the size of a batch."""
    folder = tmp_path_factory.mktemp("world")
    text, vision = make_tiny_towers(folder / "towers", [["a", "b", "c"]] * 9, vocab_size=300, text_width=32)
    torch.manual_seed(0)
    AutoModel.from_config(VISION_CONFIGS["vit"]).save_pretrained(vision)
    ViTImageProcessorPil(size={"height": 32, "width": 32}, do_convert_rgb=True).save_pretrained(vision)
    (folder / "recipe.yaml").write_text(RECIPE + f"text_model: {text}\nvision_model: {vision}\n")
    return folder


def run(world: Path, name: str, *options: str) -> dict:
    return run_mmner.main([str(world / "recipe.yaml"), "--output_dir", str(world / name), *options])


@pytest.fixture(scope="module")
def from_pixels(world) -> dict:
    return run(world, "pixels")


def losses(folder: Path) -> list[float]:
    state = max(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: json.loads(path.read_text())["epoch"])
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


def assert_the_same_run(world: Path, name: str, results: dict, expected: dict) -> None:
    assert losses(world / name) == losses(world / "pixels") and len(losses(world / name)) == 22
    weights = [load_file(world / run / "model.safetensors") for run in (name, "pixels")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(values, weights[1][key]) for key, values in weights[0].items())
    scores = [key for key in expected if "_f1" in key or key.endswith("_loss")]
    assert {"test_shuffled_image_f1", "test_loss"} <= set(scores) and {key: results[key] for key in scores} == {
        key: expected[key] for key in scores
    }
    for split in ("validation", "test"):
        file = f"predictions_{split}.jsonl"
        assert (world / name / file).read_bytes() == (world / "pixels" / file).read_bytes()


def test_a_stored_run_in_bfloat16_is_the_same_to_the_last_bit(world):
    options = ("--bf16", "true", "--num_train_epochs", "1", "--max_train_samples", "40", "--do_predict", "false")
    run(world, "half_pixels", *options)
    run(world, "half_store", *options, "--image_feature_store", str(world / "half"))
    assert losses(world / "half_store") == losses(world / "half_pixels") != []
    (fingerprint,) = [path.name for path in (world / "half").iterdir() if path.is_dir()]
    store = FeatureStore(world / "half", fingerprint, 2**30)
    exact = Parts(world)
    exact.store(world / "exact")
    pictures = [exact.sentences[0][row]["image"] for row in range(84)]
    differs = [not torch.equal(store[p][0], exact.collator.features[p][0]) for p in pictures if p and p in store]
    assert len(differs) > 20 and all(differs)  # the tower did compute in bfloat16


def test_a_stored_run_is_the_same_to_the_last_bit_and_a_second_one_opens_no_picture(
    world, from_pixels, monkeypatch, caplog
):
    store = ("--image_feature_store", str(world / "store"))
    with caplog.at_level(logging.INFO):
        assert_the_same_run(world, "first", run(world, "first", *store), from_pixels)
    assert "their vectors are computed" in caplog.text
    monkeypatch.setattr(collator_module, "load_image", lambda image: pytest.fail("a picture was opened"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert_the_same_run(world, "second", run(world, "second", *store), from_pixels)
    assert "their vectors are computed" not in caplog.text


class Parts:
    """A trainer with its sentences, built as `run_mmner` does, before anything is trained."""

    def __init__(self, world: Path, *options: str, splits: tuple[str, ...] = ("train",), rows=None):
        argv = [str(world / "recipe.yaml"), "--output_dir", str(world / "parts"), "--eval_strategy", "no"]
        argv += ["--save_strategy", "no", "--load_best_model_at_end", "false", *options]
        model_args, self.data_args, args = parse_arguments(argv)
        loaded = rows or load_splits(self.data_args, splits, world / "parts" / "_data")
        labels = label_names(next(iter(loaded.values())))
        self.model, self.processor = build_model(model_args, labels, [], world / "parts" / "_towers", True)
        self.sentences = [
            WindowedSentences(loaded[split], self.processor, self.model.config.label2id) for split in loaded
        ]
        self.collator = MultimodalCollator(self.processor, self.model.config.uses_images)
        self.trainer = TwoMNERTrainer(model=self.model, args=args, data_collator=self.collator)

    def store(self, folder: Path, limit_gb: float = 1.0):
        self.data_args.image_feature_store, self.data_args.image_feature_store_gb = str(folder), limit_gb
        return store_image_features(self.trainer, self.sentences, self.data_args)


def batches_of(sentences: WindowedSentences, collator: MultimodalCollator) -> list[dict[str, torch.Tensor]]:
    return [collator([sentences[row] for row in range(start, start + 8)]) for start in range(0, len(sentences) - 7, 8)]


@pytest.mark.parametrize("images", ["own", "shuffled", "hidden"])
def test_a_batch_has_the_ids_of_the_pictures_and_what_the_tower_makes_of_their_pixels(world, tmp_path, images):
    parts = Parts(world)
    expected = batches_of(parts.sentences[0].with_images(images), parts.collator)
    parts.store(tmp_path)
    found = batches_of(parts.sentences[0].with_images(images), parts.collator)
    parts.model.eval()
    for stored, plain in zip(found, expected, strict=True):
        pixels = plain.pop("pixel_values", None)
        features = stored.pop("image_features", None)
        assert stored.keys() == plain.keys() and all(torch.equal(stored[name], plain[name]) for name in plain)
        assert (pixels is None) == (features is None) == (images == "hidden")
        if pixels is not None:
            with torch.no_grad():
                states, _ = parts.model.model.encode_images(pixels, plain["image_ids"])
                whole, given = (
                    parts.model(**plain, pixel_values=pixels),
                    parts.model(**stored, image_features=features),
                )
            assert torch.equal(features, states) and features[plain["image_ids"] == 0].count_nonzero() == 0
            assert torch.equal(whole.loss, given.loss) and torch.equal(whole.logits, given.logits)


def test_workers_read_the_store(world, tmp_path):
    parts = Parts(world)
    parts.store(tmp_path)
    expected = batches_of(parts.sentences[0], parts.collator)
    loader = DataLoader(parts.sentences[0], batch_size=8, drop_last=True, num_workers=2, collate_fn=parts.collator)
    for batch, other in zip(loader, expected, strict=True):
        assert batch.keys() == other.keys() and all(torch.equal(batch[name], other[name]) for name in other)


def test_a_picture_that_does_not_open_is_named_and_its_sentence_goes_without(world, tmp_path, caplog):
    picture = tmp_path / "good.png"
    Image.new("RGB", (40, 24), "red").save(picture)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "copy.png").write_bytes(picture.read_bytes())
    Image.new("RGB", (40, 24), "red").save(tmp_path / "same.bmp")  # another file, the same pixels
    names = ["good.png", "bad.png", "copy.png", None, "same.bmp", "absent.png"]
    rows = datasets.Dataset.from_dict(
        {
            "tokens": [["Jordan"]] * len(names),
            "ner_tags": [[1]] * len(names),
            "image": [str(tmp_path / name) if name else None for name in names],
        },
        features=datasets.Features(
            {
                "tokens": datasets.List(datasets.Value("string")),
                "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
                "image": datasets.Image(),
            }
        ),
    )
    parts = Parts(world, rows={"train": rows})
    store = parts.store(tmp_path / "store")
    assert len(store) == 1 and parts.collator.unreadable_images >= 2
    assert "bad.png cannot be read as an image" in caplog.text and "absent.png does not exist" in caplog.text
    by_row = dict(zip(parts.sentences[0].row_of, (parts.sentences[0][row]["image"] for row in range(6)), strict=True))
    own = image_id(Image.open(picture))
    assert by_row == {0: own, 1: 0, 2: own, 3: None, 4: own, 5: 0}


def test_a_trained_tower_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"tensors of the vision_model are trained .* --freeze_vision_model all, or"):
        Parts(world, "--freeze_vision_model", "embeddings").store(tmp_path)
    Parts(world, "--freeze_vision_model", "none", "--do_train", "false").store(tmp_path)  # nothing is trained
    parts = Parts(world)
    parts.trainer.args.bf16_full_eval = True
    with pytest.raises(ValueError, match="bf16_full_eval and fp16_full_eval give the image tower another precision"):
        parts.store(tmp_path)


def test_an_augmentation_is_refused(world, tmp_path, monkeypatch):
    parts = Parts(world)
    plain = type(parts.processor.image_processor).__call__

    def flipped(self, images, **options):
        batch = plain(self, images, **options)
        batch["pixel_values"] = batch["pixel_values"] + torch.rand(())
        return batch

    monkeypatch.setattr(type(parts.processor.image_processor), "__call__", flipped)
    with pytest.raises(ValueError, match="gives the same picture other pixels each time"):
        parts.store(tmp_path)


def test_a_text_only_model_needs_no_store(world, tmp_path, caplog):
    assert Parts(world, "--collaboration", "none", "--alignment", "none").store(tmp_path / "store") is None
    assert "The model reads no image" in caplog.text and not (tmp_path / "store").exists()


def test_the_fingerprint_tells_apart_whatever_a_picture_s_vectors_depend_on(world):
    parts = Parts(world)
    model, processor = parts.model.model, parts.processor

    def fingerprint() -> str:
        return tower_fingerprint(model, processor, "cpu")

    first = fingerprint()
    assert Parts(world).model is not model and fingerprint() == first
    with torch.no_grad():
        model.text_model.get_input_embeddings().weight.add_(1)  # no part of it
    model.vision_model.config._name_or_path = "elsewhere"
    assert fingerprint() == first
    seen = {first}
    with torch.autocast("cpu", torch.bfloat16):
        seen.add(fingerprint())
    processor.image_processor.size = {"height": 16, "width": 16}
    seen.add(fingerprint())
    model.vision_model.config.layer_norm_eps = 0.5
    seen.add(fingerprint())
    weight = next(model.vision_model.parameters())
    with torch.no_grad():
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))  # the last bit of one number
    seen.add(fingerprint())
    model.vision_model.to(torch.bfloat16)
    seen.add(fingerprint())
    assert len(seen) == 6


def test_two_towers_take_given_features_as_they_take_pixels():
    for options in ({"collaboration": "cross_attention", "alignment": "nt_xent"}, {"modality_dropout": 0.5}):
        model = tiny_model(global_vision="resnet", dropout=0.1, **options)
        batch = tiny_batch()
        pixels = batch.pop("pixel_values")
        with torch.no_grad():
            states, pooled = model.model.encode_images(pixels, batch["image_ids"])
        features = {
            "image_features": states + 7 * (batch["image_ids"] == 0)[:, None, None],
            "global_image_features": pooled,
        }
        for training in (False, True):
            model.train(training)
            for seed in range(6):
                torch.manual_seed(seed)
                expected = model(**batch, pixel_values=pixels)
                torch.manual_seed(seed)
                found = model(**batch, **features)
                torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="`global_image_features` go with `image_features`"):
        model(**batch, image_features=states)
    with pytest.raises(ValueError, match="came with `pixel_values` or without `image_ids`"):
        model(**batch, **features, pixel_values=pixels)
    with pytest.raises(ValueError, match="came with `pixel_values` or without `image_ids`"):
        model(input_ids=batch["input_ids"], **features)
    with pytest.raises(ValueError, match=r"`image_features` has shape \(3, .*expected 3 dimensions, the first 4"):
        model(**batch, image_features=states[:3], global_image_features=pooled)


RANK = """
import json, os, sys, torch
torch.set_num_threads(1)
from mmner.data.sentences.feature_store import FeatureStore
import run_mmner
computed, plain = [], FeatureStore.add
FeatureStore.add = lambda self, *given: (computed.append(given[0]), plain(self, *given))
results = run_mmner.main(sys.argv[2:])
with open(f"{sys.argv[1]}/rank{os.environ['RANK']}.json", "w") as file:
    json.dump({"computed": computed, "train_loss": results["train_loss"]}, file)
"""


def test_two_processes_compute_a_share_each_and_read_all(world, tmp_path):
    options = ["--num_train_epochs", "1", "--do_predict", "false", "--do_eval", "false", "--eval_strategy", "no"]
    options += ["--save_strategy", "no", "--load_best_model_at_end", "false", "--per_device_train_batch_size", "4"]
    options += ["--image_feature_store", str(tmp_path / "store"), "--output_dir", str(tmp_path / "two")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(world / "recipe.yaml"), *options],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for job in jobs:
            told, _ = job.communicate(timeout=120)
            assert job.returncode == 0, told[-3000:]
    finally:
        for job in jobs:
            job.kill()
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["train_loss"] == ranks[1]["train_loss"]
    shares = [set(rank["computed"]) for rank in ranks]
    (stored,) = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    store = FeatureStore(tmp_path / "store", stored.name, 2**30)
    assert min(map(len, shares)) > 20 and not shares[0] & shares[1] and len(store) == len(shares[0] | shares[1])
