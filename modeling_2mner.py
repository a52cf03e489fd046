"""
2M-NER: named entity recognition from a sentence and, where there is one, its image.

After "2M-NER: Contrastive Learning for Multilingual and Multimodal NER with Language and Modal Fusion" (arXiv
2404.17122): two encoders, a contrastive alignment of their outputs, a multimodal collaboration module, a linear-chain
CRF.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import cached_file, can_return_tuple, logging

try:
    from .alignment_2mner import Alignment, build_alignment, is_sharded, unshared_image_ids, world_size
    from .collaboration_2mner import COLLABORATION_MODULES, Collaboration, CrossAttentionCollaboration, only_where
    from .configuration_2mner import TwoMNERConfig, tower_width
    from .crf_2mner import LinearChainCRF, iob2_constraints
    from .towers_2mner import (
        drawing_aside,
        freeze_unread_parts,
        fresh_tower,
        gather_words,
        in_chunks,
        normalization,
        pretrained_tower,
        renormalized,
        rest_frozen_parts,
        sequence_of,
        zero_of,
    )
except ImportError:
    from alignment_2mner import Alignment, build_alignment, is_sharded, unshared_image_ids, world_size
    from collaboration_2mner import COLLABORATION_MODULES, Collaboration, CrossAttentionCollaboration, only_where
    from configuration_2mner import TwoMNERConfig, tower_width
    from crf_2mner import LinearChainCRF, iob2_constraints
    from towers_2mner import (
        drawing_aside,
        freeze_unread_parts,
        fresh_tower,
        gather_words,
        in_chunks,
        normalization,
        pretrained_tower,
        renormalized,
        rest_frozen_parts,
        sequence_of,
        zero_of,
    )

logger = logging.get_logger(__name__)

# The files that make a saved folder complete: what lies beside this one and depends on torch and transformers alone.
CODE_FILES = (
    "configuration_2mner.py",
    "images_2mner.py",
    "processing_2mner.py",
    "alignment_2mner.py",
    "batching_2mner.py",
    "collaboration_2mner.py",
    "crf_numpy_2mner.py",
    "crf_2mner.py",
    "towers_2mner.py",
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
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            `alignment_weight * alignment_loss`: trains the towers on pairs without labels.
        alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Contrastive loss, unweighted.
        word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`):
            One vector a word, after the collaboration; zeros where there is no word.
        text_word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`):
            The same vectors before the collaboration.
        word_mask (`torch.LongTensor` of shape `(batch_size, num_words)`):
            1 where there is a word.
        image_states (`torch.FloatTensor` of shape `(batch_size, num_patches, vision_hidden_size)`, *optional*):
            Output of the image tower, zeros in a row without an image; `None` when no row has one.
        has_image (`torch.LongTensor` of shape `(batch_size,)`):
            1 in the rows that have an image (after modality dropout).
        gates (`torch.FloatTensor` of shape `(batch_size, num_words)`, *optional*):
            How much of the image each word took up, in [0, 1]; with `collaboration="gated"`.
        image_evidence (`torch.FloatTensor` of shape `(batch_size, num_types + 1)`, *optional*):
            What the image says of its entity's type, and of standing beside anything: logarithms of ratios, zeros in
            a row without one; with `collaboration="evidence"`.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            Last layer of the text tower, one vector a piece.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            Those of the text tower, with `output_hidden_states`, `output_attentions`.
        image_attentions (`tuple(torch.FloatTensor)`, *optional*):
            With `output_attentions`: words to image, one `(batch_size, num_heads, num_words, num_keys)` for each
            attention of the collaboration in which words are the queries; zeros in a row without an image.
    """

    loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    word_states: torch.FloatTensor | None = None
    text_word_states: torch.FloatTensor | None = None
    word_mask: torch.LongTensor | None = None
    image_states: torch.FloatTensor | None = None
    has_image: torch.LongTensor | None = None
    gates: torch.FloatTensor | None = None
    image_evidence: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    image_attentions: tuple[torch.FloatTensor, ...] | None = None


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
            The parts of the loss, unweighted. With `collaboration="evidence"`, `ner_loss` is the text's alone. Where
            sentences are read with their captions and without, each part is the sum of both views', and the divergence
            between the two counts in `consistency_loss`.
        gates, hidden_states, attentions, image_attentions:
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
    image_attentions: tuple[torch.FloatTensor, ...] | None = None


class TwoMNERPreTrainedModel(PreTrainedModel):
    """What the models have in common: initialisation, saving with the code, frozen parts kept in evaluation."""

    config: TwoMNERConfig
    config_class = TwoMNERConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # The loss is a mean over the rows of the local batch: the Trainer must divide it by the accumulation steps.
    accepts_loss_kwargs = False
    _no_split_modules = [module.__name__ for module in COLLABORATION_MODULES.values()]
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^crf\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        base = getattr(self, self.base_model_prefix, self)
        if isinstance(module, nn.Linear) and module is not getattr(self, "classifier", None):
            # Several new layers in a row: each must keep the scale of its input, whatever the towers' widths.
            init.xavier_uniform_(module.weight)
            if module in (getattr(base.collaboration, name, None) for name in ("update", "shown", "image_types")):
                init.normal_(module.weight, std=self.config.initializer_range)  # starts close to the text model
        elif isinstance(module, CrossAttentionCollaboration) and module.global_projection is not None:
            init.normal_(module.none_key)
        elif isinstance(module, LinearChainCRF):
            module.reset_parameters()
            if module.allowed_start is not None:
                constraints = iob2_constraints(self.config.labels)
                init.copy_(module.allowed_start, constraints.start)
                init.copy_(module.allowed_transitions, constraints.transitions)
        elif isinstance(module, Alignment):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, which makes new parameters: `freeze_unread` is called for them."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if kwargs.get("output_loading_info") else loaded).freeze_unread()
        return loaded

    def freeze_unread(self) -> None:
        """Switches off the training of parameters that no loss depends on."""
        base = getattr(self, self.base_model_prefix, self)
        for tower in filter(None, (base.vision_model, base.global_vision_model)):
            freeze_unread_parts(tower)
        if base is not self and self.config.tagging_head == "softmax":
            # A CRF whose transitions are all zero is a softmax a word: one code path for loss, tags and posteriors.
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
            base = getattr(self, self.base_model_prefix, self)
            for tower in filter(None, (base.text_model, base.vision_model, base.global_vision_model)):
                rest_frozen_parts(tower)
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs):
        """
        As `PreTrainedModel.save_pretrained`; the folder also gets every code file that loading it needs.

        Args:
            save_directory: the folder, made where it does not exist.
            is_main_process: write only on this process of a distributed run.
        """
        if is_main_process and not Path(save_directory).is_file():
            self._copy_code(Path(save_directory))
        # The towers' weights under the names that they have in the model, not those of their first releases: Trainer
        # restores a checkpoint by `load_state_dict`, to which the old names are strangers.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)

    def _copy_code(self, folder: Path) -> None:
        here = Path(__file__).resolve().parent
        if folder.resolve() == here:
            raise ValueError(
                f"Cannot save the model into {folder}, where its own source code lies; name another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in CODE_FILES:
            source = here / name if (here / name).is_file() else self._code_of_origin(name)
            if source is None:
                logger.warning(
                    f"{name} was found neither in {here} nor in {self.config._name_or_path!r}, where the model comes "
                    f"from; {folder} is saved without it."
                )
            elif source.resolve() != (folder / name).resolve():
                shutil.copyfile(source, folder / name)

    def _code_of_origin(self, name: str) -> Path | None:
        """A code file from the folder or the Hub repository that the model was loaded from, at the same commit."""
        # A model loaded as remote code has beside it only the files that were imported so far; its origin has all.
        origin = self.config._name_or_path
        if not origin:
            return None
        try:
            found = cached_file(
                origin,
                name,
                revision=getattr(self.config, "_commit_hash", None),
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError:  # a folder that is there no more
            return None
        return Path(found) if found is not None else None


class TwoMNERModel(TwoMNERPreTrainedModel):
    """
    Text tower, image tower(s), alignment and collaboration: word vectors that know the image.

    Args:
        config ([`TwoMNERConfig`]): the configuration.
        text_model, vision_model, global_vision_model (`PreTrainedModel`, *optional*): towers to use as they are
            instead of fresh ones from the configuration.
    """

    base_model_prefix = "model"
    encoder_chunk_size: int | None = None
    """In training, rows that a tower encodes at a time; the activations of the others are computed again when the
    backward pass comes to them. A contrastive batch may then be larger than memory; None: all rows at once."""

    def __init__(
        self,
        config: TwoMNERConfig,
        text_model: PreTrainedModel | None = None,
        vision_model: PreTrainedModel | None = None,
        global_vision_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        self.text_model = text_model if text_model is not None else fresh_tower(config.text_config)
        self.vision_model = self.global_vision_model = None
        self.alignment = self.global_alignment = self.collaboration = None
        if config.uses_images:
            self.vision_model = vision_model if vision_model is not None else fresh_tower(config.vision_config)
            self.alignment = self._build_alignment(config, config.vision_config)
            if config.global_vision_config is not None:
                if global_vision_model is None:
                    global_vision_model = fresh_tower(config.global_vision_config)
                self.global_vision_model = global_vision_model
                self.global_alignment = self._build_alignment(config, config.global_vision_config)
        if config.collaboration != "none":
            self.collaboration = COLLABORATION_MODULES[config.collaboration](config)

        # One object each, so that a change of the composite's configuration reaches the tower.
        self.text_model.config = config.text_config
        for tower, tower_config in (
            (self.vision_model, config.vision_config),
            (self.global_vision_model, config.global_vision_config),
        ):
            if tower is not None:
                tower.config = tower_config
        self.freeze_unread()
        self.post_init()

    @staticmethod
    def _build_alignment(config: TwoMNERConfig, image_config) -> nn.Module | None:
        if config.alignment == "none":
            return None
        return build_alignment(
            config.alignment,
            text_width=tower_width(config.text_config),
            image_width=tower_width(image_config),
            projection_dim=config.projection_dim,
            temperature=config.alignment_temperature,
            text_pooling=config.text_pooling,
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_starts: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
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
                Pieces of the sentences.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for a piece, 0 for padding. Default: all are pieces.
            word_starts (`torch.LongTensor` of shape `(batch_size, num_words)`, *optional*):
                Position of each word's first piece, -1 (on the right only) where there is no word. Default: every
                piece is a word, special tokens included.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                One image a row, whatever in a row without. `None`: no row has an image.
            image_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Equal for equal images, 0 for none: each distinct image is encoded once. Default: every row has its
                own image.
            token_type_ids, position_ids, inputs_embeds (*optional*):
                Handed to the text tower.
            image_features, global_image_features (`torch.FloatTensor`, *optional*):
                What `encode_images` gave for the rows' images, instead of `pixel_values`; no image tower is run.
            return_loss (`bool`, *optional*):
                Whether to compute the alignment loss. Default: in training.
            output_attentions, output_hidden_states (`bool`, *optional*):
                Whether to return those of the text tower, and the attention from words to image.

        Raises:
            ValueError: an input is missing or its first dimension is not the batch's.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return_loss = self.training if return_loss is None else return_loss
        features = (image_features, global_image_features)
        batch = self._check_inputs(input_ids, inputs_embeds, word_starts, pixel_values, image_ids, features)

        text_inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        text_inputs = {name: value for name, value in text_inputs.items() if value is not None}
        hidden_states = attentions = None
        if self.training and self.encoder_chunk_size is not None:
            self._check_chunks(output_attentions, output_hidden_states)
            piece_states = in_chunks(
                lambda **rows: self.text_model(**rows, return_dict=True).last_hidden_state,
                self.encoder_chunk_size,
                **text_inputs,
            )  # (B, S, H)
        else:
            text_outputs = self.text_model(
                **text_inputs,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
            piece_states = text_outputs.last_hidden_state  # (B, S, H)
            hidden_states, attentions = text_outputs.hidden_states, text_outputs.attentions
        if attention_mask is None:
            attention_mask = torch.ones(piece_states.shape[:2], dtype=torch.bool, device=piece_states.device)
        if word_starts is None:
            length = piece_states.shape[1]
            positions = torch.arange(length, device=piece_states.device)
            word_starts = torch.where(attention_mask.bool(), positions, length).sort(dim=1).values
            word_starts = torch.where(word_starts < length, word_starts, -1)  # on the right, wherever the padding is
        word_mask = word_starts >= 0  # (B, W)
        text_word_states = gather_words(piece_states, word_starts)  # (B, W, H)

        images = pixel_values if image_features is None else image_features
        image_ids, has_image = self._visible_images(batch, images, image_ids, piece_states.device)
        needs_alignment = self.alignment is not None and return_loss
        image_states = global_states = None
        if images is not None and (self.collaboration is not None or needs_alignment):
            if image_features is None:
                image_states, global_states = self.encode_images(pixel_values, image_ids)
            elif torch.compiler.is_compiling() or bool(has_image.any()):  # as `encode_images`, which returns None
                image_states, global_states = (only_where(has_image, states) for states in features)
        if image_states is None and self.config.uses_images and (self.training or is_sharded(self.vision_model)):
            image_states, global_states = self._absent_images(batch, piece_states)

        alignment_loss = None
        if needs_alignment:
            alignment_loss = self._alignment_loss(
                piece_states,
                attention_mask,
                text_word_states,
                word_mask,
                image_states,
                global_states,
                has_image,
                image_ids,
            )

        if self.collaboration is None:
            fused = Collaboration(word_states=text_word_states)
        elif image_states is None:
            fused = self.collaboration.text_only(text_word_states)
        else:
            fused = self.collaboration.fuse(
                text_word_states, word_mask, image_states, global_states, has_image, output_attentions
            )
        loss = None
        if alignment_loss is not None:
            # The collaboration takes no part in this loss; a zero gradient keeps DistributedDataParallel content.
            loss = self.config.alignment_weight * alignment_loss + 0.0 * fused.word_states.sum()
        return TwoMNEROutput(
            loss=loss,
            alignment_loss=alignment_loss,
            last_hidden_state=piece_states,
            word_states=fused.word_states * word_mask[..., None],
            text_word_states=text_word_states,
            word_mask=word_mask.long(),
            image_states=image_states,
            has_image=has_image.long(),
            gates=fused.gates,
            image_evidence=fused.image_evidence,
            hidden_states=hidden_states,
            attentions=attentions,
            image_attentions=fused.image_attentions or None,
        )

    def encode_images(
        self, pixel_values: torch.FloatTensor, image_ids: torch.LongTensor
    ) -> tuple[torch.FloatTensor | None, torch.FloatTensor | None]:
        """
        Runs the image tower(s) once over each distinct image and none for a row without.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): one image a row.
            image_ids (`torch.LongTensor` of shape `(batch_size,)`): equal for equal images, 0 for none.

        Returns:
            The image tower's `(batch_size, num_patches, vision_hidden_size)` and the second tower's pooled
            `(batch_size, 1, global_vision_hidden_size)` (`None` where there is no such tower), zeros in rows without
            an image; both `None` if no row has one.
        """
        has_image = image_ids != 0
        if torch.compiler.is_compiling():  # how many images are distinct is not a shape a compiled graph can have
            distinct, row_of = pixel_values, None
        else:
            ids, slots = torch.unique(image_ids, return_inverse=True)
            rows = torch.arange(len(image_ids), device=image_ids.device)
            first = rows.new_full(ids.shape, len(image_ids)).scatter_reduce(0, slots, rows, "amin")
            if not bool((ids != 0).any()):
                return None, None
            distinct = pixel_values[first[ids != 0]]
            row_of = ((ids != 0).cumsum(0) - 1).clamp(min=0)[slots]  # rows without an image: any, zeroed below

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            return sequence_of(self.vision_model, pixels)

        def encode_pooled(pixels: torch.Tensor) -> torch.Tensor:
            return sequence_of(self.global_vision_model, renormalized(pixels, self.config)).mean(dim=1, keepdim=True)

        size = self.encoder_chunk_size if self.training else None
        pooled = None
        with drawing_aside(pixel_values, self.training and self.config.leaves_text_alone):
            states = in_chunks(encode, size, pixels=distinct)
            if self.global_vision_model is not None:
                pooled = in_chunks(encode_pooled, size, pixels=distinct)
        if row_of is not None:
            states = states[row_of]
            pooled = pooled[row_of] if pooled is not None else None
        return only_where(has_image, states), only_where(has_image, pooled)

    def _check_chunks(self, output_attentions: bool, output_hidden_states: bool) -> None:
        if output_attentions or output_hidden_states:
            raise ValueError("`encoder_chunk_size` keeps no attentions or hidden states: ask for them in evaluation.")
        if is_sharded(self.text_model):  # the number of chunks would have to be the same everywhere
            raise ValueError("`encoder_chunk_size` does not go with FSDP; use --activation_checkpointing there.")

    def _check_inputs(self, input_ids, inputs_embeds, word_starts, pixel_values, image_ids, features) -> int:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "Give either `input_ids` or `inputs_embeds`: got " + ("none." if input_ids is None else "both.")
            )
        batch = len(input_ids if input_ids is not None else inputs_embeds)
        for name, value, dims in (
            ("word_starts", word_starts, 2),
            ("pixel_values", pixel_values, 4),
            ("image_ids", image_ids, 1),
            ("image_features", features[0], 3),
            ("global_image_features", features[1], 3),
        ):
            if value is not None and (value.dim() != dims or len(value) != batch):
                raise ValueError(
                    f"`{name}` has shape {tuple(value.shape)}; expected {dims} dimensions, the first {batch} as in "
                    "the text."
                )
        if features[0] is not None and (pixel_values is not None or image_ids is None):
            raise ValueError("`image_features` came with `pixel_values` or without `image_ids`; give them and ids.")
        if (features[0] is not None and self.global_vision_model is not None) != (features[1] is not None):
            raise ValueError("`global_image_features` go with `image_features` where there is a second image tower.")
        return batch

    def _visible_images(self, batch, images, image_ids, device) -> tuple[torch.Tensor, torch.Tensor]:
        """Image id a row, 0 where it has none or modality dropout hides it, and whether it has one: both (B,)."""
        if images is None:
            image_ids = torch.zeros(batch, dtype=torch.long, device=device)
        elif image_ids is None:
            image_ids = unshared_image_ids(batch, device)
        if self.training and self.config.modality_dropout > 0:
            hidden = torch.rand(batch, device=device) < self.config.modality_dropout
            image_ids = image_ids.masked_fill(hidden, 0)
        return image_ids, image_ids != 0

    def _absent_images(self, batch: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Stand-ins for a training batch in which no row has an image. Every trained parameter still gets a (zero)
        gradient, and every process takes part in the same collectives: DistributedDataParallel waits for both.
        """
        towers = [tower for tower in (self.vision_model, self.global_vision_model) if tower is not None]
        touched = sum(zero_of(tower, like) for tower in towers) if world_size() > 1 else like.new_zeros(())
        states = like.new_zeros(batch, 1, tower_width(self.config.vision_config)) + touched
        pooled = None
        if self.global_vision_model is not None:
            pooled = like.new_zeros(batch, 1, tower_width(self.config.global_vision_config)) + touched
        return states, pooled

    def _alignment_loss(
        self, piece_states, attention_mask, word_states, word_mask, image_states, global_states, has_image, image_ids
    ) -> torch.Tensor:
        """Sum of the contrastive losses, one for each image tower (paper, section 3.2)."""
        if image_states is None:  # evaluation of a batch without images: nothing to align
            image_states, global_states = self._absent_images(len(piece_states), piece_states)
        texts = {True: (word_states, word_mask), False: (piece_states, attention_mask.bool())}
        losses = [
            part(*texts[part.compares_words], states, has_image, image_ids)
            for alignment, states in ((self.alignment, image_states), (self.global_alignment, global_states))
            if alignment is not None
            for part in alignment.parts()
        ]
        return torch.stack(losses).sum()


class TwoMNERForTokenClassification(TwoMNERPreTrainedModel):
    """
    2M-NER with its tagging head: an emission a word and tag, then a linear-chain CRF (or a softmax a word).

    Args:
        config ([`TwoMNERConfig`]): the configuration; `id2label` holds the tags.
        towers (*optional*): handed to [`TwoMNERModel`].

    Raises:
        ValueError: `tagging_head` is `"crf"` and the labels are not IOB2.
    """

    _keep_in_fp32_modules_strict = {"crf"}

    def __init__(self, config: TwoMNERConfig, **towers: PreTrainedModel | None):
        super().__init__(config)
        if towers.get("text_model") is None:
            towers["text_model"] = fresh_tower(config.text_config)
        # Where the text is left alone, what reads the images draws aside, and the classifier starts as without it.
        with torch.random.fork_rng(devices=[], enabled=config.leaves_text_alone):
            self.model = TwoMNERModel(config, **towers)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(tower_width(config.text_config), config.num_labels)
        self.crf = LinearChainCRF(config.num_labels, _constraints(config))
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
            labels: the IOB2 tags in id order, e.g. `["O", "B-PER", "I-PER"]`.
            dtype: of the weights.
            **config: options of [`TwoMNERConfig`].

        Raises:
            ValueError: `labels` is empty, or its tags are not IOB2; a tower's weights are not in its checkpoint.
        """
        if not labels:
            raise ValueError('`labels` is empty; expected the IOB2 tags in id order, e.g. ["O", "B-PER", "I-PER"].')
        iob2_constraints(labels)
        text_model = pretrained_tower(text, "text", dtype)
        vision_model = pretrained_tower(vision, "vision", dtype)
        global_model = pretrained_tower(global_vision, "vision", dtype) if global_vision is not None else None
        if global_model is not None:
            if config.get("image_normalization") is None:
                config["image_normalization"] = normalization(vision)
            if config.get("global_image_normalization") is None:
                config["global_image_normalization"] = normalization(global_vision)
        towers = [tower for tower in (text_model, vision_model, global_model) if tower is not None]
        attention = [tower.config._attn_implementation for tower in towers]
        composite = TwoMNERConfig(
            text_config=text_model.config,
            vision_config=vision_model.config,
            global_vision_config=global_model.config if global_model is not None else None,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            **config,
        )
        for tower, implementation in zip(towers, attention, strict=True):
            tower.config._attn_implementation = implementation  # a new composite resets its parts' choice
            if os.path.isdir(tower.config._name_or_path):
                tower.config._name_or_path = ""  # a folder of this machine means nothing where the model goes
        model = cls(composite, text_model=text_model, vision_model=vision_model, global_vision_model=global_model)
        model.to(dtype).crf.float()  # as `from_pretrained` keeps it
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_starts: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        global_image_features: torch.FloatTensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TwoMNERTokenClassifierOutput:
        r"""
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, num_words)`, *optional*):
                Tag of each word, -100 (on the right only) where there is none.
            text_attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for a piece of a sentence without its caption. With labels, in training, the sentences are read
                without their captions too: the loss is that of both views, and `consistency_weight` times the
                divergence of the tags without the captions from those with them (ITA, Wang et al., NAACL 2022, eq. 8),
                so a sentence is tagged well when it comes alone. All else returned is of the sentences with captions.
            input_ids, attention_mask, word_starts, pixel_values, image_ids, ...:
                As in [`TwoMNERModel`].

        Raises:
            ValueError: `labels` is not of the words' shape, or `text_attention_mask` not of the pieces'.
        """
        inputs = {
            "input_ids": input_ids,
            "word_starts": word_starts,
            "pixel_values": pixel_values,
            "image_ids": image_ids,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "image_features": image_features,
            "global_image_features": global_image_features,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        outputs, word_mask = self._read(attention_mask, labels, **inputs)
        if text_attention_mask is not None:
            pieces = (input_ids if input_ids is not None else inputs_embeds).shape[:2]
            if text_attention_mask.shape != pieces:
                raise ValueError(
                    f"`text_attention_mask` has shape {tuple(text_attention_mask.shape)}; expected one entry a piece, "
                    f"that is {tuple(pieces)}."
                )
            if self.training and labels is not None:
                # Or both views would share half-precision copies of the weights, and their gradients be added in it.
                torch.clear_autocast_cache()
                alone, _ = self._read(text_attention_mask, labels, **inputs)
                outputs = self._with_view(outputs, alone, word_mask)
        return outputs

    def _read(
        self, attention_mask: torch.Tensor | None, labels: torch.Tensor | None, **inputs
    ) -> tuple[TwoMNERTokenClassifierOutput, torch.Tensor]:
        """The outputs for the pieces of this mask, and where there are words (B, W)."""
        outputs = self.model(attention_mask=attention_mask, return_loss=labels is not None, return_dict=True, **inputs)
        text_logits = self.classifier(self.dropout(outputs.word_states))  # (B, W, K)
        # The next batch's words draw their dropout as without an image.
        with drawing_aside(text_logits, self.training and self.config.leaves_text_alone):
            return self._tagged(outputs, text_logits, labels, inputs["image_ids"]), outputs.word_mask.bool()

    def _with_view(
        self, outputs: TwoMNERTokenClassifierOutput, alone: TwoMNERTokenClassifierOutput, word_mask: torch.Tensor
    ) -> TwoMNERTokenClassifierOutput:
        """What is returned of sentences with captions, with the losses of the sentences alone added to theirs."""
        names = ("loss", "ner_loss", "alignment_loss", "consistency_loss", "evidence_loss")
        losses = {
            name: getattr(outputs, name) + getattr(alone, name) for name in names if getattr(outputs, name) is not None
        }
        if self.config.consistency_weight > 0:
            divergence = self.crf.divergence(outputs.logits, alone.logits, word_mask).mean()
            losses["loss"] = losses["loss"] + self.config.consistency_weight * divergence
            losses["consistency_loss"] = losses.get("consistency_loss", 0) + divergence
        return replace(outputs, **losses)

    def _tagged(
        self,
        outputs: TwoMNEROutput,
        text_logits: torch.Tensor,
        labels: torch.Tensor | None,
        image_ids: torch.Tensor | None,
    ) -> TwoMNERTokenClassifierOutput:
        """What `forward` returns, of the classifier's emissions (B, W, K) for the fused words."""
        word_mask, has_image = outputs.word_mask.bool(), outputs.has_image.bool()
        logits, gates = text_logits, outputs.gates
        fused = Collaboration(outputs.word_states, outputs.gates, image_evidence=outputs.image_evidence)
        if (collaboration := self.model.collaboration) is not None:
            logits, gates = collaboration.weigh(text_logits, fused, word_mask, has_image)
        predictions = None if self.training else self.crf.decode(logits, word_mask)

        loss = ner_loss = consistency_loss = evidence_loss = None
        if labels is not None:
            if labels.shape != word_mask.shape:
                expected = f"one label a word, that is {tuple(word_mask.shape)}"
                raise ValueError(f"`labels` has shape {tuple(labels.shape)}; expected {expected}.")
            mask = word_mask & (labels != -100)
            # The mean over sentences, not words: then the mean over processes is the mean over their joint batch.
            ner_loss = -self.crf.log_likelihood(text_logits, labels, mask).mean()
            loss = self.config.ner_weight * ner_loss
            if outputs.alignment_loss is not None:
                loss = loss + self.config.alignment_weight * outputs.alignment_loss
            if self.config.consistency_weight > 0 and collaboration is not None:
                consistency_loss = self._consistency_loss(logits, outputs)
                loss = loss + self.config.consistency_weight * consistency_loss
            if collaboration is not None:
                evidence_loss = collaboration.loss(fused, labels, has_image, image_ids)
            if evidence_loss is not None:
                loss = loss + evidence_loss

        return TwoMNERTokenClassifierOutput(
            loss=loss,
            predictions=predictions,
            logits=logits,
            ner_loss=ner_loss,
            alignment_loss=outputs.alignment_loss,
            consistency_loss=consistency_loss,
            evidence_loss=evidence_loss,
            gates=gates,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_attentions=outputs.image_attentions,
        )

    def _consistency_loss(self, logits: torch.Tensor, outputs: TwoMNEROutput) -> torch.Tensor:
        """
        `KL(p(y | text, image) || p(y | text))` of the tag posteriors, summed over words, mean over rows (ITA, Wang et
        al., NAACL 2022, eq. 7): the view with the image teaches the one without, which alone gets a gradient.
        """
        words = self.model.collaboration.text_only(outputs.text_word_states).word_states
        text_logits = self.classifier(self.dropout(words * outputs.word_mask[..., None]))
        divergence = self.crf.divergence(logits, text_logits, outputs.word_mask.bool())
        return only_where(outputs.has_image.bool(), divergence).mean()


def _constraints(config: TwoMNERConfig):
    """
    The IOB2 constraints, if there is a CRF to constrain and the labels have names (`LABEL_0`, ... have none).

    Raises:
        ValueError: there is a CRF, and the labels are not IOB2.
    """
    if config.tagging_head != "crf" or any(label.startswith("LABEL_") for label in config.labels):
        return None
    try:
        return iob2_constraints(config.labels)
    except ValueError as error:
        raise ValueError(
            f"{error} A CRF is constrained to IOB2: write the labels so, or take tagging_head='softmax'."
        ) from error


if "." not in __name__:  # imported by its own name, not as remote code: that is mapped by `auto_map`
    TwoMNERModel.register_for_auto_class("AutoModel")
    TwoMNERForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
    AutoModel.register(TwoMNERConfig, TwoMNERModel)
    AutoModelForTokenClassification.register(TwoMNERConfig, TwoMNERForTokenClassification)

__all__ = ["TwoMNERForTokenClassification", "TwoMNERModel", "TwoMNERPreTrainedModel"]
