"""The package as a wheel: used from an empty folder, in a process that does not see the repository."""

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import stranger
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BUILT_FROM = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "mmner", "dataset_script", "recipes")
STRANGER = """
import importlib, sys
from pathlib import Path
place = Path(sys.argv[1])
names = [path.relative_to(place).with_suffix("").as_posix().replace("/", ".") for path in place.rglob("*.py")]
for name in names:
    if not name.endswith("__main__"):
        module = importlib.import_module(name.removesuffix(".__init__"))
        assert Path(module.__file__).is_relative_to(place), module.__file__
expected = {"run_mmner", "handler", "modeling_2mner", "mmner.training.trainer", "dataset_script.building.build"}
assert expected <= {*names}

import evaluate, mmner.entity_f1
metric = evaluate.load(mmner.entity_f1.PATH)
assert metric.compute(predictions=[["B-A", "O"]], references=[["B-A", "B-A"]])["recall"] == 0.5

from mmner.options import DEFAULT_RECIPE, RECIPES, TrainingArguments, find_recipe, parse_arguments
from mmner.training.search import read_space
for name in ("base", "base.yaml", "recipes/base.yaml", RECIPES / "base.yaml"):
    assert find_recipe(name) == RECIPES / "base.yaml"
assert DEFAULT_RECIPE.is_relative_to(place) and (RECIPES / "accelerate" / "ddp.yaml").is_file()
assert parse_arguments([]) and read_space(TrainingArguments().search_space, TrainingArguments())

import runpy
sys.argv = ["run_mmner", "probe", *"--probe_sentences 80 --max_steps 2 --eval_strategy no --save_strategy no".split()]
sys.argv += "--load_best_model_at_end false --do_eval false --use_cpu --output_dir out --disable_tqdm true".split()
del sys.modules["run_mmner"]
runpy.run_module("run_mmner", run_name="__main__")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for path in (*(ROOT / name for name in BUILT_FROM), *ROOT.glob("*.py")):
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / "source" / path.name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(path, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, folder / "source"], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *alone, "--target", folder / "installed", wheel], check=True)
    return folder / "installed"


def test_modules_metric_recipes_and_a_run(installed, tmp_path):
    """Every module is imported, the metric and the recipes are found, a run trains and writes its model and card."""
    stranger.run(f"sys.path.insert(0, sys.argv[1])\n{STRANGER}", tmp_path, installed)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "recipe.yaml", "model.safetensors", "modeling_2mner.py", "predictions_test.jsonl"} <= names


def test_the_space_asks_for_versions_that_the_package_allows():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split()
    package = {wanted.name: wanted.specifier for wanted in map(Requirement, lines)}
    lines = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for wanted in (Requirement(line) for line in lines if not line.startswith("#")):
        lowest = [one.version for one in wanted.specifier if one.operator in ("==", ">=")]
        assert all(version in package[wanted.name] for version in lowest), str(wanted)
