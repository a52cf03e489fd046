"""
Train, evaluate and predict with 2M-NER: one recipe in, one folder out.

    # the synthetic probe: no download, minutes on a CPU
    python run_mmner.py
    # the recommended model, on a folder of your own
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base
    # towers from folders, any option overridden
    python run_mmner.py recipes/local.yaml --text_model path/to/text --vision_model path/to/vision \
        --dataset path/to/folder --output_dir outputs/local --num_train_epochs 1
    # its text-only baseline, trained the same way
    python run_mmner.py recipes/local.yaml --text_model path/to/text --vision_model path/to/vision \
        --dataset path/to/folder --output_dir outputs/text --collaboration none --alignment none
    # go on where a run was broken off
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base \
        --resume_from_checkpoint last
    # where jobs are ended and started again by the same command: go on, or start if there is nothing yet
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base \
        --resume_from_checkpoint auto
    # a set larger than memory or disk: Parquet files, read as they lie
    python run_mmner.py recipes/base.yaml --dataset path/to/shards --streaming true --max_steps 100000 \
        --eval_strategy steps --eval_steps 1000 --save_strategy steps --save_steps 1000 --output_dir outputs/large
    # score a saved model
    python run_mmner.py recipes/base.yaml --model_name_or_path outputs/base --dataset path/to/other \
        --output_dir outputs/other --do_train false
    # train, score, and publish: weights, code, processor, recipe, card and plots in one commit
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base \
        --push_to_hub --hub_model_id org/name
    # search hyper-parameters on dev (pip install '.[search]'), then train with the best and score test once
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/searched \
        --search_trials 20 --search_space recipes/search/local.yaml
    # several processes
    torchrun --nproc_per_node 4 run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base

The checkpoint is chosen on the dev set; the test set is scored at the end, with its own images, none, and shuffled.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback, set_seed

from mmner.data.collator import MultimodalCollator
from mmner.data.sentences import SPLITS, WindowedSentences, count_images, label_names, load_splits
from mmner.data.shards import ParquetShards
from mmner.options import DataArguments, ModelArguments, TrainingArguments, parse_arguments, slow_bfloat16
from mmner.results import examples, report
from mmner.results.model_card import write_model_card
from mmner.training.checkpoints import sole_use
from mmner.training.model import build_model
from mmner.training.search import model_maker, read_space, search
from mmner.training.stop_signals import save_at_signal
from mmner.training.streaming import SentenceStream, StreamTrainer, check_streaming
from mmner.training.trainer import TwoMNERTrainer, WarnOfFewSteps, checkpoint_to_resume, few_steps
from modeling_2mner import TwoMNERForTokenClassification
from pipeline_2mner import TwoMNERPipeline

logger = logging.getLogger("run_mmner")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Does what the arguments (`sys.argv`, if none are given) say; returns what `all_results.json` holds."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    args = arguments[-1]
    with sole_use(args.output_dir) if args.process_index == 0 else contextlib.nullcontext():
        return run(*arguments)


def run(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> dict[str, Any]:
    """As `main`, in an output folder that no other run writes to."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().setLevel(logging.INFO if args.should_log else logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    if slow_bfloat16(args, torch.cpu.get_capabilities()):
        logger.warning(
            "bf16 is on, and this processor has no instructions for it: a step takes 2 to 3 times as long as with "
            "--bf16 false."
        )
    if not args.do_train and model_args.model_name_or_path is None:
        raise ValueError("do_train is false, and nothing is trained yet: name a saved model by --model_name_or_path.")
    if args.push_to_hub and not args.do_train:
        raise ValueError(
            "do_train is false, so there is nothing new to push. To publish a finished run: "
            "python -m mmner.results.publish outputs/name org/name"
        )
    if data_args.streaming and args.do_train:
        check_streaming(data_args, args)
    space = read_space(args.search_space, args) if args.search_trials else None
    checkpoint = checkpoint_to_resume(args) if args.do_train else None
    started = time.monotonic()
    output = Path(args.output_dir)
    seed = args.seed if args.data_seed is None else args.data_seed

    selects = args.do_train and args.eval_strategy != "no"
    wanted = {"train": args.do_train, "validation": args.do_eval or selects, "test": args.do_predict}
    with args.main_process_first(desc="reading the data and making towers"):
        build = args.local_process_index == 0
        splits = load_splits(data_args, [split for split in SPLITS if wanted[split]], output / "_data", seed, build)
        labels = label_names(next(iter(splits.values())))
        words = []
        if "train" in splits and "tiny" in (model_args.text_model, model_args.vision_model):
            rows = splits["train"]
            words = rows.first_tokens() if isinstance(rows, ParquetShards) else rows["tokens"][:]
        model, processor = build_model(model_args, labels, words, output / "_towers", build)

    def another_model() -> TwoMNERForTokenClassification:
        made = build_model(model_args, labels, words, output / "_towers", build=False)[0]
        return made

    sees_images = model.config.collaboration != "none" or model.config.image_as_text
    if model.config.consistency_weight and not sees_images:
        logger.warning("The model tags without images: consistency_weight has nothing to do.")
    results: dict[str, Any] = {}
    sentences: dict[str, WindowedSentences] = {}
    stream: SentenceStream | None = None
    for split, rows in splits.items():
        counts = rows.counts if isinstance(rows, ParquetShards) else count_images(rows)
        logger.info(f"{split}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
        results |= {f"{SPLITS[split]}_{name}": count for name, count in counts.items()}
        if isinstance(rows, ParquetShards):
            if model.config.image_as_text:
                raise ValueError("image_as_text reads captions, which --streaming does not: leave one of them out.")
            stream = SentenceStream(
                rows,
                processor,
                model.config.label2id,
                order=args.train_sampling_strategy,
                shuffle_buffer=data_args.shuffle_buffer,
                max_length=data_args.max_length,
                mention_dropout=data_args.mention_dropout,
                text_augmentation=data_args.text_augmentation,
                seed=seed,
            )
            continue
        sentences[split] = WindowedSentences(
            rows,
            processor,
            model.config.label2id,
            training=split == "train",
            # Where no word sees an image, none needs to be opened to score the tags.
            images="own" if split == "train" or sees_images else "hidden",
            captions=model.config.image_as_text,
            stride=data_args.stride,
            # Scored as the pipeline will read them: by the windows that the text tower allows.
            max_length=data_args.max_length if split == "train" else None,
            mention_dropout=data_args.mention_dropout,
            text_augmentation=data_args.text_augmentation,
            seed=seed,
            name=f"{data_args.dataset}, {split}",
            may_be_unlabelled=split == "test",
        )
        if split == "train" and not sentences[split].groups["type"]:
            logger.warning(f"None of the {len(rows)} training sentences has an entity: no type can be learned.")

    collator = MultimodalCollator(processor, model.config.uses_images, 8 if args.bf16 or args.fp16 else None)
    patience = args.early_stopping_patience
    trainer = (TwoMNERTrainer if stream is None else StreamTrainer)(
        # A search makes a model a trial.
        **({"model": model} if space is None else {"model_init": model_maker(another_model, model)}),
        args=args,
        data_collator=collator,
        train_dataset=sentences.get("train") if stream is None else stream,
        eval_dataset=sentences.get("validation"),
        processing_class=processor,
        callbacks=[EarlyStoppingCallback(patience)] if patience is not None else None,
    )
    if data_args.image_feature_store != "none":
        # Here, not above: it needs file locks of a kind that not every system has.
        from mmner.training.image_features import store_image_features

        store_image_features(trainer, list(sentences.values()), data_args.image_feature_store)
    go_on: list[str] = []
    if space is not None:
        results["search"] = search(trainer, space, args.search_trials)
        go_on = [word for name, value in results["search"].items() for word in (f"--{name}", str(value))]
        go_on += ["--search_trials", "0"]
    if args.do_train:
        trainer.add_callback(WarnOfFewSteps(results["train_samples"]))
        with save_at_signal(trainer, go_on):
            results |= trainer.train(resume_from_checkpoint=checkpoint).metrics
        trainer.save_model(_internal_call=True)  # pushed at the end, with its card and scores

    is_main = trainer.is_world_process_zero()
    output.mkdir(parents=True, exist_ok=True)
    tables, predicted, cautions = {}, [], []
    for split, asked in (("validation", args.do_eval), ("test", args.do_predict)):
        if not asked or split not in sentences:
            if is_main and args.do_train:
                report.remove_scores(output, split)
            continue
        prefix = SPLITS[split]
        scored = trainer.predict_with_controls(sentences[split], prefix)
        results |= scored.metrics
        if table := report.score_table(results, prefix, sentences[split].groups):
            tables[prefix] = table
        if is_main:
            predicted = report.prediction_rows(sentences[split], *scored.predictions)
            if table:
                report.plot_scores(output, split, table)
                print(report.format_table(table, f"F1 on {split}"), flush=True)
            else:
                report.remove_scores(output, split)
            report.write_predictions(output, split, predicted)
            if table and (caution := report.caution(predicted)):
                results[f"{prefix}_caution"] = caution
                cautions.append(f"{split}: {caution}")
    if collator.unreadable_images:
        logger.warning(f"{collator.unreadable_images} times an image did not open; the warnings above name them.")
    if cautions:
        few = few_steps(args, trainer.state.global_step, results["train_samples"]) if args.do_train else ""
        logger.warning(" ".join([*cautions, few]))
    results["total_runtime"] = round(time.monotonic() - started, 4)  # in seconds, as the Trainer's own
    if is_main:
        report.write_results(output, results, update=not args.do_train)
        if args.do_train:
            report.plot_training(output, trainer.state.log_history)
            ner = TwoMNERPipeline(model=trainer.model, processor=processor, device=args.device)
            if data_args.dataset == "probe" and predicted:
                texts = examples.probe_sentences(ner, predicted)
            else:
                texts = examples.own_sentences({lang for known in sentences.values() for lang in known.languages})
            widget = examples.widget_examples(ner, texts)
            write_model_card(output, (model_args, data_args, args), model.config, results, tables, widget)
    if args.push_to_hub:
        trainer.push_to_hub()
    return results


if __name__ == "__main__":
    main()
