"""Towers and multimodal collaboration of 2M-NER: how words take up an image (arXiv 2404.17122, section 3.3)."""

import os

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import logging

try:
    from .alignment_2mner import gather_all, is_sharded, sum_over_processes, world_size
    from .configuration_2mner import TwoMNERConfig, tower_width
except ImportError:
    from alignment_2mner import gather_all, is_sharded, sum_over_processes, world_size
    from configuration_2mner import TwoMNERConfig, tower_width


# Towers

# Parts of image towers whose output is not read: masked-image tokens, pooled heads and, by type of model, the norm in
# front of the head.
UNREAD_PARTS = ("mask_token", "pooler", "head")
UNREAD_NORMS = {
    "chinese_clip_vision_model": "post_layernorm",
    "clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
    "mlcd_vision_model": "post_layernorm",
}

# Images that a frozen tower reads at once on a CPU: memory of large activations is requested from the system each
# time. EfficientNet-Lite0 takes 8 ms per image in batches of 4, 12 ms in batches of 8, 17 ms in batches of 16.
CPU_IMAGES = 4


def encode_pixels(tower: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Last hidden state of an image tower as a sequence (N, P, D); a convolutional map is read cell by cell."""
    # Convolutions are several times faster on channels_last input on CPU, and never slower.
    pixel_values = pixel_values.to(tower.dtype).contiguous(memory_format=torch.channels_last)
    parts = [pixel_values]
    is_trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters())
    if pixel_values.device.type == "cpu" and not (is_trained or torch.compiler.is_compiling() or is_sharded(tower)):
        parts = pixel_values.tensor_split(-(-len(pixel_values) // CPU_IMAGES))
    sequence = torch.cat([tower(pixel_values=part, return_dict=True).last_hidden_state for part in parts])
    if sequence.dim() == 4:
        sequence = sequence.flatten(2).transpose(1, 2)  # (N, D, h, w) -> (N, h * w, D)
    return sequence


def renormalized(pixel_values: torch.Tensor, config: TwoMNERConfig) -> torch.Tensor:
    """
    The pixels (N, C, H, W) that two image towers share, with the normalisation and, if fixed, the size that the second
    one was trained with.
    """
    if config.global_image_normalization is not None:
        mean, std, global_mean, global_std = (
            pixel_values.new_tensor(statistics[name]).view(1, -1, 1, 1)
            for statistics in (config.image_normalization, config.global_image_normalization)
            for name in ("mean", "std")
        )
        pixel_values = (pixel_values * std + mean - global_mean) / global_std
    size = _fixed_image_size(config.global_vision_config)
    # Only a tower with position embeddings is tied to its size; a convolutional one takes any.
    if hasattr(config.global_vision_config, "patch_size") and size is not None and pixel_values.shape[-2:] != size:
        # In float32, as it does not exist in half precision on a CPU.
        pixel_values = F.interpolate(pixel_values.float(), size=size, mode="bicubic", antialias=True)
    return pixel_values


def _fixed_image_size(config) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    return (size, size) if isinstance(size, int) else size and tuple(size)


def stand_in_states(tower: PreTrainedModel, like: torch.Tensor) -> torch.Tensor:
    """Zeros (1, 1, D) in place of an image tower's output, with zero gradients for its trained parameters if
    there are several processes."""
    states = like.new_zeros(1, 1, tower_width(tower.config))
    if is_sharded(tower):  # other processes that run it wait for this one's share of the weights
        size = _fixed_image_size(tower.config) or (64, 64)
        pixels = like.new_zeros(1, getattr(tower.config, "num_channels", 3), *size)
        return states + 0 * encode_pixels(tower, pixels).sum()
    if world_size() > 1:
        states = states + sum(p.flatten()[0] * 0 for p in tower.parameters() if p.requires_grad)
    return states


def fresh_tower(config) -> PreTrainedModel:
    """A tower of this configuration, without a pooling layer if its class lets us choose."""
    try:
        return AutoModel.from_config(config, add_pooling_layer=False)
    except TypeError:
        return AutoModel.from_config(config)


def pretrained_tower(name: str | os.PathLike, side: str, dtype: torch.dtype) -> PreTrainedModel:
    """
    Loads a tower; of a text-image model, the side ("text" or "vision") asked for, if that side's own class finds its
    weights in the checkpoint (CLIP, SigLIP).

    Raises:
        ValueError: the checkpoint lacks weights that are used.
    """
    whole = AutoConfig.from_pretrained(name)
    options = {"config": getattr(whole, f"{side}_config", whole), "dtype": dtype, "output_loading_info": True}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # unused heads and poolers are expected
    try:
        try:
            tower, found = AutoModel.from_pretrained(name, add_pooling_layer=False, **options)
        except TypeError:
            tower, found = AutoModel.from_pretrained(name, **options)
    finally:
        logging.set_verbosity(verbosity)
    state = tower.state_dict()
    # Integers, such as positions and BatchNorm's counters, are no weights.
    weights = [key for key, value in state.items() if value.is_floating_point() and not _is_unread(tower, key)]
    if missing := [key for key in weights if key in found["missing_keys"]]:
        raise ValueError(
            f"The {side} tower {name} lacks {len(missing)} of the {len(weights)} weights of a {type(tower).__name__} "
            f"({missing[0]}, ...), which would stay random. Its config.json is that of a `{whole.model_type}`: if the "
            "tower is a part of it, load the whole, save that part with its `save_pretrained` into a folder of its "
            "own, with the tokenizer or image processor, and give that folder."
        )
    return tower


def image_normalization(name: str | os.PathLike) -> dict[str, list[float]]:
    """Mean and standard deviation that the image processor in this folder applies."""
    try:
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The image tower {name} has no image processor to read its normalisation from ({error}). Save one beside "
            "it, or give `image_normalization` and `global_image_normalization`."
        ) from error
    return {"mean": list(processor.image_mean), "std": list(processor.image_std)}


def freeze_unread_parts(tower: PreTrainedModel) -> None:
    """Freezes the parameters of an image tower that do not reach its last hidden state."""
    for name, parameter in tower.named_parameters():
        if _is_unread(tower, name):
            parameter.requires_grad_(False)


def _is_unread(tower: PreTrainedModel, name: str) -> bool:
    parts = name.split(".")
    return parts[0] == UNREAD_NORMS.get(tower.config.model_type) or any(part in UNREAD_PARTS for part in parts)


def eval_frozen_parts(module: nn.Module) -> None:
    """Puts `module` into evaluation if it has parameters and trains none, else looks inside; BatchNorm always."""
    parameters = list(module.parameters())
    frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
    if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        return
    for child in module.children():
        eval_frozen_parts(child)


# The collaboration


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = query @ key.transpose(-1, -2) * scaling  # (B, heads, Q, N)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence over another: `softmax(Q K^T / sqrt(d)) V`, each projected on its own."""

    def __init__(self, config: TwoMNERConfig):
        super().__init__()
        self.config = config
        width = tower_width(config.text_config)
        self.num_heads = config.collaboration_heads or max(1, width // 64)
        if width % self.num_heads:
            raise ValueError(
                f"`collaboration_heads` is {self.num_heads}; expected a divisor of the text tower's width, {width}."
            )
        self.head_dim = width // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.dropout
        self.is_causal = False
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        key_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Queries (batch_size, num_queries, hidden_size) over keys (batch_size, num_keys, hidden_size), which are also
        the values, to vectors of the queries' shape. `key_mask` (batch_size, num_keys) says which keys exist; a row
        without any gives a finite, meaningless vector.
        """
        batch_size, num_queries, width = queries.shape
        split = (batch_size, -1, self.num_heads, self.head_dim)
        query = self.q_proj(queries).view(split).transpose(1, 2)  # (B, heads, Q, d)
        key = self.k_proj(keys).view(split).transpose(1, 2)  # (B, heads, N, d)
        value = self.v_proj(keys).view(split).transpose(1, 2)  # (B, heads, N, d)

        bias = None
        if key_mask is not None:
            # The lowest finite number, not -inf: a row with no key at all must not become NaN.
            bias = torch.zeros(key_mask.shape, dtype=query.dtype, device=query.device)
            bias = bias.masked_fill(~key_mask, torch.finfo(query.dtype).min)
            bias = bias[:, None, None, :].expand(-1, -1, num_queries, -1)  # (B, 1, Q, N)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, _ = attend(
            self,
            query,
            key,
            value,
            bias,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(context.reshape(batch_size, num_queries, width))


class CrossModalLayer(nn.Module):
    """A transformer layer whose queries come from one modality, keys and values from the other (UMT, fig. 3)."""

    def __init__(self, config: TwoMNERConfig):
        super().__init__()
        width = tower_width(config.text_config)
        self.attention = CrossAttention(config)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor | None,
        key_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Without `keys` the queries attend to nothing and keep their residual."""
        context = torch.zeros_like(queries) if keys is None else self.attention(queries, keys, key_mask)
        queries = self.attention_norm(queries + self.dropout(context))
        return self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries)))


class ImageProjection(nn.Module):
    """Brings an image tower's vectors to the width of the words: LayerNorm, then a linear map."""

    def __init__(self, config: TwoMNERConfig, image_width: int):
        super().__init__()
        # Towers differ in scale by orders of magnitude (a convolutional map is not normalised at all).
        self.norm = nn.LayerNorm(image_width)
        self.linear = nn.Linear(image_width, tower_width(config.text_config))

    def forward(self, image_states: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(image_states))


class CollaborationModule(nn.Module):
    """Base of the collaboration modules. `forward` takes rows that all have an image, `text_only` rows without one."""

    def __init__(self, config: TwoMNERConfig):
        super().__init__()
        self.image_projection = ImageProjection(config, tower_width(config.vision_config))
        self.global_projection = None
        if config.global_vision_config is not None:
            self.global_projection = ImageProjection(config, tower_width(config.global_vision_config))

    def forward(
        self,
        word_states: torch.Tensor,
        word_mask: torch.Tensor,
        image_states: torch.Tensor,
        global_states: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        The words (batch_size, num_words, hidden_size) after the collaboration.

        Args:
            word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`).
            word_mask (`torch.BoolTensor` of shape `(batch_size, num_words)`).
            image_states (`torch.FloatTensor` of shape `(batch_size, num_patches, vision_hidden_size)`).
            global_states (`torch.FloatTensor` of shape `(batch_size, 1, global_vision_hidden_size)`, *optional*).
        """
        raise NotImplementedError

    def text_only(self, word_states: torch.Tensor) -> torch.Tensor:
        """The words (batch_size, num_words, hidden_size) after the collaboration in rows without an image."""
        raise NotImplementedError

    def image_sequence(self, image_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        """All image vectors as one sequence of the words' width, (batch_size, num_patches [+ 1], hidden_size)."""
        sequence = self.image_projection(image_states)
        if self.global_projection is not None:
            sequence = torch.cat([sequence, self.global_projection(global_states)], dim=1)
        return sequence


class CrossAttentionCollaboration(CollaborationModule):
    """
    The paper's multimodal collaboration module (section 3.3): words attend to the tokens of the image tower and to the
    vector of the second one; residual and LayerNorm on each; the two concatenated and projected to the words' width.

    Attention over one vector is the same for every word. Here a learned "none of it" key stands beside the second
    tower's vector, so that a word can choose.
    """

    def __init__(self, config: TwoMNERConfig):
        super().__init__(config)
        width = tower_width(config.text_config)
        self.attention = CrossAttention(config)
        self.attention_norm = nn.LayerNorm(width)
        if self.global_projection is not None:
            self.global_attention = CrossAttention(config)
            self.global_norm = nn.LayerNorm(width)
            self.none_key = nn.Parameter(torch.zeros(1, 1, width))
        views = 1 if self.global_projection is None else 2
        self.output = nn.Linear(views * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, word_states, word_mask, image_states, global_states):
        context = self.attention(word_states, self.image_projection(image_states))
        views = [self.attention_norm(word_states + self.dropout(context))]
        if self.global_projection is not None:
            keys = self.global_projection(global_states)
            keys = torch.cat([self.none_key.to(keys.dtype).expand(len(keys), -1, -1), keys], dim=1)  # (B, 2, H)
            views.append(self.global_norm(word_states + self.dropout(self.global_attention(word_states, keys))))
        return self.output(torch.cat(views, dim=-1))

    def text_only(self, word_states: torch.Tensor) -> torch.Tensor:
        views = [self.attention_norm(word_states)]
        if self.global_projection is not None:
            views.append(self.global_norm(word_states))
        return self.output(torch.cat(views, dim=-1))


class GatedCollaboration(CollaborationModule):
    """
    The image first attends to the words, then the words to the image so informed; each word has a gate that reads the
    word, what it saw, and their agreement (the product), so that an image which has nothing to do with it is ignored:

        c_i = Attention(w_i, V'),  h_i = MLP([w_i; c_i; w_i * c_i]),  w_i + sigmoid(W_g h_i) * W_u h_i

    The word itself passes unchanged: without an image this is the text model.
    """

    def __init__(self, config: TwoMNERConfig):
        super().__init__(config)
        width = tower_width(config.text_config)
        self.image_attention = CrossAttention(config)
        self.image_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(config)
        self.word_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Dropout(config.dropout))
        self.gate = nn.Linear(width, 1)
        self.update = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, word_states, word_mask, image_states, global_states):
        images = self.image_sequence(image_states, global_states)  # (B, P, H)
        images = self.image_norm(images + self.dropout(self.image_attention(images, word_states, word_mask)))

        words, context = self.word_norm(word_states), self.context_norm(self.attention(word_states, images))
        hidden = self.hidden(torch.cat([words, context, words * context], dim=-1))  # (B, W, H)
        return word_states + torch.sigmoid(self.gate(hidden)) * self.dropout(self.update(hidden))

    def text_only(self, word_states: torch.Tensor) -> torch.Tensor:
        return word_states


class UMTCollaboration(CollaborationModule):
    """
    The interaction of UMT (Yu et al., ACL 2020, "Improving Multimodal Named Entity Recognition via Entity Span
    Detection with Unified Multimodal Transformer", section 3.2), as a baseline: image-aware words by two coupled
    cross-modal layers, word-aware image by one, a gate on the latter, both concatenated. Its auxiliary span-detection
    task is not part of the interaction and is left out.
    """

    def __init__(self, config: TwoMNERConfig):
        super().__init__(config)
        width = tower_width(config.text_config)
        self.words_to_image = CrossModalLayer(config)  # queries: image; keys: words
        self.image_to_words = CrossModalLayer(config)  # queries: words; keys: the image after the layer above
        self.visual = CrossModalLayer(config)  # queries: words; keys: image
        self.gate = nn.Linear(2 * width, width)
        self.output = nn.Linear(2 * width, width)

    def forward(self, word_states, word_mask, image_states, global_states):
        images = self.image_sequence(image_states, global_states)
        words = self.image_to_words(word_states, self.words_to_image(images, word_states, word_mask))
        visual = self.visual(word_states, images)
        gate = torch.sigmoid(self.gate(torch.cat([word_states, visual], dim=-1)))  # (B, W, H)
        return self.output(torch.cat([words, gate * visual], dim=-1))

    def text_only(self, word_states: torch.Tensor) -> torch.Tensor:
        words = self.image_to_words(word_states, None)
        return self.output(torch.cat([words, torch.zeros_like(words)], dim=-1))


class EvidenceHead(nn.Module):
    """
    A head beside the tagger. It estimates from the image how likely each entity type is, and adds half of that
    log-ratio to the tag scores. It changes no word vector and gives the tagger no gradient.

    With y_1 .. y_n the types of a sentence's entities, each beginning at a word w_m, the ratio is

        p(I | y, w) / p(I) = 1/n sum_m (1 - s(w_m)) g(I) + s(w_m) f_{y_m}(I)

    where f and g read the image alone: f_y is the ratio for images of an entity of type y, g for images beside any
    sentence; s reads the word: how often is such an entity shown at all? `loss` learns the ratio from tagged sentences
    and their images, without being told which entity is shown (noise-contrastive estimation).

    `forward` adds to tag B-y of each word half of the log-ratio with an entity of type y there, less its mean over the
    types that the tagger considers. The other entities are those that the tagger expects. So the image decides
    between the types of an entity, not whether there is one. IOB2 constraints carry the type on to the I- tags.

    Raises:
        ValueError: the labels are not IOB2.
    """

    LARGEST = 6.0  # of a log-ratio
    # Tagger and image share mistakes. On dev, with 1,500 training sentences, the whole log-ratio cost sentences with
    # an unrelated image more than it gave to the others; half of it did not.
    WEIGHT = 0.5
    # Expected number of entities beside the named ones, so that a sentence may have none that is shown.
    PRIOR = 0.01

    def __init__(self, config: TwoMNERConfig):
        super().__init__()
        self.begins = [index for index, label in enumerate(config.labels) if label.startswith("B-")]
        if not self.begins:
            raise ValueError(
                f'The labels are {", ".join(config.labels)}; `collaboration="evidence"` adds to the scores of IOB2 '
                "tags B-X, of which there are none. Give IOB2 labels, or take another collaboration."
            )
        width = tower_width(config.text_config)
        self.image_projection = ImageProjection(config, tower_width(config.vision_config))
        self.global_projection = None
        if config.global_vision_config is not None:
            self.global_projection = ImageProjection(config, tower_width(config.global_vision_config))
        # A dataset shows few images, often: they are overfitted sooner than words are.
        self.image_dropout = nn.Dropout(min(0.5, 5 * config.dropout))
        self.image_types = nn.Linear(width, len(self.begins) + 1)  # log f of each type, and log g
        self.word_norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(min(0.5, 3 * config.dropout)))
        self.shown = nn.Linear(width, 1)  # logit of s

    def log_ratios(self, image_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        """
        `log f_y` of each type and `log g`, `(num_images, num_types + 1)`, of the image tower's
        `(num_images, num_patches, vision_hidden_size)` and the second tower's `(num_images, 1, ...)`.
        """
        image = self._pooled(self.image_projection, image_states)
        if self.global_projection is not None:
            image = image + self._pooled(self.global_projection, global_states)
        ratios = self.image_types(self.image_dropout(F.gelu(image))).float()
        return self.LARGEST * torch.tanh(ratios / self.LARGEST)  # bounded, with a gradient everywhere

    def _pooled(self, projection: ImageProjection, states: torch.Tensor) -> torch.Tensor:
        return projection.linear(self.image_dropout(projection.norm(states).mean(dim=1)))

    def _shown(self, word_states: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.shown(self.word_norm(word_states.detach())).float())

    def forward(
        self, logits: torch.Tensor, word_states: torch.Tensor, word_mask: torch.Tensor, log_ratios: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        From the tagger's emissions (batch_size, num_words, num_labels), the words and the `log_ratios` of each row's
        image to what to add to the emissions, and to the probability that each word begins the entity that the image
        shows, (batch_size, num_words).
        """
        ratios = log_ratios.exp()
        of_type, of_any = ratios[:, :-1], ratios[:, -1:]  # (B, T), (B, 1)
        shown = self._shown(word_states)  # (B, W, 1)
        as_shown, not_shown = shown * of_type[:, None], (1 - shown) * of_any[:, None]  # (B, W, T), (B, W, 1)
        logits = logits.detach().float()
        posterior = F.softmax(logits, dim=-1)[..., self.begins] * word_mask[..., None]  # (B, W, T)

        # The sentence's other entities: the number that the tagger expects, and the sum of their ratios.
        count, ratio = posterior.sum(-1), (posterior * (as_shown + not_shown)).sum(-1)  # (B, W)
        others = (count.sum(1, keepdim=True) - count).clamp(min=0) + self.PRIOR
        others_ratio = (ratio.sum(1, keepdim=True) - ratio).clamp(min=0) + self.PRIOR * of_any
        with_entity = (others_ratio[..., None] + as_shown + not_shown) / (others + 1)[..., None]  # (B, W, T)
        there = self.WEIGHT * with_entity.log()
        types = F.log_softmax(logits[..., self.begins], dim=-1)
        bonus = (there - torch.logsumexp(types + there, dim=-1, keepdim=True)) * word_mask[..., None]

        added = torch.zeros_like(logits).index_copy(2, torch.tensor(self.begins, device=logits.device), bonus)
        return added, (posterior * as_shown).sum(-1) / (others_ratio + ratio)

    def loss(
        self,
        word_states: torch.Tensor,
        labels: torch.Tensor,
        log_ratios: torch.Tensor,
        image_index: torch.Tensor,
        image_ids: torch.Tensor,
    ) -> torch.Tensor:
        """
        Noise-contrastive estimation of the ratio: its logarithm is the logit that tells a sentence's own image from
        those of other rows, of every process. The mean over own images and the mean over others, summed; 0 if no row
        has an image and an entity.

        As with the alignments, the mean over processes is that of one process with all rows, and every process must
        call it, also with a batch without images.

        Args:
            word_states (`torch.FloatTensor` of shape `(batch_size, num_words, hidden_size)`).
            labels (`torch.LongTensor` of shape `(batch_size, num_words)`): the tags, -100 where there is none.
            log_ratios (`torch.FloatTensor` of shape `(num_images, num_types + 1)`): of `log_ratios`.
            image_index (`torch.LongTensor` of shape `(batch_size,)`): the image of each row, -1 for none.
            image_ids (`torch.LongTensor` of shape `(num_images,)`): equal for equal images, on every process.
        """
        entities = torch.stack([labels == tag for tag in self.begins], dim=-1).float()  # (B, W, T)
        number = entities.sum(dim=(1, 2))  # (B,)
        shares = (self._shown(word_states) * entities).sum(dim=1) / number.clamp(min=1)[:, None]  # (B, T)
        shares = torch.cat([shares, 1 - shares.sum(dim=1, keepdim=True)], dim=-1)  # (B, T + 1): and of showing none

        has_image, own = image_index >= 0, image_index.clamp(min=0)
        ratios, ids = log_ratios[own].exp(), image_ids[own]  # (B, T + 1), (B,)
        all_ratios, facts = gather_all([ratios, torch.stack([has_image.long(), ids], dim=1)])  # (G, ...)
        own_logits = (shares * ratios).sum(dim=1).log()  # (B,)
        other_logits = (shares @ all_ratios.T).log()  # (B, G)
        is_own = has_image & (number > 0)
        is_other = is_own[:, None] & facts[:, 0].bool() & (ids[:, None] != facts[:, 1])
        counts = sum_over_processes(torch.stack([is_own.sum(), is_other.sum()])).clamp(min=1)
        own_loss = torch.where(is_own, -F.logsigmoid(own_logits), 0).sum() / counts[0]
        other_loss = torch.where(is_other, -F.logsigmoid(-other_logits), 0).sum() / counts[1]
        return world_size() * (own_loss + other_loss)


COLLABORATION_MODULES = {
    "cross_attention": CrossAttentionCollaboration,
    "gated": GatedCollaboration,
    "umt": UMTCollaboration,
}
