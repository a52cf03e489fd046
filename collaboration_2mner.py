"""
The multimodal collaboration of 2M-NER: how words take up an image (arXiv 2404.17122, section 3.3), and alternatives.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

try:
    from .alignment_2mner import gather_all, is_sharded, sum_over_processes, unshared_image_ids, world_size
    from .configuration_2mner import TwoMNERConfig, tower_width
    from .towers_2mner import drawing_aside
except ImportError:
    from alignment_2mner import gather_all, is_sharded, sum_over_processes, unshared_image_ids, world_size
    from configuration_2mner import TwoMNERConfig, tower_width
    from towers_2mner import drawing_aside


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
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            queries (`torch.FloatTensor` of shape `(batch_size, num_queries, hidden_size)`): who asks.
            keys (`torch.FloatTensor` of shape `(batch_size, num_keys, hidden_size)`): who is asked.
            key_mask (`torch.BoolTensor` of shape `(batch_size, num_keys)`, *optional*): which keys exist. A row
                without any gives a finite, meaningless vector.
            output_attentions: also return the weights, `(batch_size, num_heads, num_queries, num_keys)`.
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

        attend = eager_attention_forward
        if not output_attentions:  # fused kernels do not return their weights
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, weights = attend(
            self,
            query,
            key,
            value,
            bias,
            is_causal=self.is_causal,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
        )
        context = self.out_proj(context.reshape(batch_size, num_queries, width))
        return context, weights if output_attentions else None


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
        keys: torch.Tensor,
        has_keys: torch.Tensor,
        key_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`has_keys` (batch_size,): rows where it is False attend to nothing and keep their residual alone."""
        context, weights = self.attention(queries, keys, key_mask, output_attentions)
        context, weights = only_where(has_keys, context), only_where(has_keys, weights)
        queries = self.attention_norm(queries + self.dropout(context))
        return self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries))), weights


def only_where(rows: torch.Tensor, states: torch.Tensor | None) -> torch.Tensor | None:
    """`states` (batch_size, ...) with zeros in the rows (batch_size,) that are False, whatever stood there."""
    if states is None:
        return None
    return torch.where(rows.view(-1, *[1] * (states.dim() - 1)), states, states.new_zeros(()))


class ImageProjection(nn.Module):
    """Brings an image tower's vectors to the width of the words: LayerNorm, then a linear map."""

    def __init__(self, config: TwoMNERConfig, image_width: int):
        super().__init__()
        # Towers differ in scale by orders of magnitude (a convolutional map is not normalised at all).
        self.norm = nn.LayerNorm(image_width)
        self.linear = nn.Linear(image_width, tower_width(config.text_config))

    def forward(self, image_states: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(image_states))


@dataclass
class Collaboration:
    """What a collaboration module returns: fused words, and, where it has them, gates, words-to-image attention, and
    what the image says of the type of its entity."""

    word_states: torch.Tensor
    gates: torch.Tensor | None = None
    image_evidence: torch.Tensor | None = None
    image_attentions: tuple[torch.Tensor, ...] = ()


class CollaborationModule(nn.Module):
    """
    Base of the collaboration modules. Each fuses words `(B, W, H)` with the image tower's `(B, P, Dv)` and, if there
    is a second tower, its pooled `(B, 1, Dg)`. In a row without an image the result depends on the words alone.
    """

    def __init__(self, config: TwoMNERConfig):
        super().__init__()
        self.image_projection = ImageProjection(config, tower_width(config.vision_config))
        self.global_projection = None
        if config.global_vision_config is not None:
            self.global_projection = ImageProjection(config, tower_width(config.global_vision_config))

    def image_sequence(self, image_states: torch.Tensor, global_states: torch.Tensor | None) -> torch.Tensor:
        """All image vectors as one sequence of the words' width, (B, P [+ 1], H)."""
        sequence = self.image_projection(image_states)
        if self.global_projection is not None:
            sequence = torch.cat([sequence, self.global_projection(global_states)], dim=1)
        return sequence

    def fuse(self, word_states, word_mask, image_states, global_states, has_image, output_attentions=False):
        """As `forward`, which is run over the rows that have an image alone."""
        mixed = not torch.compiler.is_compiling() and bool(has_image.any()) and not bool(has_image.all())
        if not mixed or is_sharded(self):  # every process must use sharded weights, as often as the others
            return self(word_states, word_mask, image_states, global_states, has_image, output_attentions)
        rows = has_image.nonzero().squeeze(1)
        some = self(
            word_states[rows],
            word_mask[rows],
            image_states[rows],
            None if global_states is None else global_states[rows],
            has_image[rows],
            output_attentions,
        )
        others = self.text_only(word_states)

        def put(found: torch.Tensor | None, other: torch.Tensor | None = None) -> torch.Tensor | None:
            if found is None:
                return None
            if other is None:
                other = found.new_zeros(len(word_states), *found.shape[1:])
            return other.to(found.dtype).index_copy(0, rows, found)

        return Collaboration(
            word_states=put(some.word_states, others.word_states),
            gates=put(some.gates, others.gates),
            image_evidence=put(some.image_evidence),
            image_attentions=tuple(map(put, some.image_attentions)),
        )

    def text_only(self, word_states: torch.Tensor) -> Collaboration:
        """What `forward` gives in a row without an image, at no image's cost."""
        raise TypeError(f"{type(self).__name__} must say what it does with words alone.")

    def weigh(
        self, logits: torch.Tensor, fused: Collaboration, word_mask: torch.Tensor, has_image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        The emissions (B, W, K) that the tagger reads, and its gates (B, W): `logits`, the classifier's for the fused
        words, unless the image's evidence is added to them.
        """
        return logits, fused.gates

    def loss(
        self, fused: Collaboration, labels: torch.Tensor, has_image: torch.Tensor, image_ids: torch.Tensor | None
    ) -> torch.Tensor | None:
        """A loss of its own, beside that of the tags; `None` for none."""
        return None


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

    def forward(self, word_states, word_mask, image_states, global_states, has_image, output_attentions=False):
        context, weights = self.attention(
            word_states, self.image_projection(image_states), output_attentions=output_attentions
        )
        attentions = [only_where(has_image, weights)]
        views = [self.attention_norm(word_states + self.dropout(only_where(has_image, context)))]
        if self.global_projection is not None:
            keys = self.global_projection(global_states)
            keys = torch.cat([self.none_key.to(keys.dtype).expand(len(keys), -1, -1), keys], dim=1)  # (B, 2, H)
            context, weights = self.global_attention(word_states, keys, output_attentions=output_attentions)
            attentions.append(only_where(has_image, weights))
            views.append(self.global_norm(word_states + self.dropout(only_where(has_image, context))))
        return Collaboration(
            word_states=self.output(torch.cat(views, dim=-1)),
            image_attentions=tuple(attentions) if output_attentions else (),
        )

    def text_only(self, word_states: torch.Tensor) -> Collaboration:
        views = [self.attention_norm(word_states)]
        if self.global_projection is not None:
            views.append(self.global_norm(word_states))
        return Collaboration(word_states=self.output(torch.cat(views, dim=-1)))


class GatedCollaboration(CollaborationModule):
    """
    The image first attends to the words, then the words to the image so informed; each word has a gate that reads the
    word, what it saw, and their agreement (the product), so that an image which has nothing to do with it is ignored:

        c_i = Attention(w_i, V'),  g_i = sigmoid(MLP([w_i; c_i; w_i * c_i])),  w_i + g_i * MLP([w_i; c_i; w_i * c_i])

    The word itself passes unchanged: without an image this is the text model. `"ungated"` is the same with g_i = 1, to
    tell what the gate is worth.
    """

    def __init__(self, config: TwoMNERConfig):
        super().__init__(config)
        width = tower_width(config.text_config)
        self.image_attention = CrossAttention(config)
        self.image_norm = nn.LayerNorm(width)
        self.attention = CrossAttention(config)
        self.word_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.evidence = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Dropout(config.dropout))
        self.gate = nn.Linear(width, 1) if config.collaboration == "gated" else None
        self.update = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, word_states, word_mask, image_states, global_states, has_image, output_attentions=False):
        images = self.image_sequence(image_states, global_states)  # (B, P, H)
        seen, _ = self.image_attention(images, word_states, key_mask=word_mask)
        images = self.image_norm(images + self.dropout(seen))

        context, weights = self.attention(word_states, images, output_attentions=output_attentions)
        words, context = self.word_norm(word_states), self.context_norm(context)
        evidence = self.evidence(torch.cat([words, context, words * context], dim=-1))  # (B, W, H)
        gates = evidence.new_ones(*evidence.shape[:2], 1)  # (B, W, 1)
        if self.gate is not None:
            gates = torch.sigmoid(self.gate(evidence))
        gates = only_where(has_image, gates)
        update = only_where(has_image, self.dropout(self.update(evidence)))
        return Collaboration(
            word_states=word_states + gates * update,
            gates=(gates * word_mask[..., None]).squeeze(-1),
            image_attentions=(only_where(has_image, weights),) if output_attentions else (),
        )

    def text_only(self, word_states: torch.Tensor) -> Collaboration:
        return Collaboration(word_states=word_states, gates=word_states.new_zeros(word_states.shape[:2]))


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
        self.words_to_image = CrossModalLayer(config)  # image asks, words answer
        self.image_to_words = CrossModalLayer(config)  # words ask, that answers
        self.visual = CrossModalLayer(config)  # words ask, the image answers
        self.gate = nn.Linear(2 * width, width)
        self.output = nn.Linear(2 * width, width)

    def forward(self, word_states, word_mask, image_states, global_states, has_image, output_attentions=False):
        images = self.image_sequence(image_states, global_states)
        has_words = word_mask.any(dim=1)
        read, _ = self.words_to_image(images, word_states, has_words, key_mask=word_mask)
        words, first = self.image_to_words(word_states, read, has_image, output_attentions=output_attentions)
        visual, second = self.visual(word_states, images, has_image, output_attentions=output_attentions)
        gate = torch.sigmoid(self.gate(torch.cat([word_states, visual], dim=-1)))  # (B, W, H)
        visual = only_where(has_image, gate * visual)
        return Collaboration(
            word_states=self.output(torch.cat([words, visual], dim=-1)),
            image_attentions=(first, second) if output_attentions else (),
        )

    def text_only(self, word_states: torch.Tensor) -> Collaboration:
        layer = self.image_to_words
        words = layer.attention_norm(word_states)
        words = layer.feed_forward_norm(words + layer.dropout(layer.feed_forward(words)))
        return Collaboration(word_states=self.output(torch.cat([words, torch.zeros_like(words)], dim=-1)))


class EvidenceCollaboration(CollaborationModule):
    """
    The image as a second witness: the words pass unchanged, and what the image says of the type of its entity is
    added to their emissions, as in a product of experts. With y_1 .. y_n the types of a sentence's entities, each
    beginning at a word w,

        p(I | y, w) / p(I) = 1/n sum_m (1 - s(w_m)) g(I) + s(w_m) exp f_{y_m}(I)

    where g and f read the image alone (is it one of those that stand beside anything, or one of a person, a place?)
    and s the word: how often is such an entity shown at all? Countries and clubs are, novels are not. `loss` learns
    this ratio from tagged sentences and their images without being told which entity is shown, if any (multiple
    instances, noise-contrastive estimation). `weigh` adds to tag B-y of each word half the logarithm of the ratio with
    an entity of type y there, the other entities being those that the text suggests, less its mean over the types that
    the text has in mind: the image speaks of the type of an entity, never of whether there is one. An image that
    another entity explains says little, and none takes more from a tag than its chance of being unrelated allows.

    Whether an image fits a word in more than the type (a jersey beside "plays for") is not asked: a ratio with such a
    term, learned from some thousands of pairs, told own images from others worse on unseen entities.

    The text model gets no gradient from the image, and no random number: with one seed it is, to the last bit on a
    CPU, the one that is trained without (its gradient is clipped for itself, too, by `TwoMNERTrainer`). The evidence
    enters once an entity, at its first word; IOB2 constraints carry it on.

    Raises:
        ValueError: the labels are not IOB2.
    """

    LARGEST = 6.0  # of the logarithm of a ratio: no image is so telling
    # Two witnesses who share their mistakes count for less than two. On dev, with 1,500 sentences of training, all of
    # the evidence took from sentences with an unrelated image more than it gave to the others; half of it does not.
    WEIGHT = 0.5

    def __init__(self, config: TwoMNERConfig):
        super().__init__(config)
        width = tower_width(config.text_config)
        self.begins = [index for index, label in enumerate(config.labels) if label.startswith("B-")]
        if not self.begins:
            raise ValueError(
                f'The labels are {", ".join(config.labels)}; `collaboration="evidence"` adds the evidence of an image '
                "to IOB2 tags B-X, of which there are none. Give IOB2 labels, or take another collaboration."
            )
        # A dataset shows few images, often: they are learned by heart sooner than words are.
        image_dropout, word_dropout = min(0.5, 5 * config.dropout), min(0.5, 3 * config.dropout)
        self.image_dropout = nn.Dropout(image_dropout)
        self.hidden = nn.Sequential(nn.GELU(), nn.Dropout(image_dropout))
        self.image_types = nn.Linear(width, len(self.begins) + 1)  # f of each type, and g
        self.word_norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(word_dropout))
        self.shown = nn.Linear(width, 1)  # logit of s

    def forward(self, word_states, word_mask, image_states, global_states, has_image, output_attentions=False):
        with drawing_aside(image_states, self.training):  # the words' dropout, later, is as without an image
            image = self._read(self.image_projection, image_states)  # (B, H)
            if self.global_projection is not None:
                image = image + self._read(self.global_projection, global_states)
            image = self.hidden(image)
        evidence = self.image_types(image).float()  # (B, T + 1)
        # Bounded smoothly: what is cut off gets no gradient to come back by.
        evidence = self.LARGEST * torch.tanh(evidence / self.LARGEST)
        return Collaboration(word_states=word_states, image_evidence=only_where(has_image, evidence))

    def _read(self, projection: ImageProjection, states: torch.Tensor) -> torch.Tensor:
        return projection.linear(self.image_dropout(projection.norm(states).mean(dim=1)))

    def _shown(self, word_states: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.shown(self.word_norm(word_states)).float())

    def text_only(self, word_states: torch.Tensor) -> Collaboration:
        return Collaboration(word_states=word_states, gates=word_states.new_zeros(word_states.shape[:2]))

    def weigh(self, logits, fused, word_mask, has_image):
        """As in the base class. A gate is the probability that the word begins the entity that the image shows."""
        if fused.image_evidence is None:
            return logits, fused.gates
        ratios = fused.image_evidence.exp()
        ratio, anything = ratios[:, :-1], ratios[:, -1:]  # (B, T), (B, 1)
        shown = self._shown(fused.word_states)  # (B, W, 1)
        as_shown, as_not = shown * ratio[:, None], (1 - shown) * anything[:, None]  # (B, W, T), (B, W, 1)
        posterior = F.softmax(logits.float(), dim=-1)[..., self.begins] * word_mask[..., None]  # (B, W, T)

        # Of the sentence's other entities: how many the text expects, and how well the image fits them. A grain of one
        # that is not shown lets a sentence have none.
        grain = 0.01
        count, fit = posterior.sum(-1), (posterior * (as_shown + as_not)).sum(-1)  # (B, W)
        others = (count.sum(1, keepdim=True) - count).clamp(min=0) + grain
        others_fit = (fit.sum(1, keepdim=True) - fit).clamp(min=0) + grain * anything
        ratio_there = (others_fit[..., None] + as_shown + as_not) / (others + 1)[..., None]  # (B, W, T)
        there = self.WEIGHT * ratio_there.log()
        types_in_mind = F.log_softmax(logits.float()[..., self.begins], dim=-1)
        bonus = there - torch.logsumexp(types_in_mind + there, dim=-1, keepdim=True)
        bonus = only_where(has_image, bonus * word_mask[..., None])

        columns = dict(zip(self.begins, bonus.unbind(-1), strict=True))
        nothing = torch.zeros_like(bonus[..., 0])
        added = torch.stack([columns.get(tag, nothing) for tag in range(logits.shape[-1])], dim=-1)  # (B, W, K)
        gates = (posterior * as_shown).sum(-1) / (others_fit + fit)
        return logits + added.to(logits.dtype), only_where(has_image, gates)

    def loss(
        self, fused: Collaboration, labels: torch.Tensor, has_image: torch.Tensor, image_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Noise-contrastive estimation of the ratio above: its logarithm is the logit that tells a sentence's own image
        from those of other rows, of every process. The mean over own images and the mean over others, summed; images
        equal to the own one are left out, and 0 is returned if no row has an image and an entity.

        As the losses of `alignment_2mner`: the mean over processes of what they return, and of their gradients, is
        that of one process with all rows, and every process must call it, also with a batch without images.

        Args:
            fused: of `forward`, or of `text_only` where no row has an image.
            labels (`torch.LongTensor` of shape `(batch_size, num_words)`): the tags, -100 where there is none.
            has_image, image_ids (of shape `(batch_size,)`): which rows have an image; equal for equal images. `None`:
                every row has its own.
        """
        evidence = fused.image_evidence
        if evidence is None:
            evidence = torch.zeros(len(labels), len(self.begins) + 1, device=labels.device)
        if image_ids is None:
            image_ids = unshared_image_ids(len(labels), labels.device)
        entities = torch.stack([labels == tag for tag in self.begins], dim=-1).float()  # (B, W, T)
        number = entities.sum(dim=(1, 2))  # (B,)
        shown = self._shown(fused.word_states.detach()) * entities  # (B, W, T)
        shares = shown.sum(dim=1) / number.clamp(min=1)[:, None]  # (B, T)
        shares = torch.cat([shares, 1 - shares.sum(dim=1, keepdim=True)], dim=-1)  # (B, T + 1): and of showing none

        everywhere, images = gather_all([evidence, torch.stack([has_image.long(), image_ids], dim=1)])  # (G, ...)
        own_logits = (shares * evidence.exp()).sum(dim=1).log()  # (B,)
        logits = (shares @ everywhere.exp().T).log()  # (B, G)
        own = has_image & (number > 0)
        others = own[:, None] & images[:, 0].bool() & (image_ids[:, None] != images[:, 1])
        counts = sum_over_processes(torch.stack([own.sum(), others.sum()])).clamp(min=1)
        own_loss = only_where(own, -F.logsigmoid(own_logits)).sum() / counts[0]
        others_loss = only_where(others.flatten(), -F.logsigmoid(-logits).flatten()).sum() / counts[1]
        return world_size() * (own_loss + others_loss)


COLLABORATION_MODULES = {
    "cross_attention": CrossAttentionCollaboration,
    "evidence": EvidenceCollaboration,
    "gated": GatedCollaboration,
    "ungated": GatedCollaboration,
    "umt": UMTCollaboration,
}


__all__ = ["COLLABORATION_MODULES", "Collaboration", "CollaborationModule", "CrossAttention", "only_where"]
