"""Tiny random towers, for the synthetic probe and the tests, which must not need a download."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    RoFormerConfig,
    RoFormerModel,
    ViTImageProcessorPil,
)

_SPECIAL_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def make_tiny_towers(
    folder: str | Path,
    sentences: Iterable[Sequence[str]],
    *,
    seed: int = 0,
    vocab_size: int = 800,
    text_width: int = 128,
    max_length_tokens: int = 512,
    image_size_px: int = 64,
    image_widths: Sequence[int] = (32, 64, 96),
) -> tuple[Path, Path]:
    """
    Writes a text tower (a RoFormer of two layers) with its tokenizer, and an image tower (a ResNet): untrained, both
    load offline with `AutoModel`, `AutoTokenizer` and `AutoImageProcessor`.

    Args:
        folder: where `text/` and `vision/` are written; they are returned.
        sentences: lists of words that the tokenizer is trained on; give those of the training split alone.
        seed: of the weights; the caller's random state is left as it was.
        vocab_size: tokens, of which 256 are bytes; at least 300.
        text_width: of the RoFormer; a multiple of 4, its number of heads.
        image_size_px: of a side; divisible by `4 * 2 ** (len(image_widths) - 1)`. `image_widths` are the channels of
            the ResNet's stages.

    Raises:
        ValueError: there are no words in the sentences.
    """
    text_folder, vision_folder = Path(folder) / "text", Path(folder) / "vision"
    tokenizer = _train_tokenizer(sentences, vocab_size, max_length_tokens)
    # Rotary positions: a fresh encoder learns to look at neighbouring words several times sooner than BERT does.
    text_config = RoFormerConfig(
        vocab_size=len(tokenizer),
        embedding_size=text_width,
        hidden_size=text_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * text_width,
        max_position_embeddings=max_length_tokens,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision_config = ResNetConfig(
        embedding_size=image_widths[0],
        hidden_sizes=list(image_widths),
        depths=[1] * len(image_widths),
        layer_type="basic",
    )
    image_processor = ViTImageProcessorPil(
        size={"height": image_size_px, "width": image_size_px},
        do_convert_rgb=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text, vision = RoFormerModel(text_config), ResNetModel(vision_config)
    tokenizer.save_pretrained(text_folder)
    text.save_pretrained(text_folder)
    image_processor.save_pretrained(vision_folder)
    vision.save_pretrained(vision_folder)
    return text_folder, vision_folder


def _train_tokenizer(sentences: Iterable[Sequence[str]], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A cased byte-level BPE: every byte is a token, so no word is unknown. A capital letter is always a token of its
    own, so that a new name begins as the names seen in training do."""
    lines = [" ".join(sentence) for sentence in sentences]
    if not any(lines):
        raise ValueError("There are no words to train a tokenizer on: give at least one sentence that is not empty.")
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.Prepend(" ")  # the first word of a text begins like every other
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\p{Lu}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    first, last = _SPECIAL_TOKENS["cls_token"], _SPECIAL_TOKENS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **_SPECIAL_TOKENS,
    )
