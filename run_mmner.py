"""
Train, evaluate and predict with 2M-NER: one recipe in, one folder out.

    # the synthetic probe: no download, minutes on a CPU
    python run_mmner.py
    # the recommended model, on your own data; and its text-only baseline, trained the same way
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/text --collaboration none
    # go on where a run was ended, or start it (for jobs that are ended and started again)
    python run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base \
        --resume_from_checkpoint auto
    # score a saved model
    python run_mmner.py recipes/base.yaml --model_name_or_path outputs/base --dataset path/to/other \
        --output_dir outputs/other --do_train false
    # several processes
    torchrun --nproc_per_node 4 run_mmner.py recipes/base.yaml --dataset path/to/folder --output_dir outputs/base

The checkpoint is chosen on the dev set. The test set is scored once, at the end: with its own images, without images,
and with shuffled images. For streaming, searching hyper-parameters and publishing see docs/training.md.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, EarlyStoppingCallback, set_seed

from dataset_script.rows import UNKNOWN_LANGUAGE
from mmner.data.collator import DataCollatorForMultimodalTokenClassification
from mmner.data.sentences import WindowedSentences
from mmner.data.shards import ParquetShards
from mmner.data.splits import SPLITS, count_images, label_names, load_splits, with_known_types
from mmner.options import DataArguments, ModelArguments, TrainingArguments, is_slow_in_bfloat16, parse_arguments
from mmner.results import examples, report
from mmner.results.model_card import write_model_card
from mmner.results.publish import publish
from mmner.results.scoring import score_splits
from mmner.training.checkpoints import checkpoint_to_resume, lock_output_dir, noted_checkpoint
from mmner.training.image_features import store_image_features
from mmner.training.labels import types_of
from mmner.training.lora import merge_adapters
from mmner.training.model import build_model, saved_model
from mmner.training.rehearsal import with_rehearsal
from mmner.training.search import model_maker, read_space, search
from mmner.training.stop_signals import save_at_signal
from mmner.training.streaming import SentenceStream, check_streaming
from mmner.training.trainer import TwoMNERTrainer
from pipeline_2mner import TwoMNERPipeline

logger = logging.getLogger("run_mmner")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Does what the arguments (`sys.argv`, if none are given) say; returns what `all_results.json` holds."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    args = arguments[-1]
    with lock_output_dir(args.output_dir) if args.process_index == 0 else contextlib.nullcontext():
        with noted_checkpoint(args.output_dir):
            return run(*arguments)


def run(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> dict[str, Any]:
    """As `main`, in an output folder that no other run writes to."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().setLevel(logging.INFO if args.should_log else logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)
    check(model_args, data_args, args)
    space = read_space(args.search_space, args) if args.search_trials else None
    checkpoint = checkpoint_to_resume(args) if args.do_train else None
    started, output = time.monotonic(), Path(args.output_dir)

    wanted = {
        "train": args.do_train,
        "validation": args.do_eval or (args.do_train and args.eval_strategy != "no"),
        "test": args.do_predict,
    }
    seed = args.seed if args.data_seed is None else args.data_seed
    with args.main_process_first(desc="reading the data and making towers"):
        build = args.local_process_index == 0
        splits = load_splits(data_args, [split for split in SPLITS if wanted[split]], output / "_data", seed, build)
        labels = label_names(next(iter(splits.values())))
        words: list[list[str]] = []
        wants_words = model_args.vocabulary_size or "tiny" in (model_args.text_model, model_args.vision_model)
        if "train" in splits and wants_words:
            rows = splits["train"]
            words = rows.first_tokens() if isinstance(rows, ParquetShards) else rows["tokens"][:]
        model, processor = build_model(model_args, labels, words, output / "_towers", build)
    if model_args.new_types == "add":
        splits = {split: with_known_types(rows, types_of(labels)) for split, rows in splits.items()}
    if model.config.consistency_weight and model.config.collaboration == "none":
        logger.warning("The model tags without images: --consistency_weight has nothing to do.")
    results: dict[str, Any] = {}
    for split, rows in splits.items():
        counts = {"samples": len(rows)} if isinstance(rows, ParquetShards) else count_images(rows)
        logger.info(f"{split}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
        results |= {f"{SPLITS[split]}_{name}": count for name, count in counts.items()}
    if (number := data_args.rehearsal_posts) and model_args.new_types == "add" and "train" in splits:
        own = types_of(AutoConfig.from_pretrained(saved_model(model_args.model_name_or_path or "")).labels)
        splits["train"] = with_rehearsal(splits["train"], model, own, processor, number, args.seed)
        results["rehearsal_posts"] = len(splits["train"]) - results["train_samples"]
    sentences = {split: read(rows, split, processor, model, data_args, args) for split, rows in splits.items()}
    shown = list(sentences.values())
    warn_of_gaps(sentences, results, types_of(labels))
    train = sentences.pop("train", None)

    if train is not None and args.min_train_steps:
        args.num_train_epochs = max(args.num_train_epochs, epochs_for(args, len(train)))
    collator = DataCollatorForMultimodalTokenClassification(
        processor, model.config, pad_to_multiple_of=8 if args.bf16 or args.fp16 else None
    )
    maker = model_maker(lambda: build_model(model_args, labels, words, output / "_towers", build=False)[0], model)
    patience = args.early_stopping_patience
    trainer = TwoMNERTrainer(
        **({"model": model} if space is None else {"model_init": maker}),  # a search makes a model per trial
        args=args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=sentences.get("validation"),
        processing_class=processor,
        callbacks=[EarlyStoppingCallback(patience)] if patience is not None else None,
    )
    if data_args.image_feature_store != "none":
        store_image_features(trainer, shown, data_args.image_feature_store)
    go_on: list[str] = []
    if space is not None:
        results["search"] = search(trainer, space, args.search_trials)
        go_on = [word for name, value in results["search"].items() for word in (f"--{name}", str(value))]
        go_on += ["--search_trials", "0"]
    if args.do_train:
        with save_at_signal(trainer, go_on):
            results |= trainer.train(resume_from_checkpoint=checkpoint).metrics
        merge_adapters(trainer.model)
        trainer.save_model(_internal_call=True)  # pushed at the end, with its card and scores

    tables = score_splits(trainer, sentences, results)
    if collator.unreadable_images:
        logger.warning(f"{collator.unreadable_images} times an image did not open; the warnings above name them.")
    results["total_runtime"] = round(time.monotonic() - started, 4)  # in seconds, as the Trainer's own
    if trainer.is_world_process_zero():
        report.write_results(output, results, update=not args.do_train)
        if args.do_train:
            report.plot_training(output, trainer.state.log_history)
            ner = TwoMNERPipeline(model=trainer.model, processor=processor, device=args.device)
            texts = examples.own_sentences({lang for known in shown for lang in getattr(known, "languages", ())})
            widget = examples.widget_examples(ner, texts)
            logger.info(f"The model, its card and its scores are in {output}.")
            write_model_card(output, (model_args, data_args, args), model.config, results, tables, widget)
        if args.push_to_hub:
            name = args.hub_model_id or output.absolute().name
            publish(output, name, token=args.hub_token, private=args.hub_private_repo, revision=args.hub_revision)
    trainer.end()  # a process that ends with its process group may abort, after all is written
    return results


def epochs_for(args: TrainingArguments, num_windows: int) -> int:
    """The epochs that `--min_train_steps` take."""
    batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    return math.ceil(args.min_train_steps / max(1, math.ceil(num_windows / batch)))


def warn_of_gaps(sentences: dict[str, Any], results: dict[str, Any], known: Sequence[str]) -> None:
    """Says which of the dataset's types have no example in a split, and which split lost its images."""
    types = {
        split: set(part.groups["type"]) for split, part in sentences.items() if isinstance(part, WindowedSentences)
    }
    for split, own in types.items():
        if missing := sorted(set(known) - own):
            effect = "they cannot be learned" if split == "train" else "their scores say nothing"
            logger.warning(f"{split} has no example of {', '.join(missing)}: {effect}.")
    if any(UNKNOWN_LANGUAGE in getattr(part, "languages", ()) for part in sentences.values()):
        logger.info(f"Rows that state no language are scored as {UNKNOWN_LANGUAGE}; --dataset_lang en names it.")
    for split in sentences:
        lost, shown = (results.get(f"{SPLITS[split]}_{name}", 0) for name in ("missing_images", "samples_with_image"))
        if lost and not shown:
            logger.warning(f"{split} lost all of its {lost} images: it is read as text. See --image_folder.")


def check(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: options contradict each other.
    """
    if is_slow_in_bfloat16(args):
        logger.warning(
            "--bf16 is on, and this processor has no instructions for it: a step takes 2 to 3 times as long as with "
            "--bf16 false."
        )
    if not args.do_train and model_args.model_name_or_path is None:
        raise ValueError("--do_train is false, and nothing is trained yet: give a saved model (--model_name_or_path).")
    if args.push_to_hub and not args.do_train:
        raise ValueError(
            "--do_train is false, so there is nothing new to push. To publish a finished run: "
            "mmner publish outputs/name org/name"
        )
    if data_args.streaming and args.do_train:
        check_streaming(data_args, args)


def read(rows, split: str, processor, model, data_args: DataArguments, args: TrainingArguments):
    """The sentences of a split: `WindowedSentences`, or a `SentenceStream`."""
    options: dict[str, Any] = {
        "max_length": data_args.max_length,
        "mention_dropout": data_args.mention_dropout,
        "text_augmentation": data_args.text_augmentation,
        "post_augmentation": data_args.post_augmentation,
        "seed": args.seed if args.data_seed is None else args.data_seed,
    }
    label2id = model.config.label2id
    if isinstance(rows, ParquetShards):
        if model.config.image_as_text:
            raise ValueError("--image_as_text reads captions, which --streaming does not: leave one of them out.")
        order, buffer = args.train_sampling_strategy, data_args.shuffle_buffer
        return SentenceStream(rows, processor, label2id, order=order, shuffle_buffer=buffer, **options)
    is_train = split == "train"
    sees_images = model.config.collaboration != "none" or model.config.image_as_text
    if not is_train:
        options["max_length"] = None  # scored as the pipeline reads them: by the windows that the text tower allows
    sentences = WindowedSentences(
        rows,
        processor,
        label2id,
        training=is_train,
        # Where no word sees an image, none needs to be opened to score the tags.
        images="own" if is_train or sees_images else "hidden",
        captions=model.config.image_as_text,
        stride=data_args.stride,
        name=f"{data_args.dataset}, {split}",
        may_be_unlabelled=split == "test",
        repeat_rare_types=data_args.repeat_rare_types,
        **options,
    )
    if is_train and not sentences.groups["type"]:
        logger.warning(f"None of the {len(rows)} training sentences has an entity: no type can be learned.")
    return sentences


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        if "debug" in sys.argv:  # --log_level debug
            raise
        # Both say what came, what was expected and what to do; a traceback would bury it.
        sys.exit(f"run_mmner.py: {error}")
