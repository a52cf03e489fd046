"""Cuts the vocabulary of a text tower to what its training sentences need: a smaller model, about as many tokens."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast


def cut_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: Iterable[Sequence[str]], size: int
) -> PreTrainedTokenizerFast:
    """
    Keeps the most frequent tokens of a text tower and, so that any text can still be written, all single characters.

    Args:
        model: the text tower; its embeddings become those of the tokens that are kept.
        tokenizer: of the tower, a Unigram model (XLM-R, multilingual E5, T5, ...).
        sentences: words, among which the tokens are counted; of equally frequent ones the likelier is kept.
        size: the number of tokens to keep.

    Returns:
        The tokenizer of the smaller tower.

    Raises:
        ValueError: the tokenizer is no Unigram model, or has too few tokens, or too many single characters.
    """
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    if data["model"]["type"] != "Unigram":
        raise ValueError(
            f"--vocabulary_size cuts Unigram vocabularies; the text tower's is {data['model']['type']}: leave it out."
        )
    vocabulary = data["model"]["vocab"]  # [token, log-probability], in the order of ids
    special = {token["content"] for token in data["added_tokens"]}
    kept = {
        index for index, (token, _) in enumerate(vocabulary) if token in special or len(token.removeprefix("▁")) <= 1
    }
    if not len(kept) <= size <= len(vocabulary):
        raise ValueError(
            f"--vocabulary_size is {size}; expected {len(kept)} (special tokens and characters) to {len(vocabulary)}."
        )
    counts: Counter[int] = Counter()
    for ids in tokenizer(list(map(list, sentences)), is_split_into_words=True, add_special_tokens=False)["input_ids"]:
        counts.update(ids)
    by_use = sorted(range(len(vocabulary)), key=lambda index: (-counts[index], -vocabulary[index][1]))
    kept.update([index for index in by_use if index not in kept][: size - len(kept)])
    old_ids = sorted(kept)
    new_ids = {vocabulary[old][0]: new for new, old in enumerate(old_ids)}

    data["model"]["vocab"] = [vocabulary[old] for old in old_ids]
    data["model"]["unk_id"] = old_ids.index(data["model"]["unk_id"])
    for token in data["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    for token in data["post_processor"].get("special_tokens", {}).values():
        token["ids"] = [new_ids[name] for name in token["tokens"]]
    embeddings = model.get_input_embeddings().weight.detach()[old_ids]
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(embeddings)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        smaller = AutoTokenizer.from_pretrained(folder)
    model.config.pad_token_id = smaller.pad_token_id
    return smaller


__all__ = ["cut_vocabulary"]
