"""The search for hyper-parameters: what it tries, what it keeps, what it trains in the end."""

import json
import types

import own_process
import pytest
import torch
import yaml
from safetensors.torch import load_file
from written_files import read_jsonl

import run_mmner
from mmner.options import TrainingArguments
from mmner.training.search import read_space, search

optuna = pytest.importorskip("optuna")

OPTIONS = ["--probe_sentences", "120", "--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
SPACE = {
    "head_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 0.0, "high": 0.1},
    "per_device_train_batch_size": {"choices": [8, 16]},
    "gradient_accumulation_steps": {"low": 1, "high": 2},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    argv = [*OPTIONS, "--search_trials", "3", "--search_space", str(folder / "space.yaml")]
    results = run_mmner.main([*argv, "--output_dir", str(folder / "run")])
    return folder, results, read_jsonl(folder / "run" / "search.jsonl")


def test_the_trace_has_every_trial_and_the_best_on_dev_is_taken(searched):
    _, results, trace = searched
    assert [line["trial"] for line in trace] == [0, 1, 2]
    best = max(trace, key=lambda line: line["eval_f1"])
    assert results["search"] == best["options"] and set(best["options"]) == set(SPACE)
    assert len({json.dumps(line["options"]) for line in trace}) == 3
    assert not any(name.startswith("test") for line in trace for name in line)
    assert results["eval_f1"] == pytest.approx(best["eval_f1"])


def test_its_model_is_that_of_a_run_with_the_best_options(searched):
    folder, results, _ = searched
    options = [word for name, value in results["search"].items() for word in (f"--{name}", str(value))]
    run_mmner.main([*OPTIONS, *options, "--output_dir", str(folder / "plain")])
    first, second = (load_file(folder / name / "model.safetensors") for name in ("run", "plain"))
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_train_with_the_same_best_options(tmp_path):
    """The study of Transformers is on the first process; on the others its search returns None."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"weight_decay": SPACE["weight_decay"]}))
    (tmp_path / "rank.py").write_text(
        "import json, os, sys, torch, run_mmner\n"
        "torch.set_num_threads(1)\n"
        "found = run_mmner.main(sys.argv[2:])['search']\n"
        "assert not torch.distributed.is_initialized()\n"  # a process that ends with its group may abort
        "open(f\"{sys.argv[1]}/rank{os.environ['RANK']}.json\", 'w').write(json.dumps(found))\n"
    )
    options = [*OPTIONS, "--search_trials", "2", "--search_space", tmp_path / "space.yaml", "--do_predict", "false"]
    options += ["--output_dir", tmp_path / "run"]
    own_process.run(*own_process.TORCHRUN, tmp_path / "rank.py", tmp_path, *options)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    trace = read_jsonl(tmp_path / "run" / "search.jsonl")
    assert first == second == max(trace, key=lambda line: line["eval_f1"])["options"]


class FakeTrainer:
    """Each trial has the scores of its evaluations."""

    def __init__(self, args, evaluations):
        self.args, self.evaluations = args, evaluations

    def hyperparameter_search(self, hp_space, compute_objective, direction, **_):
        objectives = {}
        for number, scores in self.evaluations.items():
            suggest = {"suggest_float": lambda *args, **_: None}
            hp_space(types.SimpleNamespace(number=number, params={"weight_decay": number / 10}, **suggest))
            for epoch, score in enumerate(scores, 1):
                metrics = {"eval_f1": score, "eval_loss": score, "epoch": epoch}
                objectives[number] = compute_objective(metrics)
        chosen = (max if direction == "maximize" else min)(objectives, key=objectives.get)
        parameters = {"weight_decay": chosen / 10}
        return types.SimpleNamespace(run_id=chosen, objective=objectives[chosen], hyperparameters=parameters)


@pytest.mark.parametrize(
    ("options", "best", "kept"),
    [
        ({"metric_for_best_model": "eval_f1"}, 0, [0.9, 0.8]),
        ({"metric_for_best_model": "eval_f1", "load_best_model_at_end": False}, 1, [0.6, 0.8]),
        ({"metric_for_best_model": "eval_loss"}, 1, [0.5, 0.3]),
    ],
)
def test_a_trial_counts_by_the_evaluation_whose_model_would_be_kept(options, best, kept, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), **options)
    trainer = FakeTrainer(args, {0: [0.5, 0.9, 0.6], 1: [0.7, 0.3, 0.8]})
    assert search(trainer, {"weight_decay": {"low": 0.0, "high": 0.1}}, trials=2) == {"weight_decay": best / 10}
    assert [line[args.metric_for_best_model] for line in read_jsonl(tmp_path / "search.jsonl")] == kept
    assert args.load_best_model_at_end == options.get("load_best_model_at_end", True)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "holds no options"),
        ({"head_rate": {"low": 1, "high": 2}}, "no option of training"),
        ({"weight_decay": {"low": 0.2, "high": 0.1}}, "expected"),
        ({"weight_decay": {"low": 0.0, "high": 0.1, "log": True}}, "expected"),
        ({"weight_decay": {"choices": []}}, "expected"),
        ({"weight_decay": {"low": "1e-5", "high": 0.1}}, "1e-5 is text in YAML"),
    ],
)
def test_a_wrong_space_is_refused(space, message, tmp_path):
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(ValueError, match=message):
        read_space(tmp_path / "space.yaml", TrainingArguments())
