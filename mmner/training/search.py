"""A search for hyper-parameters on dev: the Trainer's interface to Optuna, with the space in a YAML file."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import broadcast_object_list

from mmner.options import TrainingArguments, find_recipe
from mmner.training.trainer import TwoMNERTrainer

logger = logging.getLogger(__name__)

# What no trial does: the training after the search, with the best options, does it.
ONCE = {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}


def read_space(path: str | Path, args: TrainingArguments) -> dict[str, dict[str, Any]]:
    """
    The space of a search.

    Args:
        path: a YAML file, found as a recipe is (`find_recipe`); for each option of `TrainingArguments` to search:
            `{low, high}`, with `log: true` to search by its logarithm, or `{choices: [...]}`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option does not exist, or has no range.
    """
    path = find_recipe(path)
    space = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(space, dict) or not space:
        raise ValueError(f"{path} holds no options; expected lines such as `weight_decay: {{low: 0.0, high: 0.1}}`.")
    for name, found in space.items():
        if not hasattr(args, name):
            raise ValueError(f"{path} searches {name!r}, which is no option of training. See --help.")
        try:
            if "choices" in found:
                valid = set(found) == {"choices"} and found["choices"]
            else:
                low, high, log = found["low"], found["high"], found.get("log", False)
                valid = set(found) <= {"low", "high", "log"} and 0 <= low < high and not (log and low == 0)
        except (TypeError, KeyError, AttributeError):
            valid = False
        if not valid:
            raise ValueError(
                f"{path} gives {name} as {found!r}; expected {{low: a, high: b}} with 0 <= a < b (log: true where a "
                "is more than 0), or {choices: [...]}; numbers as in 1.0e-5, since 1e-5 is text in YAML."
            )
    return space


def search(trainer: TwoMNERTrainer, space: dict[str, dict[str, Any]], trials: int) -> dict[str, Any]:
    """
    Trains so many times with options drawn from the space (Optuna's tree-structured Parzen estimator, seeded with the
    run's seed) and scores each on dev, at its best evaluation if `--load_best_model_at_end`. The trainer's arguments
    are then those of the best trial, which are returned; `search.jsonl` in the output folder has one line per trial.
    """
    import optuna

    args = trainer.args
    kept = {name: getattr(args, name) for name in ONCE}
    metric = args.metric_for_best_model
    current: list[Any] = []
    trials_so_far: dict[int, dict[str, Any]] = {}  # of each trial, the evaluation that counts

    def options_of(trial: Any) -> dict[str, Any]:
        current[:] = [trial]
        values = {}
        for name, found in space.items():
            kind = "categorical" if "choices" in found else "int" if isinstance(found["low"], int) else "float"
            values[name] = getattr(trial, f"suggest_{kind}")(name, **found)
        return values

    def objective(metrics: dict[str, float]) -> float:
        """Called after each evaluation of a trial."""
        (trial,) = current
        line = {"trial": trial.number, "options": dict(trial.params), "epoch": metrics["epoch"]}
        line |= {name: value for name, value in metrics.items() if "f1" in name or name == metric}
        best = max if args.greater_is_better else min
        counted = [trials_so_far.get(trial.number, line), line] if kept["load_best_model_at_end"] else [line]
        trials_so_far[trial.number] = best(counted, key=lambda line: line[metric])
        if args.process_index == 0:
            lines = [json.dumps(line) + "\n" for line in trials_so_far.values()]
            Path(args.output_dir, "search.jsonl").write_text("".join(lines), encoding="utf-8")
        return trials_so_far[trial.number][metric]

    args.__dict__.update(ONCE)
    try:
        best: Any = trainer.hyperparameter_search(
            hp_space=options_of,
            compute_objective=objective,
            n_trials=trials,
            direction="maximize" if args.greater_is_better else "minimize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            pruner=optuna.pruners.NopPruner(),
        )
    finally:
        args.__dict__.update(kept)
    (best,) = broadcast_object_list([best])  # the study is on the first process; the others got None
    args.__dict__.update(best.hyperparameters)
    logger.info(f"Trial {best.run_id} is the best of {trials}, {metric} {best.objective:.4f}: training with it.")
    return best.hyperparameters


def model_maker(make: Callable[[], Any], first: Any) -> Callable[[], Any]:
    """A `model_init`: `first` the first time, then a new model each time."""
    models = [first]
    return lambda: models.pop() if models else make()
