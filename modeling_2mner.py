"""
2M-NER: named entity recognition from a sentence and an optional image.

After "2M-NER: Contrastive Learning for Multilingual and Multimodal NER with Language and Modal Fusion" (arXiv
2404.17122): two encoders, a contrastive alignment of their outputs, a multimodal collaboration module, a linear-chain
CRF.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, can_return_tuple, logging

try:
    from .alignment_2mner import Alignment, build_alignment, is_sharded, process_rank
    from .collaboration_2mner import (
        COLLABORATION_MODULES,
        EvidenceHead,
        encode_pixels,
        eval_frozen_parts,
        freeze_unread_parts,
        fresh_tower,
        image_normalization,
        pretrained_tower,
        renormalized,
        stand_in_states,
    )
    from .configuration_2mner import PushedWithCard, TwoMNERConfig, set_in_package, tower_width
    from .crf_2mner import LinearChainCRF, iob2_constraints
except ImportError:
    from alignment_2mner import Alignment, build_alignment, is_sharded, process_rank
    from collaboration_2mner import (
        COLLABORATION_MODULES,
        EvidenceHead,
        encode_pixels,
        eval_frozen_parts,
        freeze_unread_parts,
        fresh_tower,
        image_normalization,
        pretrained_tower,
        renormalized,
        stand_in_states,
    )
    from configuration_2mner import PushedWithCard, TwoMNERConfig, set_in_package, tower_width
    from crf_2mner import LinearChainCRF, iob2_constraints

logger = logging.get_logger(__name__)

# The files that make a saved folder complete: they depend on torch, transformers and Pillow alone.
CODE_FILES = (
    "configuration_2mner.py",
    "processing_2mner.py",
    "alignment_2mner.py",
    "collaboration_2mner.py",
    "crf_2mner.py",
    "modeling_2mner.py",
    "onnx_2mner.py",
    "explain_2mner.py",
    "pipeline_2mner.py",
    "handler.py",
)


@dataclass
class TwoMNEROutput(ModelOutput):
    """
    Output of [`TwoMNERModel`].

    Args:
        loss, alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
            The contrastive loss, `alignment_weight` times it and alone.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Last layer of the text tower, one vector per token.
        word_states, text_word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`):
            One vector per word, after the collaboration and before it; zeros where there is no word.
        word_mask (`torch.LongTensor` of shape `(batch_size, num_words)`):
            1 where there is a word.
        image_states (`torch.FloatTensor` of shape `(num_images, num_patches, vision_hidden_size)`, *optional*):
            Output of the image tower; `None` when no row has an image.
        global_image_states (`torch.FloatTensor` of shape `(num_images, 1, global_vision_hidden_size)`, *optional*):
            Pooled output of the second image tower.
        image_index (`torch.LongTensor` of shape `(batch_size,)`):
            The image of each row, -1 for none (also after modality dropout).
        image_ids (`torch.LongTensor` of shape `(num_images,)`, *optional*):
            Equal for equal images.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Those of the text tower, with `output_hidden_states`, `output_attentions`.
    """

    loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    word_states: torch.FloatTensor | None = None
    text_word_states: torch.FloatTensor | None = None
    word_mask: torch.LongTensor | None = None
    image_states: torch.FloatTensor | None = None
    global_image_states: torch.FloatTensor | None = None
    image_index: torch.LongTensor | None = None
    image_ids: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TwoMNERTokenClassifierOutput(ModelOutput):
    """
    Output of [`TwoMNERForTokenClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            `ner_weight * ner_loss + alignment_weight * alignment_loss + consistency_weight * consistency_loss +
            evidence_loss`.
        predictions (`torch.LongTensor` of shape `(batch_size, num_words)`, *optional*):
            Viterbi tag of each word, -100 where there is none; not computed in training.
        logits (`torch.FloatTensor` of shape `(batch_size, num_words, num_labels)`):
            Emissions of the CRF.
        ner_loss, alignment_loss, consistency_loss, evidence_loss (`torch.FloatTensor` of shape `()`, *optional*):
            The parts of the loss, unweighted. With `collaboration="evidence"`, `ner_loss` is that of the tagger
            without the image.
        gates (`torch.FloatTensor` of shape `(batch_size, num_words)`, *optional*):
            With `collaboration="evidence"` and an image: the probability that the word begins the entity that the
            image shows.
        hidden_states, attentions:
            As in [`TwoMNEROutput`].
    """

    loss: torch.FloatTensor | None = None
    predictions: torch.LongTensor | None = None
    logits: torch.FloatTensor | None = None
    ner_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    evidence_loss: torch.FloatTensor | None = None
    gates: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class Emissions(NamedTuple):
    """Tag scores (batch_size, num_words, num_labels): those that the CRF reads, and those of the tagger alone. With an
    evidence head, also its log-ratios (num_images, num_types + 1)."""

    logits: torch.Tensor
    tagger_logits: torch.Tensor
    gates: torch.Tensor | None = None
    log_ratios: torch.Tensor | None = None


class TwoMNERPreTrainedModel(PushedWithCard, PreTrainedModel):
    """Initialisation, saving together with the code, and frozen parts that stay in evaluation."""

    config: TwoMNERConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # The loss is a mean over the rows of the local batch: the Trainer must divide it by the accumulation steps.
    accepts_loss_kwargs = False
    _no_split_modules = [module.__name__ for module in COLLABORATION_MODULES.values()]
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^crf\.", r"^evidence\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        evidence = getattr(self, "evidence", None)
        if isinstance(module, nn.Linear) and module is not getattr(self, "classifier", None):
            # Several new layers in a row: each must keep the scale of its input, whatever the towers' widths.
            init.xavier_uniform_(module.weight)
            last_layers = [getattr(self._base.collaboration, "update", None)]
            last_layers += [evidence.shown, evidence.image_types] if evidence is not None else []
            if module in last_layers:
                init.normal_(module.weight, std=self.config.initializer_range)  # starts close to the text model
        elif hasattr(module, "none_key"):
            init.normal_(module.none_key)
        elif isinstance(module, LinearChainCRF):
            module.reset_parameters()
            if module.allowed_start is not None:
                constraints = iob2_constraints(self.config.labels)
                init.copy_(module.allowed_start, constraints.start)
                init.copy_(module.allowed_transitions, constraints.transitions)
        elif isinstance(module, Alignment):
            module.reset_parameters()

    @property
    def _base(self) -> Any:
        return getattr(self, self.base_model_prefix, self)

    def get_input_embeddings(self) -> nn.Module:
        return self._base.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self._base.text_model.set_input_embeddings(value)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, which makes new parameters: `freeze_unread` is called for them."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if kwargs.get("output_loading_info") else loaded).freeze_unread()
        return loaded

    def freeze_unread(self) -> None:
        """Freezes parameters that no loss depends on, which DistributedDataParallel would not accept."""
        for tower in self._base.image_towers:
            freeze_unread_parts(tower)
        if hasattr(self, "crf") and self.config.tagging_head == "softmax":
            # A CRF whose transitions are zero is a softmax per word: one code path for loss, tags and posteriors.
            for parameter in self.crf.requires_grad_(False).parameters():
                parameter.data.zero_()

    def train(self, mode: bool = True):
        """
        As `nn.Module.train`, but what is frozen stays in evaluation: a tower (or layer of one) none of whose
        parameters is trained keeps its dropout off, and no tower's BatchNorm updates its statistics (a batch holds
        each distinct image once, so they would depend on which rows share one).
        """
        super().train(mode)
        if mode:
            for tower in (self._base.text_model, *self._base.image_towers):
                eval_frozen_parts(tower)
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs):
        """As `PreTrainedModel.save_pretrained`; the folder also gets every code file that loading it needs."""
        if is_main_process and not Path(save_directory).is_file():
            self._copy_code(Path(save_directory))
        # Trainer restores a checkpoint by `load_state_dict`, which knows no names of earlier releases of the towers.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    def _copy_code(self, folder: Path) -> None:
        here = Path(__file__).resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        for name in CODE_FILES:
            # Loaded as remote code, the model has beside it only the files imported so far; its origin has all.
            source = here / name if (here / name).is_file() else self._file_of_origin(name)
            if source is None:
                logger.warning(f"{name} was not found beside the model's code; {folder} is saved without it.")
            elif source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)

    def _file_of_origin(self, name: str) -> Path | None:
        """A file of the folder or Hub repository that the model was loaded from, at the same commit."""
        revision = getattr(self.config, "_commit_hash", None)
        try:
            return Path(cached_file(self.config._name_or_path, name, revision=revision))
        except OSError:  # no such file, folder or repository, or no connection
            return None


class TwoMNERModel(TwoMNERPreTrainedModel):
    """
    Text tower, image tower(s), alignment and collaboration: word vectors that know the image.

    Args:
        config ([`TwoMNERConfig`]): the configuration.
        text_model, vision_model, global_vision_model (`PreTrainedModel`, *optional*): towers to use as they are
            instead of fresh ones from the configuration.
    """

    base_model_prefix = "model"

    def __init__(
        self,
        config: TwoMNERConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
        global_vision_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.text_model = text_model if text_model is not None else fresh_tower(config.text_config)
        self.text_model.config = config.text_config  # one object, so that changes of the composite reach the tower
        self.vision_model = self.global_vision_model = None
        self.alignment = self.global_alignment = self.collaboration = None
        if config.uses_images:
            self.vision_model, self.alignment = self._image_side(config.vision_config, vision_model)
            if config.global_vision_config is not None:
                found = self._image_side(config.global_vision_config, global_vision_model)
                self.global_vision_model, self.global_alignment = found
        if config.collaboration in COLLABORATION_MODULES:
            self.collaboration = COLLABORATION_MODULES[config.collaboration](config)
        self.freeze_unread()
        self.post_init()

    def _image_side(self, tower_config, tower: PreTrainedModel | None) -> tuple[PreTrainedModel, nn.Module | None]:
        """An image tower, and the alignment of its output with the text."""
        tower = tower if tower is not None else fresh_tower(tower_config)
        tower.config = tower_config
        if self.config.alignment == "none":
            return tower, None
        widths = tower_width(self.config.text_config), tower_width(tower_config)
        options = self.config.projection_dim, self.config.alignment_temperature
        pooling = self.config.text_pooling
        return tower, build_alignment(self.config.alignment, *widths, *options, text_pooling=pooling)

    @property
    def image_towers(self) -> list[PreTrainedModel]:
        """The one or two image towers; none in a model that reads no images."""
        return [tower for tower in (self.vision_model, self.global_vision_model) if tower is not None]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_starts: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_index: torch.LongTensor | None = None,
        image_ids: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        global_image_features: torch.FloatTensor | None = None,
        return_loss: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TwoMNEROutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Tokens of the sentences.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for a token, 0 for padding. Default: no padding.
            word_starts (`torch.LongTensor` of shape `(batch_size, num_words)`, *optional*):
                Position of each word's first token, -1 (on the right only) where there is no word. Default: every
                token is a word, special tokens included.
            pixel_values (`torch.FloatTensor` of shape `(num_images, num_channels, height, width)`, *optional*):
                The distinct images of the batch. `None`: no row has an image.
            image_index (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Which of them each row has, -1 for none. Default: image `i` belongs to row `i`.
            image_ids (`torch.LongTensor` of shape `(num_images,)`, *optional*):
                Equal for equal images, on every process. Default: all differ.
            token_type_ids, position_ids, inputs_embeds (*optional*):
                Inputs of the text tower.
            image_features, global_image_features (`torch.FloatTensor`, *optional*):
                Output of `encode_images`, instead of `pixel_values`; no image tower runs.
            return_loss (`bool`, *optional*):
                Whether to compute the alignment loss. Default: in training.
            output_attentions, output_hidden_states (`bool`, *optional*):
                Whether to return those of the text tower.

        Raises:
            ValueError: an input is missing or its shape does not fit; the model is a replica of `nn.DataParallel`.
        """
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "nn.DataParallel would split images from their rows. Launch one process per GPU with `accelerate "
                "launch` or `torchrun`, or make a single GPU visible (CUDA_VISIBLE_DEVICES=0)."
            )
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return_loss = self.training if return_loss is None else return_loss
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either `input_ids` or `inputs_embeds`: got none or both.")
        if pixel_values is not None and image_features is not None:
            raise ValueError("Pass either `pixel_values` or `image_features`: got both.")
        images = pixel_values if image_features is None else image_features
        if image_features is not None and (global_image_features is None) != (self.global_vision_model is None):
            raise ValueError("Pass `global_image_features` if and only if the model has a second image tower.")
        tokens: Any = inputs_embeds if input_ids is None else input_ids
        num_rows = len(tokens)
        num_images = None if images is None else num_rows if image_index is None else len(images)
        _check_shape("word_starts", word_starts, num_rows, None)
        _check_shape("pixel_values", pixel_values, num_images, None, None, None)
        _check_shape("image_features", image_features, num_images, None, None)
        _check_shape("global_image_features", global_image_features, num_images, None, None)
        _check_shape("image_index", image_index, num_rows)
        _check_shape("image_ids", image_ids, num_images)

        optional = {"token_type_ids": token_type_ids, "position_ids": position_ids}  # not every tower takes them
        text = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **{name: value for name, value in optional.items() if value is not None},
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        token_states = text.last_hidden_state  # (B, S, H)
        length = token_states.shape[1]
        if attention_mask is None:
            attention_mask = torch.ones(num_rows, length, dtype=torch.bool, device=token_states.device)
        if word_starts is None:
            positions = torch.arange(length, device=token_states.device)
            word_starts = torch.where(attention_mask.bool(), positions, length).sort(dim=1).values
            word_starts = torch.where(word_starts < length, word_starts, -1)  # on the right, wherever the padding is
        word_mask = word_starts >= 0  # (B, W)
        first_tokens = word_starts.clamp(min=0)[..., None].expand(-1, -1, token_states.shape[-1])
        word_states = token_states.gather(1, first_tokens) * word_mask[..., None]  # (B, W, H)

        if images is None:
            image_index = torch.full((num_rows,), -1, device=token_states.device)
        elif image_index is None:
            image_index = torch.arange(num_rows, device=token_states.device)
        if self.training and self.config.modality_dropout > 0:
            hidden = torch.rand(num_rows, device=image_index.device) < self.config.modality_dropout
            image_index = image_index.masked_fill(hidden, -1)
        image_states = global_states = None
        if images is not None and (
            self.config.collaboration != "none" or (self.alignment is not None and return_loss)
        ):
            image_states, global_states = image_features, global_image_features
            if image_features is None:
                image_states, global_states = self.encode_images(pixel_values)
            if image_ids is None:
                image_ids = torch.arange(len(images), device=images.device) + (process_rank() << 32)
        elif self.config.uses_images and (self.training or return_loss or is_sharded(self.vision_model)):
            # One image that no row has, so that every trained parameter gets a (zero) gradient, and every process
            # takes part in the same collectives.
            image_states = stand_in_states(self.vision_model, token_states)
            if self.global_vision_model is not None:
                global_states = stand_in_states(self.global_vision_model, token_states)
            image_ids = torch.zeros(1, dtype=torch.long, device=token_states.device)

        alignment_loss = None
        if self.alignment is not None and return_loss:
            # One contrastive loss for each image tower (paper, section 3.2).
            tokens, words = (token_states, attention_mask.bool()), (word_states, word_mask)
            alignment_loss = sum(
                alignment(*(words if alignment.compares_words else tokens), states, image_index, image_ids)
                for alignment, states in ((self.alignment, image_states), (self.global_alignment, global_states))
                if alignment is not None
            )
        fused = self.fuse(word_states, word_mask, image_states, global_states, image_index)
        loss = None
        if alignment_loss is not None:
            # The collaboration takes no part in this loss; a zero gradient keeps DistributedDataParallel content.
            loss = self.config.alignment_weight * alignment_loss + (0.0 * fused).sum()
        return TwoMNEROutput(
            loss=loss,
            alignment_loss=alignment_loss,
            last_hidden_state=token_states,
            word_states=fused * word_mask[..., None],
            text_word_states=word_states,
            word_mask=word_mask.long(),
            image_states=image_states,
            global_image_states=global_states,
            image_index=image_index,
            image_ids=image_ids,
            hidden_states=text.hidden_states,
            attentions=text.attentions,
        )

    def encode_images(self, pixel_values: torch.FloatTensor) -> tuple[torch.FloatTensor, torch.FloatTensor | None]:
        """
        Runs the image tower(s).

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, num_channels, height, width)`): the images.

        Returns:
            `(num_images, num_patches, vision_hidden_size)` and, of the second tower, the pooled
            `(num_images, 1, global_vision_hidden_size)` or `None`.
        """
        states = encode_pixels(self.vision_model, pixel_values)
        if self.global_vision_model is None:
            return states, None
        pixel_values = renormalized(pixel_values, self.config)
        return states, encode_pixels(self.global_vision_model, pixel_values).mean(dim=1, keepdim=True)

    def fuse(
        self,
        word_states: torch.Tensor,
        word_mask: torch.Tensor,
        image_states: torch.Tensor | None = None,
        global_states: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        The words (batch_size, num_words, hidden_size) after the collaboration. Rows without an image get what the text
        alone gives, and cost nothing.

        Args:
            word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`).
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_words)`).
            image_states, global_states, image_index: as in [`TwoMNEROutput`].
        """
        if self.collaboration is None:
            return word_states
        alone = self.collaboration.text_only(word_states)
        if image_states is None or image_index is None:
            return alone
        has_image = image_index >= 0
        # A compiled graph has fixed shapes, and every process must use sharded weights: there all rows run.
        rows = torch.arange(len(has_image), device=has_image.device)
        if not torch.compiler.is_compiling() and not is_sharded(self.collaboration):
            rows = has_image.nonzero().squeeze(1)
            if not len(rows) and not self.training:
                return alone
            if not len(rows):  # one row, masked below, so that every parameter gets a (zero) gradient
                rows = torch.zeros(1, dtype=torch.long, device=has_image.device)
        index = image_index[rows].clamp(min=0)
        fused = self.collaboration(
            word_states[rows],
            word_mask[rows],
            image_states[index],
            None if global_states is None else global_states[index],
        )
        alone = alone.to(fused.dtype)
        return alone.index_copy(0, rows, torch.where(has_image[rows][:, None, None], fused, alone[rows]))


def _check_shape(name: str, value: torch.Tensor | None, *sizes: int | None) -> None:
    """Raises `ValueError` if an input that was given has other sizes; `None` is any size."""
    if value is not None and (
        value.dim() != len(sizes) or any(size not in (None, own) for own, size in zip(value.shape, sizes, strict=True))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"`{name}` has shape {tuple(value.shape)}; expected ({expected}).")


class TwoMNERForTokenClassification(TwoMNERPreTrainedModel):
    """
    2M-NER with its tagging head: an emission per word and tag, then a linear-chain CRF (or a softmax per word).

    Args:
        config ([`TwoMNERConfig`]): the configuration; `id2label` holds the tags.
        towers (*optional*): arguments of [`TwoMNERModel`].

    Raises:
        ValueError: `tagging_head` is `"crf"` and the labels are not IOB2.
    """

    _keep_in_fp32_modules_strict = {"crf"}

    def __init__(self, config: TwoMNERConfig, **towers: PreTrainedModel | None):
        super().__init__(config)
        self.model = TwoMNERModel(config, **towers)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(tower_width(config.text_config), config.num_labels)
        self.evidence = EvidenceHead(config) if config.collaboration == "evidence" else None
        self.crf = LinearChainCRF(config.num_labels, _constraints(config.labels, config.tagging_head))
        self.freeze_unread()
        self.post_init()

    @classmethod
    def from_towers(
        cls,
        text: str | os.PathLike,
        vision: str | os.PathLike,
        global_vision: str | os.PathLike | None = None,
        labels: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        **config,
    ) -> "TwoMNERForTokenClassification":
        """
        Builds a model from pretrained towers, with fresh collaboration and head.

        Args:
            text: name or folder of the text tower.
            vision: name or folder of the image tower; of a text-image model its image side is taken.
            global_vision: name or folder of a second image tower, read as one pooled vector.
            labels: the tags in id order, e.g. `["O", "B-PER", "I-PER"]`; IOB2 if there is a CRF.
            dtype: of the weights.
            **config: options of [`TwoMNERConfig`].

        Raises:
            ValueError: no label, or one twice; with a CRF, labels that are not IOB2; or a checkpoint lacks weights of
                its tower.
        """
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"`labels` is {list(labels)}; expected at least one label, and each once.")
        _constraints(labels, config.get("tagging_head", TwoMNERConfig.tagging_head))  # before the towers are read
        towers = {"text": pretrained_tower(text, "text", dtype), "vision": pretrained_tower(vision, "vision", dtype)}
        if global_vision is not None:
            towers["global_vision"] = pretrained_tower(global_vision, "vision", dtype)
            for name, folder in (("image_normalization", vision), ("global_image_normalization", global_vision)):
                config[name] = config.get(name) or image_normalization(folder)
        attention = {side: tower.config._attn_implementation for side, tower in towers.items()}
        composite = TwoMNERConfig(
            **{f"{side}_config": tower.config for side, tower in towers.items()},
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            **config,
        )
        for side, tower in towers.items():
            tower.config._attn_implementation = attention[side]  # a new composite resets its parts' choice
            if os.path.isdir(tower.config._name_or_path):
                tower.config._name_or_path = ""  # a folder of this machine means nothing where the model goes
        model = cls(composite, **{f"{side}_model": tower for side, tower in towers.items()})
        model.to(dtype).crf.float()  # as `from_pretrained` keeps it
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_starts: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_index: torch.LongTensor | None = None,
        image_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        unknown_tags: torch.BoolTensor | None = None,
        **kwargs,
    ) -> TwoMNERTokenClassifierOutput:
        r"""
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, num_words)`, *optional*):
                Tag of each word, -100 (on the right only) where there is none.
            unknown_tags (`torch.BoolTensor` of shape `(batch_size, num_labels)`, *optional*):
                Tags that a row's annotators did not use: a word that is `O` may have one of these, and the loss sums
                over all that it may be (Tsuboi et al., 2008).
            input_ids, attention_mask, word_starts, pixel_values, image_index, image_ids, **kwargs:
                As in [`TwoMNERModel`].

        Raises:
            ValueError: the shape of `labels` is not that of the words.
        """
        outputs: Any = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            word_starts=word_starts,
            pixel_values=pixel_values,
            image_index=image_index,
            image_ids=image_ids,
            return_loss=labels is not None,
            return_dict=True,
            **kwargs,
        )
        word_mask = outputs.word_mask.bool()
        emissions = self._emissions_of(outputs)
        return TwoMNERTokenClassifierOutput(
            predictions=None if self.training else self.crf.decode(emissions.logits, word_mask),
            logits=emissions.logits,
            gates=emissions.gates,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **({} if labels is None else self._losses(outputs, emissions, labels, unknown_tags, word_mask)),
        )

    def emissions(self, **inputs) -> Emissions:
        """The tag scores of a batch; its arguments are those of [`TwoMNERModel`]."""
        return self._emissions_of(self.model(return_loss=False, return_dict=True, **inputs))

    def emissions_of_states(
        self,
        word_states: torch.Tensor,
        word_mask: torch.Tensor,
        image_states: torch.Tensor | None = None,
        global_states: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        fused: torch.Tensor | None = None,
    ) -> Emissions:
        """
        The tag scores of words and images that the towers have read.

        Args:
            word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`): of the text tower.
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_words)`).
            image_states, global_states, image_index: as in [`TwoMNEROutput`]; `None`: no row has an image.
            fused: the words after the collaboration, if they are known.
        """
        if fused is None:
            fused = self.model.fuse(word_states, word_mask, image_states, global_states, image_index)
        logits = self.classifier(self.dropout(fused * word_mask[..., None]))  # (B, W, K)
        if self.evidence is None or image_states is None or image_index is None:
            return Emissions(logits, logits)
        has_image = image_index >= 0
        log_ratios = self.evidence.log_ratios(image_states, global_states)  # (N, T + 1)
        added, gates = self.evidence(logits, word_states, word_mask, log_ratios[image_index.clamp(min=0)])
        added = torch.where(has_image[:, None, None], added, 0).to(logits.dtype)
        return Emissions(logits + added, logits, torch.where(has_image[:, None], gates, 0), log_ratios)

    def _emissions_of(self, outputs: Any) -> Emissions:
        return self.emissions_of_states(
            outputs.text_word_states,
            outputs.word_mask.bool(),
            outputs.image_states,
            outputs.global_image_states,
            outputs.image_index,
            outputs.word_states,
        )

    def _losses(
        self,
        outputs: Any,
        emissions: Emissions,
        labels: torch.Tensor,
        unknown_tags: torch.Tensor | None,
        word_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The loss and its parts, by name."""
        _check_shape("labels", labels, *word_mask.shape)
        # The mean over sentences, not words: then the mean over processes is the mean over their joint batch.
        is_labelled, tags = word_mask & (labels != -100), labels
        if unknown_tags is not None:
            may_be = unknown_tags[:, None] & (labels == self.config.labels.index("O"))[..., None]  # (B, W, K)
            tags = may_be | nn.functional.one_hot(labels.clamp(min=0), self.config.num_labels).bool()
        ner_loss = -self.crf.log_likelihood(emissions.tagger_logits, tags, is_labelled).mean()
        losses, loss = {"ner_loss": ner_loss}, self.config.ner_weight * ner_loss
        if outputs.alignment_loss is not None:
            losses["alignment_loss"] = outputs.alignment_loss
            loss = loss + self.config.alignment_weight * outputs.alignment_loss
        if self.config.consistency_weight > 0 and self.config.collaboration != "none":
            # KL(p(y | text, image) || p(y | text)) of the tag posteriors, summed over words, mean over rows (ITA, Wang
            # et al., NAACL 2022, eq. 7): only the view without the image gets a gradient.
            text_logits = self.emissions_of_states(outputs.text_word_states, word_mask).logits
            divergence = self.crf.divergence(emissions.logits, text_logits, word_mask)
            losses["consistency_loss"] = torch.where(outputs.image_index >= 0, divergence, 0).mean()
            loss = loss + self.config.consistency_weight * losses["consistency_loss"]
        if self.evidence is not None and emissions.log_ratios is not None:
            losses["evidence_loss"] = self.evidence.loss(
                outputs.text_word_states, labels, emissions.log_ratios, outputs.image_index, outputs.image_ids
            )
            loss = loss + losses["evidence_loss"]
        return {"loss": loss, **losses}


def _constraints(labels: Sequence[str], tagging_head: str):
    """The IOB2 constraints, if there is a CRF to constrain and the labels have names (`LABEL_0`, ... have none)."""
    if tagging_head != "crf" or any(label.startswith("LABEL_") for label in labels):
        return None
    try:
        return iob2_constraints(labels)
    except ValueError as error:
        raise ValueError(
            f"{error} A CRF is constrained to IOB2: write the labels so, or take tagging_head='softmax'."
        ) from error


if "." not in __name__:  # imported by its own name, not as remote code: that is mapped by `auto_map`
    TwoMNERModel.register_for_auto_class("AutoModel")
    TwoMNERForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
    AutoModel.register(TwoMNERConfig, TwoMNERModel)
    AutoModelForTokenClassification.register(TwoMNERConfig, TwoMNERForTokenClassification)
else:
    set_in_package(__name__)

__all__ = ["TwoMNERForTokenClassification", "TwoMNERModel", "TwoMNERPreTrainedModel"]
