"""The scores of a finished training on dev and test, and what is written of them."""

import logging
from pathlib import Path
from typing import Any

from mmner.data.sentences import WindowedSentences
from mmner.data.splits import SPLITS
from mmner.results import report
from mmner.training.trainer import TwoMNERTrainer, few_steps

logger = logging.getLogger(__name__)


def score_splits(
    trainer: TwoMNERTrainer, sentences: dict[str, WindowedSentences], results: dict[str, Any]
) -> dict[str, report.Table]:
    """
    Scores the splits that the run's options ask for, with their controls; prints them, and writes predictions and
    plots. Those of an earlier run are removed where a training does not score the split anew.

    Adds the scores to the results, and returns the table of each split by the prefix of its scores.
    """
    args, output = trainer.args, Path(trainer.args.output_dir)
    tables: dict[str, report.Table] = {}
    cautions: list[str] = []
    for split, asked in (("validation", args.do_eval), ("test", args.do_predict)):
        if not asked or split not in sentences:
            if trainer.is_world_process_zero() and args.do_train:
                report.remove_scores(output, split)
            continue
        prefix = SPLITS[split]
        scored = trainer.predict_with_controls(sentences[split], prefix)
        results |= scored.metrics or {}
        if not trainer.is_world_process_zero():
            continue
        predicted = report.prediction_rows(sentences[split], *scored.predictions)
        table = report.score_table(results, prefix, sentences[split].groups)
        if not table:
            report.remove_scores(output, split)
        report.write_predictions(output, split, predicted)
        if table:
            tables[prefix] = table
            report.plot_scores(output, split, table)
            print(report.format_table(table, f"F1 on {split}"), flush=True)
            if caution := report.caution(predicted):
                results[f"{prefix}_caution"] = caution
                cautions.append(f"{split}: {caution}")
    if cautions:
        few = few_steps(args, trainer.state.global_step, results["train_samples"]) if args.do_train else ""
        logger.warning(" ".join([*cautions, few]))
    return tables
