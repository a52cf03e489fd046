"""A search for hyper-parameters, on dev only: Trainer's own interface to Optuna, the space in a file, a trace kept."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmner.arguments import TrainingArguments
from mmner.trainer import TwoMNERTrainer

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

TRACE = "search.jsonl"
# What must not happen in every trial: the last run, with the best options, does it.
ONCE = {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}


def read_space(path: Path, args: TrainingArguments) -> dict[str, dict[str, Any]]:
    """
    The space of a search.

    Args:
        path: a YAML file; of each option of `TrainingArguments` that is searched: `{low, high}`, with `log: true`
            where it is searched by its logarithm, or `{choices: [...]}`.
        args: of the run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option does not exist, or a range is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no search space {path}; expected YAML, as recipes/search/local.yaml.")
    space = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(space, dict) or not space:
        raise ValueError(
            f"{path} holds no options; expected lines such as `head_learning_rate: {{low: ..., high: ...}}`."
        )
    for name, found in space.items():
        if not hasattr(args, name):
            raise ValueError(f"{path} searches {name!r}, which is no option of training. See --help.")
        if isinstance(found, dict):
            space[name] = found = {
                key: [_number(one) for one in value] if isinstance(value, list) else _number(value)
                for key, value in found.items()
            }
        keys = set(found) if isinstance(found, dict) else set()
        is_choice = keys == {"choices"} and isinstance(found["choices"], list) and found["choices"]
        is_range = {"low", "high"} <= keys <= {"low", "high", "log"} and not any(
            isinstance(found[end], str) for end in ("low", "high")
        )
        is_range = is_range and 0 <= found["low"] < found["high"]
        if not (is_choice or (is_range and not (found.get("log") and found["low"] == 0))):
            raise ValueError(
                f"{path} gives {name} as {found!r}; expected {{low: a, high: b}} with 0 <= a < b, log: true where a "
                "is more than 0, or {choices: [...]}."
            )
    return space


def _number(value: Any) -> Any:
    """A number that YAML takes for text, as it does 1e-5 (it wants 1.0e-5); anything else, "nan" too, as it is."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def draw(trial: "optuna.Trial", space: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of a trial."""
    values = {}
    for name, found in space.items():
        if "choices" in found:
            values[name] = trial.suggest_categorical(name, found["choices"])
        elif isinstance(found["low"], int) and isinstance(found["high"], int):
            values[name] = trial.suggest_int(name, found["low"], found["high"], log=found.get("log", False))
        else:
            values[name] = trial.suggest_float(name, found["low"], found["high"], log=found.get("log", False))
    return values


def search(trainer: TwoMNERTrainer, space: dict[str, dict[str, Any]], trials: int) -> dict[str, Any]:
    """
    Trains so many times with options drawn from the space (Optuna's tree-structured Parzen estimator, seeded with the
    run's seed) and scores each on dev, at its best evaluation if `load_best_model_at_end`. The trainer's arguments are
    then the best trial's; `search.jsonl` in the output folder has a line a trial.

    Args:
        trainer: with a `model_init`.
        space: as `read_space` gives it.
        trials: their number.

    Returns:
        The best options.
    """
    import optuna

    args = trainer.args
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    kept = {name: getattr(args, name) for name in ONCE}
    metric = args.metric_for_best_model

    found: dict[int, dict[str, Any]] = {}  # of each trial, the evaluation that counts

    def objective(metrics: dict[str, float]) -> float:
        """Called after each evaluation of a trial: as in the last run, the best counts, or else the last."""
        trial = trainer._trial
        line = {"trial": trial.number, "options": dict(trial.params), "epoch": metrics["epoch"]}
        line |= {name: value for name, value in metrics.items() if "f1" in name or name in ("eval_loss", metric)}
        earlier = found.get(trial.number, line)
        is_better = (line[metric] > earlier[metric]) == args.greater_is_better and line[metric] != earlier[metric]
        if trial.number not in found or is_better or not kept["load_best_model_at_end"]:
            found[trial.number] = line
        lines = [json.dumps(line) + "\n" for line in found.values()]
        (output / TRACE).write_text("".join(lines), encoding="utf-8")
        return found[trial.number][metric]

    for name, value in ONCE.items():
        setattr(args, name, value)
    try:
        best = trainer.hyperparameter_search(
            hp_space=lambda trial: draw(trial, space),
            compute_objective=objective,
            n_trials=trials,
            direction="maximize" if args.greater_is_better else "minimize",
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=args.seed),
            pruner=optuna.pruners.NopPruner(),
        )
    finally:
        for name, value in kept.items():
            setattr(args, name, value)
    for name, value in best.hyperparameters.items():
        setattr(args, name, value)
    if len(found) > 1 and len({line[metric] for line in found.values()}) == 1:
        logger.warning(
            f"All {len(found)} trials have the same {metric} on dev, {best.objective:.4f}: the search tells nothing. "
            "Give a trial more steps (--num_train_epochs, --max_steps), or search wider (--search_space)."
        )
    logger.info(
        f"Trial {best.run_id} of {trials} is the best on dev, {metric} {best.objective:.4f}: training with it."
    )
    return best.hyperparameters


def model_maker(make: Callable[[], Any], first: Any) -> Callable[[], Any]:
    """A `model_init`: `first` the first time, then a new model each time."""
    models = [first]
    return lambda: models.pop() if models else make()


__all__ = ["draw", "model_maker", "read_space", "search"]
