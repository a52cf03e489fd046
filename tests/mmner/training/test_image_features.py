"""A run whose image features are stored: the same to the last bit as one that computes them in each batch."""

import json
import logging
import os
from pathlib import Path

import own_process
import pytest
import torch
from PIL import Image
from sharded_rows import rows_of
from tiny_models import VISION_CONFIGS
from transformers import AutoModel, ViTImageProcessorPil

import run_mmner
from mmner.data import collator as collator_module
from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.feature_store import FeatureStore
from mmner.data.sentences import WindowedSentences
from mmner.data.splits import label_names, load_splits
from mmner.options import parse_arguments
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.training.checkpoints import newest_checkpoint
from mmner.training.image_features import store_image_features, tower_fingerprint
from mmner.training.model import build_model
from mmner.training.trainer import TwoMNERTrainer

RECIPE = """
{{dataset: probe, probe_sentences: 120, text_model: '{text}', vision_model: '{vision}', freeze_vision_model: all,
alignment: token, modality_dropout: 0.3, num_train_epochs: 2, save_total_limit: 3, per_device_train_batch_size: 8,
learning_rate: 2e-3, logging_steps: 1, use_cpu: true, disable_tqdm: true}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A recipe with its towers; the image tower is a ViT, whose rows do not depend on the size of a batch."""
    folder = tmp_path_factory.mktemp("world")
    text, vision = make_tiny_towers(folder / "towers", [["a", "b", "c"]] * 9, vocab_size=300, text_width=32)
    torch.manual_seed(0)
    AutoModel.from_config(VISION_CONFIGS["vit"]).save_pretrained(vision)
    ViTImageProcessorPil(size={"height": 32, "width": 32}, do_convert_rgb=True).save_pretrained(vision)
    (folder / "recipe.yaml").write_text(RECIPE.format(text=text, vision=vision))
    return folder


def run(world: Path, name: str, *options: str) -> dict:
    return run_mmner.main([str(world / "recipe.yaml"), "--output_dir", str(world / name), *options])


@pytest.fixture(scope="module")
def from_pixels(world) -> dict:
    return run(world, "pixels")


def losses(folder: Path) -> list[float]:
    state = json.loads((newest_checkpoint(folder) / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def assert_the_same_run(world: Path, name: str, results: dict, expected: dict) -> None:
    assert losses(world / name) == losses(world / "pixels") and len(losses(world / name)) == 22
    file = "model.safetensors"
    assert (world / name / file).read_bytes() == (world / "pixels" / file).read_bytes()
    scores = [key for key in expected if "_f1" in key or key.endswith("_loss")]
    assert {"test_shuffled_image_f1", "test_loss"} <= set(scores) and {key: results[key] for key in scores} == {
        key: expected[key] for key in scores
    }
    for split in ("validation", "test"):
        file = f"predictions_{split}.jsonl"
        assert (world / name / file).read_bytes() == (world / "pixels" / file).read_bytes()


def test_a_stored_run_is_the_same_to_the_last_bit_and_a_second_one_opens_no_image(
    world, from_pixels, monkeypatch, caplog
):
    store = ("--image_feature_store", str(world / "store"))
    with caplog.at_level(logging.INFO):
        assert_the_same_run(world, "first", run(world, "first", *store), from_pixels)
    assert "they are computed" in caplog.text
    monkeypatch.setattr(collator_module, "load_image", lambda image: pytest.fail("an image was opened"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert_the_same_run(world, "second", run(world, "second", *store), from_pixels)
    assert "they are computed" not in caplog.text


class Parts:
    """A trainer with its training sentences, built as `run_mmner` does, before anything is trained."""

    def __init__(self, world: Path, *options: str, rows=None):
        argv = [str(world / "recipe.yaml"), "--output_dir", str(world / "parts"), "--eval_strategy", "no"]
        argv += ["--save_strategy", "no", "--load_best_model_at_end", "false", *options]
        model_args, data_args, args = parse_arguments(argv)
        rows = rows or load_splits(data_args, ["train"], world / "parts" / "_data")["train"]
        self.model, self.processor = build_model(model_args, label_names(rows), [], world / "parts" / "_towers", True)
        self.sentences = WindowedSentences(rows, self.processor, self.model.config.label2id)
        self.collator = DataCollatorForMultimodalTokenClassification(self.processor, self.model.config)
        self.trainer = TwoMNERTrainer(model=self.model, args=args, data_collator=self.collator)

    def store(self, folder: Path):
        return store_image_features(self.trainer, [self.sentences], folder)


def test_an_image_that_does_not_open_is_named_and_its_sentence_goes_without(world, tmp_path, caplog):
    image = tmp_path / "good.png"
    Image.new("RGB", (40, 24), "red").save(image)
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "copy.png").write_bytes(image.read_bytes())
    names = ["good.png", "bad.png", "copy.png", None, "absent.png"]
    images = [{"bytes": None, "path": str(tmp_path / name)} if name else None for name in names]
    rows = rows_of([["Jordan"]] * 5, [[1]] * 5, images)
    parts = Parts(world, rows=rows)
    store = parts.store(tmp_path / "store")
    assert parts.collator.unreadable_images == 2
    assert "bad.png cannot be read as an image" in caplog.text and "absent.png does not exist" in caplog.text
    windows = [parts.sentences[index]["image"] for index in range(5)]
    good, bad, copy, none, absent = (windows[parts.sentences.row_of.index(row)] for row in range(5))
    assert good == copy and good in store and bad == absent == 0 and none is None


def test_a_trained_tower_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="the vision_model is trained. Freeze it .--freeze_vision_model all., or"):
        Parts(world, "--freeze_vision_model", "embeddings").store(tmp_path)
    Parts(world, "--freeze_vision_model", "none", "--do_train", "false").store(tmp_path)  # nothing is trained


def test_the_fingerprint_tells_apart_whatever_an_image_s_features_depend_on(world):
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


RANK = """
import json, os, sys, torch
torch.set_num_threads(1)
from mmner.data.feature_store import FeatureStore
import run_mmner
computed, plain = [], FeatureStore.add
FeatureStore.add = lambda self, *given: (computed.append(given[0]), plain(self, *given))
results = run_mmner.main(sys.argv[2:])
with open(f"{sys.argv[1]}/rank{os.environ['RANK']}.json", "w") as file:
    json.dump({"computed": computed, "train_loss": results["train_loss"]}, file)
"""


def test_two_processes_compute_a_share_each_and_read_all(world, tmp_path):
    options = "--num_train_epochs 1 --do_predict false --do_eval false --eval_strategy no --save_strategy no "
    options += f"--load_best_model_at_end false --image_feature_store {tmp_path}/store --output_dir {tmp_path}/two"
    (tmp_path / "rank.py").write_text(RANK)
    script, env = tmp_path / "rank.py", os.environ | {"ACCELERATE_USE_CPU": "true"}
    own_process.run(*own_process.TORCHRUN, script, tmp_path, world / "recipe.yaml", *options.split(), env=env)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["train_loss"] == ranks[1]["train_loss"]
    shares = [set(rank["computed"]) for rank in ranks]
    (stored,) = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    store = FeatureStore(tmp_path / "store", stored.name)
    assert min(map(len, shares)) > 20 and not shares[0] & shares[1]
    assert all(image_id in store for image_id in shares[0] | shares[1])
