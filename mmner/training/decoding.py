"""From the emissions of windows to the tags of sentences: one Viterbi a sentence, as the pipeline does it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from crf_2mner import LinearChainCRF
from mmner.data.sentences import IGNORED, WindowedSentences
from mmner.entity_f1 import find_entities

SENTENCES_AT_ONCE = 32


@torch.no_grad()
def entity_posteriors(
    crf: LinearChainCRF, id2label: dict[int, str], predictions: torch.Tensor, emissions: torch.Tensor
) -> torch.Tensor:
    """
    How sure the CRF is of each predicted entity: the probability of these words, and no more, with this type.

    Args:
        predictions: tag ids (B, W), -100 where there is no word.
        emissions: (B, W, K).

    Returns:
        (B, W) float32: the posterior at the first word of each predicted entity, 0 elsewhere.
    """
    mask = predictions != IGNORED
    label2id = {label: index for index, label in id2label.items()}
    tags = [
        [id2label[index] for index in row[:length]]
        for row, length in zip(predictions.tolist(), mask.sum(dim=1).tolist(), strict=True)
    ]
    spans = [
        (row, start, end, label2id[f"B-{kind}"], label2id.get(f"I-{kind}", -1))
        for row, entities in enumerate(find_entities(tags))
        for kind, start, end in entities
    ]
    scores = torch.zeros(predictions.shape, dtype=torch.float32, device=emissions.device)
    if spans:
        places = torch.tensor(spans, device=emissions.device)
        scores[places[:, 0], places[:, 1]] = crf.span_log_prob(emissions.float(), mask, places).exp().float()
    return scores


@torch.no_grad()
def decode_sentences(
    crf: LinearChainCRF, sentences: WindowedSentences, emissions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Decodes each sentence once, over the joined emissions (num_windows, num_words, K) of its windows: each word's are
    those of the window that keeps it.

    Returns:
        Two arrays (num_windows, num_words): the tag ids, -100 where there is no word; and the posterior of each entity
        at its first word, 0 elsewhere.
    """
    shape = emissions.shape[:2]
    predictions, scores = np.full(shape, IGNORED), np.zeros(shape, dtype=np.float32)
    windows_of: dict[int, list[int]] = {}
    for index in sorted(range(len(sentences)), key=lambda index: sentences.windows[index].start):
        windows_of.setdefault(sentences.row_of[index], []).append(index)
    # Sentences of about one length together, or the short ones would be padded to the longest.
    rows = sorted((row for row in windows_of if sentences.tokens[row]), key=lambda row: len(sentences.tokens[row]))
    device = crf.transitions.device
    for first in range(0, len(rows), SENTENCES_AT_ONCE):
        group = rows[first : first + SENTENCES_AT_ONCE]
        joined = [_joined(sentences, windows_of[row], emissions) for row in group]
        lengths = torch.tensor([len(values) for values in joined])
        padded = pad_sequence(joined, batch_first=True).to(device)  # (B, T, K)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).to(device)  # (B, T)
        tags = crf.decode(padded, mask)
        posteriors = entity_posteriors(crf, sentences.id2label, tags, padded).cpu().numpy()
        tags = tags.cpu().numpy()
        for place, row in enumerate(group):
            for index in windows_of[row]:
                start, stop, *_ = sentences.windows[index]
                predictions[index, : stop - start] = tags[place, start:stop]
                scores[index, : stop - start] = posteriors[place, start:stop]
    return predictions, scores


def _joined(sentences: WindowedSentences, indices: Sequence[int], emissions: np.ndarray) -> torch.Tensor:
    """The emissions (T, K) of a sentence, from its windows in order."""
    parts = [(emissions[index], sentences.windows[index]) for index in indices]
    kept = [values[window.keep_start - window.start : window.keep_stop - window.start] for values, window in parts]
    return torch.from_numpy(np.concatenate(kept)).float()
