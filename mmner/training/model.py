"""The model of a run: a saved one, or a new one from towers; and which parts of the towers are not trained."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from mmner import MODEL
from mmner.options import ModelArguments
from mmner.probe.tiny_pretraining import pretrain_on_drawings
from mmner.probe.tiny_towers import make_tiny_towers
from mmner.training.labels import types_of, with_labels
from mmner.training.lora import add_adapters
from mmner.training.vocabulary import cut_vocabulary
from modeling_2mner import TwoMNERForTokenClassification
from processing_2mner import TwoMNERProcessor

logger = logging.getLogger(__name__)

TOWERS = ("text_model", "vision_model", "global_vision_model")


def build_model(
    args: ModelArguments, labels: list[str], words: list[list[str]], folder: Path, build: bool
) -> tuple[TwoMNERForTokenClassification, TwoMNERProcessor]:
    """
    The model of a run, partly frozen if so asked, with its processor.

    Args:
        labels: the tags in id order, for a new model.
        words: sentences to train a tiny tokenizer on, if a tower is `"tiny"`, or to choose the vocabulary by.
        folder: where tiny towers are written.
        build: False on a process that finds them written by another.

    Raises:
        ValueError: there is neither a saved model nor towers, or an option contradicts the saved model.
    """
    if args.model_name_or_path is not None:
        name = saved_model(args.model_name_or_path)
        if unread := [f"--{name}" for name in TOWERS if getattr(args, name)]:
            logger.warning(f"The towers come with {args.model_name_or_path}: {', '.join(unread)} not read.")
        config = AutoConfig.from_pretrained(name)
        if getattr(config, "lora_rank", None) is not None:
            raise ValueError(
                f"{name} is a checkpoint of a run with --lora_rank, which only that run can go on from "
                "(--resume_from_checkpoint). The model is in its --output_dir when it ends."
            )
        args.check_architecture(config)
        processor = TwoMNERProcessor.from_pretrained(name)
        options = {"dtype": torch.float32, **args.config_options()}
        model = TwoMNERForTokenClassification.from_pretrained(name, **options)
        model = _with_types_of(labels, model, args)
    else:
        if args.text_model is None or args.vision_model is None:
            raise ValueError(
                "There is no model: give --text_model and --vision_model (names on the Hub or folders), or "
                "--model_name_or_path for a saved 2M-NER model."
            )
        tiny = (folder / "text", folder / "vision")
        if build and "tiny" in (args.text_model, args.vision_model):
            tiny = make_tiny_towers(folder, words)
            if args.vision_model == "tiny":
                pretrain_on_drawings(tiny[1])
        text = tiny[0] if args.text_model == "tiny" else args.text_model
        vision = tiny[1] if args.vision_model == "tiny" else args.vision_model
        processor = TwoMNERProcessor.from_towers(text, vision, whole_image=args.whole_image)
        model = TwoMNERForTokenClassification.from_towers(
            text, vision, args.global_vision_model, labels=labels, **args.config_options()
        )
        if args.vocabulary_size is not None:
            tower, tokenizer = model.model.text_model, processor.tokenizer
            processor.tokenizer = cut_vocabulary(tower, tokenizer, words, args.vocabulary_size)
            model.config.text_config = tower.config
    for name in TOWERS:
        tower = getattr(model.model, name)
        if tower is not None:
            freeze(tower, getattr(args, f"freeze_{name}"), name)
        elif getattr(args, f"freeze_{name}") != "none":
            logger.info(f"The model has no {name}: --freeze_{name} has nothing to do.")
    if args.lora_rank is not None:
        add_adapters(model, args.lora_rank)
    return model, processor


def saved_model(name: str) -> str:
    """A folder or a name on the Hub; the name of the bundled model gives its folder."""
    return str(MODEL) if name == MODEL.name and not Path(name).exists() else name


def _with_types_of(
    labels: list[str], model: TwoMNERForTokenClassification, args: ModelArguments
) -> TwoMNERForTokenClassification:
    """The saved model, with the types of the dataset where it lacks some."""
    own, wanted = types_of(model.config.labels), types_of(labels)
    new = [kind for kind in wanted if kind not in own]
    if args.new_types == "replace":
        return model if set(own) == set(wanted) else with_labels(model, labels)
    if new and args.new_types is None:
        raise ValueError(
            f"The dataset has the types {', '.join(new)}, which {args.model_name_or_path} does not know; it knows "
            f"{', '.join(own)}. To learn them beside these: --new_types add; to learn the dataset's types alone: "
            "--new_types replace."
        )
    added = [tag for tag in labels if tag[2:] in new]
    return with_labels(model, [*model.config.labels, *added]) if new else model


def freeze(tower: nn.Module, how: str, name: str = "tower") -> None:
    """
    Switches off the training of a tower or of its lowest part: `how` is `"none"`, `"embeddings"`, `"all"`, or a number
    of lowest layers, embeddings included.

    Raises:
        ValueError: `how` is none of these, or there are not so many layers.
    """
    if how == "none":
        return
    if how == "all":
        tower.requires_grad_(False)
        return
    if how != "embeddings" and not re.fullmatch(r"\d+", how):
        raise ValueError(f"--freeze_{name} is {how!r}; expected none, embeddings, all, or a number of lowest layers.")
    embeddings = _shallowest(tower, lambda path, module: path.rpartition(".")[2] in ("embeddings", "embedder"))
    if embeddings is None:
        raise ValueError(f"--freeze_{name} is {how!r}, but {type(tower).__name__} has no embeddings of its own.")
    embeddings.requires_grad_(False)
    if how != "embeddings":
        layers: Any = _shallowest(tower, lambda path, module: isinstance(module, nn.ModuleList) and len(module) > 1)
        found = len(layers) if layers is not None else 0
        if int(how) > found:
            raise ValueError(f"--freeze_{name} is {how}, but {type(tower).__name__} has {found} layers.")
        for layer in layers[: int(how)] if layers is not None else ():
            layer.requires_grad_(False)


def _shallowest(tower: nn.Module, fits: Callable[[str, nn.Module], bool]) -> nn.Module | None:
    """The first module that fits, of those with the fewest steps from the root."""
    found = [(path.count("."), path, module) for path, module in tower.named_modules() if path and fits(path, module)]
    return min(found, key=lambda item: item[0])[2] if found else None
