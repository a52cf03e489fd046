"""The scripts and notebooks of `examples/` run as they stand, on the bundled model, with small sizes."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a script from the root of the repository, as its docstring tells."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def script(name: str, *options) -> None:
        monkeypatch.setattr("sys.argv", [name, *map(str, options)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    return script


def test_the_stock_trainer(run, tmp_path, capsys):
    run("stock_trainer", "--output", tmp_path / "stock")
    assert "'eval_f1': " in capsys.readouterr().out and (tmp_path / "stock" / "modeling_2mner.py").is_file()


def test_lora_saves_a_plain_model(run, tmp_path, capsys):
    pytest.importorskip("peft")
    run("lora", "--output", tmp_path / "lora")
    assert "weights are trained." in capsys.readouterr().out
    index = json.loads((ROOT / "models" / "2m-ner-small" / "model.safetensors.index.json").read_text())
    assert set(load_file(tmp_path / "lora" / "model.safetensors")) == set(index["weight_map"])


def test_encoders_of_ones_choice(run, tmp_path, towers):
    text, vision = towers
    run("custom_encoder", "--text", text, "--vision", vision, "--epochs", 1, "--output", tmp_path / "custom")
    config = json.loads((tmp_path / "custom" / "config.json").read_text())
    assert [config["id2label"][str(number)] for number in range(3)] == ["O", "B-LOC", "B-ORG"]


def test_own_rows_with_an_own_type(run, tmp_path):
    small = "--max_steps 2 --rehearsal_posts 4 --use_cpu --disable_tqdm true --per_device_eval_batch_size 4"
    run("own_dataset", "--output", tmp_path, *small.split())
    assert "B-DISH" in (tmp_path / "run" / "config.json").read_text()


def test_a_dataset_is_tagged_once_and_then_read_from_the_cache(run, tmp_path):
    found = []
    for number in range(2):
        run("batch_inference", "--output", tmp_path / f"{number}.jsonl")
        found.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("cache-*.arrow")})
    assert len(found[0]) == 1 and found[0] == found[1]
    rows = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40 and sum(len(row["entities"]) for row in rows) > 40
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


def test_onnx(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run("onnx_runtime", "--output", tmp_path / "onnx")
    torch_line, onnx_line, _ = capsys.readouterr().out.splitlines()[-3:]
    assert torch_line.partition(" s ")[2] == onnx_line.partition(" s ")[2] == "['Nora Quist', 'Rivermouth']"


def test_each_script_is_short_and_is_named_in_the_list():
    names = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]:
        assert f"({path.name})" in names
        assert path.suffix != ".py" or len(path.read_text(encoding="utf-8").splitlines()) <= 46, path


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_is_kept_without_outputs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "models").symlink_to(ROOT / "models")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    where = {"metadata": {"path": str(tmp_path / "examples")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    assert all(cell.outputs for cell in code if "print" in cell.source or cell is code[-1])
