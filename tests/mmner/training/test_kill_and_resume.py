"""A run killed at every point at which it writes, one after another, against the same run left alone: bit for bit."""

import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import own_process
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

import run_mmner
from mmner.data.feature_store import FeatureStore
from mmner.probe import dataset as probe
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.results import model_card, report
from mmner.training import checkpoints, trainer
from mmner.training.trainer import TwoMNERTrainer

EVERY = {"alignment": "clip", "modality_dropout": 0.3, "mention_dropout": 0.3, "text_augmentation": 0.3, "seed": 3}
EVERY |= {"max_train_samples": 20, "max_eval_samples": 4, "max_predict_samples": 4, "per_device_train_batch_size": 2}
EVERY |= {"logging_steps": 3, "num_train_epochs": 2, "learning_rate": 2e-3, "do_eval": False}
EVERY |= {"use_cpu": True, "disable_tqdm": True}
# Ten batches an epoch, five updates: every second one is saved, so that an epoch is gone on with in its middle.
STEPS = {"gradient_accumulation_steps": 2, "train_sampling_strategy": "random", "freeze_vision_model": "all"}
STEPS |= {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
STEPS |= {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
# No learning: the first epoch stays the best, and patience ends the training after the second of six.
PATIENCE = {"num_train_epochs": 6, "learning_rate": 1e-9, "early_stopping_patience": 1, "do_eval": True}
EPOCHS = {"dataloader_num_workers": 2}
KEPT = ("model.safetensors", "predictions_validation.jsonl", "predictions_test.jsonl")  # the last two where there are


def make_inputs(folder: Path) -> None:
    """Data and towers. The tokenizer has a mask token, for mentions to be hidden."""
    probe.build(folder / "probe", num_sentences=80)
    sizes = {"text_width": 32, "vocab_size": 300, "image_size_px": 32, "image_widths": (8, 16)}
    make_tiny_towers(folder / "towers", [["Paris", "is", "here"]] * 9, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(folder / "towers" / "text")
    tokenizer.mask_token = tokenizer.unk_token or tokenizer.pad_token
    tokenizer.save_pretrained(folder / "towers" / "text")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"


def recipe(folder: Path, name: str, options: dict) -> str:
    towers = {f"{kind}_model": str(folder / "towers" / kind) for kind in ("text", "vision")}
    store = {"image_feature_store": str(folder / f"store-{name}")} if options is STEPS else {}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"dataset": str(folder / "probe"), **towers, **EVERY, **options, **store}))
    return str(path)


def die(*args, **kwargs) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(monkeypatch, owner: object, name: str, call: int = 1, instead: Callable = die) -> None:
    """The process kills itself, or does something else, in the given call of a function."""
    real, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        return (instead if len(calls) == call else real)(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def in_processes(works: list[Callable[[], None]], log: Path, patience_s: float = 60) -> list[int]:
    """Runs each in a fork, whose death is not ours; returns the exit codes, -9 of one that was killed.

    When one has ended, the others get so many seconds to end too, as of `torchrun`.
    """

    def child(work: Callable[[], None]) -> None:
        os.setpgid(0, 0)
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            logging.getLogger().addHandler(logging.StreamHandler(file))
            try:
                work()
            except BaseException:
                traceback.print_exc(file=file)
                raise

    processes = [multiprocessing.get_context("fork").Process(target=child, args=(work,)) for work in works]
    for process in processes:
        process.start()
    multiprocessing.connection.wait([process.sentinel for process in processes], 60)
    for process in processes:
        process.join(patience_s)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def trained_and_counted(recipe: str, output: Path, *options: str) -> None:
    """A run that leaves, besides, a byte for each batch that it trained on."""
    step = TwoMNERTrainer.training_step

    def counted(*args, **kwargs):
        result = step(*args, **kwargs)
        with output.with_suffix(".steps").open("a") as file:
            file.write(".")
        return result

    TwoMNERTrainer.training_step = counted
    run_mmner.main([recipe, "--output_dir", str(output), *options])


def steps_of(output: Path) -> int:
    return output.with_suffix(".steps").stat().st_size


def run(recipe: str, output: Path, *options: str) -> None:
    log = output.with_suffix(".log")
    assert in_processes([lambda: trained_and_counted(recipe, output, *options)], log) == [0], log.read_text()[-5000:]


def killed_run(recipe: str, output: Path, *point, **options) -> None:
    """Starts or goes on, and dies at the point; whatever has a checkpoint's name is whole thereafter."""

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, *point, **options)
            trained_and_counted(recipe, output, "--resume_from_checkpoint", "auto")

    log = output.with_suffix(".log")
    before = checkpoints.newest_checkpoint(output)
    assert in_processes([work], log) == [-signal.SIGKILL], (point, log.read_text()[-5000:])
    for path in output.glob("checkpoint-*"):
        assert (path / "scheduler.pt").exists() and (path / "trainer_state.json").exists()
        torch.load(path / "optimizer.pt", weights_only=True)
        load_file(path / "model.safetensors")
    after = checkpoints.newest_checkpoint(output)
    assert before is None or checkpoints.step_of(after) >= checkpoints.step_of(before), point


def results_of(output: Path) -> dict:
    results = json.loads((output / "all_results.json").read_text())
    return {name: value for name, value in results.items() if "runtime" not in name and "per_second" not in name}


def assert_same(whole: Path, killed: Path, losses: bool = True) -> None:
    """A run that was told to stop has logged the loss once more, so without `losses` that is not compared."""
    for name in KEPT:
        if (whole / name).exists() or name == "model.safetensors":
            assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    expected = {k: v if isinstance(v, str) else pytest.approx(v, rel=1e-6) for k, v in results_of(whole).items()}
    assert results_of(killed) == expected
    histories = []
    for output in (whole, killed):
        state = json.loads((checkpoints.newest_checkpoint(output) / "trainer_state.json").read_text())
        timeless = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        entries = [entry for entry in state["log_history"] if losses or "loss" not in entry]
        histories.append([{k: v for k, v in entry.items() if k not in timeless} for entry in entries])
    assert histories[0] == histories[1]
    assert not (killed / checkpoints.SAVING).exists()


def half_a_record(store: FeatureStore, image_id: int, tensors: list[torch.Tensor]) -> None:
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / "half").write_bytes(b"0")
    die()


def half_a_deletion(folder: Path) -> None:
    next(folder.rglob("model.safetensors")).unlink()
    die()


def half_a_file(path: Path) -> None:
    aside = path.parent / checkpoints.SAVING / path.name
    aside.parent.mkdir(exist_ok=True)
    aside.write_text("{")
    die()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in checkpoints.complete_checkpoints(folder)]


def killed_wherever_it_writes(folder: Path, tmp_path: Path) -> None:
    run(recipe(folder, "whole", STEPS), tmp_path / "whole")
    assert steps_of(tmp_path / "whole") == 20
    killed, name = tmp_path / "killed", recipe(folder, "killed", STEPS)  # with a store of its own
    log = killed.with_suffix(".log")
    killed_run(name, killed, FeatureStore, "add", call=5, instead=half_a_record)
    killed_run(name, killed, TwoMNERTrainer, "training_step", call=4)
    killed_run(name, killed, TwoMNERTrainer, "_save_rng_state")
    assert (killed / checkpoints.SAVING / "checkpoint-2" / "model.safetensors").is_file()
    assert names_in(killed) == []
    killed_run(name, killed, trainer, "rotate", call=2)  # the second is in its place
    assert "left unfinished files in" in log.read_text()
    assert names_in(killed) == ["checkpoint-2", "checkpoint-4"]
    killed_run(name, killed, TwoMNERTrainer, "prediction_step")
    killed_run(name, killed, trainer, "commit")
    assert names_in(killed) == ["checkpoint-2", "checkpoint-4"]
    killed_run(name, killed, shutil, "rmtree", call=2, instead=half_a_deletion)
    assert names_in(killed)[-1] == "checkpoint-6"
    killed_run(name, killed, TwoMNERTrainer, "_load_best_model")
    trained = steps_of(killed)  # from here on nothing is trained again
    killed_run(name, killed, report, "replacing", instead=half_a_file)
    assert not (killed / "predictions_test.jsonl").exists()
    run(name, killed, "--resume_from_checkpoint", "last")
    assert steps_of(killed) == trained
    assert_same(tmp_path / "whole", killed)


def patience_runs_out(folder: Path, tmp_path: Path) -> None:
    name = recipe(folder, "patience", PATIENCE)
    run(name, tmp_path / "whole")
    assert steps_of(tmp_path / "whole") == 20
    killed = tmp_path / "killed"
    killed_run(name, killed, TwoMNERTrainer, "training_step", call=13)
    killed_run(name, killed, TwoMNERTrainer, "_load_best_model")
    killed_run(name, killed, model_card, "replacing", instead=half_a_file)
    assert steps_of(killed) == 12 + 10
    run(name, killed, "--resume_from_checkpoint", "last")
    assert steps_of(killed) == 12 + 10
    assert_same(tmp_path / "whole", killed)


def in_two_processes(recipe: str, output: Path, kill: tuple | None = None, patience_s: float = 60) -> list[int]:
    """As `torchrun` starts them, and ends them all when one has died."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def work(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if kill is not None and kill[0] == rank:
            kill_at(pytest.MonkeyPatch(), *kill[1:])
        run_mmner.main([recipe, "--output_dir", str(output), "--resume_from_checkpoint", "auto"])

    return in_processes([partial(work, rank) for rank in range(2)], output.with_suffix(".log"), patience_s)


def two_processes_are_killed(folder: Path, tmp_path: Path) -> None:
    """Each has random numbers of its own; the first alone writes and renames, when the other has written too."""
    name = recipe(folder, "two", {})
    assert in_two_processes(name, tmp_path / "whole") == [0, 0], (tmp_path / "whole.log").read_text()[-3000:]
    killed = tmp_path / "killed"
    for rank, *point in [
        (0, trainer, "commit", 2),
        (1, TwoMNERTrainer, "_save_rng_state", 1),
        (1, TwoMNERTrainer, "training_step", 2),
    ]:
        codes = in_two_processes(name, killed, (rank, *point), patience_s=0.5)
        assert codes[rank] == -signal.SIGKILL, (tmp_path / "killed.log").read_text()[-3000:]
        assert all((path / "rng_state_1.pth").exists() for path in killed.glob("checkpoint-*"))
    assert in_two_processes(name, killed) == [0, 0], (tmp_path / "killed.log").read_text()[-3000:]
    assert_same(tmp_path / "whole", killed)


def told(number: int) -> None:
    """As `timeout` does: the process, and then all of its group, worker processes too."""
    command = ["kill", f"-{number}", "--", str(os.getpid()), str(-os.getpgid(0))]
    subprocess.run(command, check=True, start_new_session=True)


def stopped_run(recipe: str, output: Path, number: int, owner: object, name: str, call: int) -> None:
    """Starts or goes on, and is told to stop in the call of a function."""
    real, log = getattr(owner, name), output.with_suffix(".log")

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        with pytest.MonkeyPatch.context() as patch:

            def instead(*args, **kwargs):
                told(number)
                return real(*args, **kwargs)

            kill_at(patch, owner, name, call=call, instead=instead)
            trained_and_counted(recipe, output, "--resume_from_checkpoint", "auto")

    assert in_processes([work], log) == [128 + number], log.read_text()[-5000:]
    assert f"{signal.Signals(number).name} stopped the training" in log.read_text()
    assert f"{checkpoints.newest_checkpoint(output)}. To go on" in log.read_text()
    assert not {"model.safetensors", "all_results.json", "README.md"} & {path.name for path in output.iterdir()}


def told_to_stop(folder: Path, tmp_path: Path) -> None:
    """Wherever the signal comes in a training, nothing is trained twice."""
    for kind, options, points in [
        ("steps", STEPS, [
            (signal.SIGTERM, TwoMNERTrainer, "training_step", 5, 3),  # in the first of two batches of a step
            (signal.SIGINT, TwoMNERTrainer, "training_step", 2, 4),  # in the second, and that step is saved anyway
            (signal.SIGTERM, TwoMNERTrainer, "training_step", 1, 5),  # the last step of the epoch
            (signal.SIGINT, TwoMNERTrainer, "prediction_step", 1, 7),  # in the evaluation after step 6
            (signal.SIGTERM, TwoMNERTrainer, "training_step", 6, 10),  # the last step of all
        ]),
        ("epochs", EPOCHS, [
            (signal.SIGINT, TwoMNERTrainer, "training_step", 4, 4),
            (signal.SIGTERM, TwoMNERTrainer, "training_step", 6, 10),  # dev is scored and the best chosen before
            (signal.SIGTERM, TwoMNERTrainer, "prediction_step", 1, 20),  # in the last evaluation: training is over
        ]),
    ]:  # fmt: skip
        whole, stopped = tmp_path / f"whole-{kind}", tmp_path / f"stopped-{kind}"
        run(recipe(folder, f"whole-{kind}", options), whole)
        name = recipe(folder, f"stopped-{kind}", options)
        for number, *point, step in points:
            stopped_run(name, stopped, number, *point)
            assert names_in(stopped)[-1] == f"checkpoint-{step}", (kind, names_in(stopped))
        run(name, stopped, "--resume_from_checkpoint", "last")
        assert steps_of(stopped) == steps_of(whole)
        assert_same(whole, stopped, losses=False)


def two_processes_are_told_to_stop(folder: Path, tmp_path: Path) -> None:
    """One alone is told, in the middle of a step; both save the same step, and end alike."""
    name = recipe(folder, "two-told", {})
    assert in_two_processes(name, tmp_path / "whole") == [0, 0], (tmp_path / "whole.log").read_text()[-3000:]
    stopped = tmp_path / "stopped"
    step = TwoMNERTrainer.training_step

    def instead(*args, **kwargs):
        told(signal.SIGTERM)
        return step(*args, **kwargs)

    for rank, call, saved in [(1, 2, 2), (0, 3, 5)]:
        codes = in_two_processes(name, stopped, (rank, TwoMNERTrainer, "training_step", call, instead))
        assert codes == [143, 143], stopped.with_suffix(".log").read_text()[-3000:]
        assert names_in(stopped)[-1] == f"checkpoint-{saved}"
    assert in_two_processes(name, stopped) == [0, 0], stopped.with_suffix(".log").read_text()[-3000:]
    assert_same(tmp_path / "whole", stopped, losses=False)


CASES = [
    killed_wherever_it_writes,
    patience_runs_out,
    two_processes_are_killed,
    told_to_stop,
    two_processes_are_told_to_stop,
]


@pytest.fixture(scope="module")
def failures(tmp_path_factory) -> dict[str, str]:
    """One launch for all cases, from a fresh interpreter: autograd cannot be forked once it has run."""
    folder = tmp_path_factory.mktemp("killed")
    own_process.run(__file__, folder)
    return json.loads((folder / "failures.json").read_text())


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_a_killed_run_ends_with_the_same_bits(failures, case):
    assert failures[case] is None, failures[case]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    make_inputs(folder)
    failures: dict[str, str | None] = {}
    for case in CASES:
        (folder / case.__name__).mkdir()
        try:
            case(folder, folder / case.__name__)
            failures[case.__name__] = None
        except Exception:
            failures[case.__name__] = traceback.format_exc()
    (folder / "failures.json").write_text(json.dumps(failures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
