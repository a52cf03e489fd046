"""A smaller vocabulary: the same hidden states where no token is lost, and any text can still be written."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmner.training.vocabulary import cut_vocabulary

WORDS = ["▁storm", "▁Rome", "▁Ro", "me", "▁rain", "s", "t", "o", "r", "m", "e", "▁", "R", "a", "i", "n", "▁never"]


def tower():
    vocabulary = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocabulary += [(word, -1.0 - 3 * (len(word) < 3)) for word in WORDS] + [("<mask>", 0.0)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "unk", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **names)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), pad_token_id=1, **sizes)
    return BertModel(config, add_pooling_layer=False).eval(), tokenizer


def states(model, tokenizer, text):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state


def test_what_is_used_stays_and_any_text_can_be_written():
    model, tokenizer = tower()
    text = "storm Rome rain"
    before = states(model, tokenizer, text)
    smaller = cut_vocabulary(model, tokenizer, [["storm", "Rome"], ["rain", "storm"]], 20)
    assert len(smaller) == model.config.vocab_size == model.get_input_embeddings().num_embeddings == 20
    assert smaller.tokenize(text) == ["▁storm", "▁Rome", "▁rain"]
    torch.testing.assert_close(states(model, smaller, text), before)
    assert "▁never" not in smaller.get_vocab() and smaller.tokenize("time") == ["▁", "t", "i", "m", "e"]
    assert (smaller.pad_token_id, smaller.mask_token_id, smaller.unk_token_id) == (1, 19, 3)
    assert smaller("storm")["input_ids"][0] == 0 and smaller("storm")["input_ids"][-1] == 2


@pytest.mark.parametrize("size", [5, 100])
def test_sizes_that_are_not_possible(size):
    model, tokenizer = tower()
    with pytest.raises(ValueError, match=f"--vocabulary_size is {size}; expected 16"):
        cut_vocabulary(model, tokenizer, [["storm"]], size)


def test_another_kind_of_vocabulary(towers):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(towers / "text"), AutoTokenizer.from_pretrained(towers / "text")
    with pytest.raises(ValueError, match="--vocabulary_size cuts Unigram vocabularies"):
        cut_vocabulary(model, tokenizer, [["storm"]], 20)
