"""
Entity-level precision, recall and F1: micro-averaged, strict IOB2 as seqeval reads it; by language, type and image.

An `evaluate` module in one file: `evaluate.load(mmner.entity_f1.PATH)`. Training calls the same `entity_scores`.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import datasets
import evaluate
from seqeval.scheme import IOB2, Entities

logger = logging.getLogger(__name__)

TAG = re.compile(r"O|[BI]-(\S|\S.*\S)")
Span = tuple[str, int, int]  # type, first word, last word + 1


def find_entities(sentences: Sequence[Sequence[str]]) -> list[list[Span]]:
    """
    The entities `(type, start, end)` of each sentence's IOB2 tags, in words, `end` exclusive. Strictly: an `I-` that
    continues nothing of its type begins no entity.

    Raises:
        ValueError: a tag is none of `O`, `B-TYPE` and `I-TYPE`.
    """
    for row, tags in enumerate(sentences):
        for position, tag in enumerate(tags):
            if not isinstance(tag, str) or not TAG.fullmatch(tag):
                raise ValueError(
                    f"Sentence {row} has the tag {tag!r} at word {position}; expected IOB2: O, B-TYPE or I-TYPE."
                )
    found = Entities(sentences, scheme=IOB2).entities
    # The type as it stands: seqeval takes hyphens off its ends.
    return [
        [(tags[entity.start][2:], entity.start, entity.end) for entity in entities]
        for tags, entities in zip(sentences, found, strict=True)
    ]


def entity_scores(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    languages: Sequence[str | None] = (),
    relations: Sequence[str | None] = (),
) -> dict[str, float]:
    """
    Scores of a set of sentences.

    Args:
        gold, predicted: IOB2 tags of the words, sentence by sentence.
        languages, relations: of each sentence, its language and how its image relates to it; empty, or `None` in a
            sentence, where that is not known.

    Returns:
        `precision`, `recall`, `f1` over all, `f1_{lang}`, `f1_{TYPE}`, `f1_{relation}`, all in [0, 1]. A group
        without a gold entity has no score.

    Raises:
        ValueError: the numbers of sentences, words, languages or relations differ; a tag is none of IOB2; or the gold
            tags are IOB1.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predicted sentences for {len(gold)} gold ones; expected one for each.")
    for row, (tags, others) in enumerate(zip(gold, predicted, strict=True)):
        if len(tags) != len(others):
            raise ValueError(f"{len(others)} predicted tags for the {len(tags)} words of sentence {row}.")
    for name, groups in (("languages", languages), ("relations", relations)):
        if len(groups) not in (0, len(gold)):
            raise ValueError(f"{len(groups)} {name} for {len(gold)} sentences; expected one (or None) for each.")
    gold_spans = [(row, *span) for row, spans in enumerate(find_entities(gold)) for span in spans]
    predicted_spans = [(row, *span) for row, spans in enumerate(find_entities(predicted)) for span in spans]
    _check_scheme(gold)
    correct_spans = set(gold_spans) & set(predicted_spans)

    if not gold_spans:
        logger.warning(f"None of the {len(gold)} sentences has a gold entity: there is no score.")
        return {}

    correct, predicted_count = len(correct_spans), len(predicted_spans)
    scores = {
        "f1": 2 * correct / (len(gold_spans) + predicted_count),
        "precision": correct / predicted_count if predicted_count else 0.0,
        "recall": correct / len(gold_spans),
    }
    groupings: dict[str, Callable[[tuple], str | None]] = {"type": lambda span: span[1]}
    if len(languages):
        groupings = {"language": lambda span: languages[span[0]], **groupings}
    if len(relations):
        groupings["image relation"] = lambda span: relations[span[0]]
    for kind, group_of in groupings.items():
        in_gold, in_predicted, in_both = (
            Counter(map(group_of, spans)) for spans in (gold_spans, predicted_spans, correct_spans)
        )
        for group in sorted(in_gold, key=str):
            if f"f1_{group}" in scores:
                logger.warning(f"The {kind} {group} is left out of the scores: f1_{group} stands for something else.")
            elif group is not None:
                scores[f"f1_{group}"] = 2 * in_both[group] / (in_gold[group] + in_predicted[group])
    return scores


def _check_scheme(gold: Sequence[Sequence[str]]) -> None:
    """Raises a `ValueError` for gold tags in IOB1, and warns of an `I-` that begins an entity: it does not count."""
    begins = Counter(
        tag[0]
        for tags in gold
        for before, tag in zip(("O", *tags), tags, strict=False)
        if tag != "O" and before[2:] != tag[2:]
    )
    if begins["I"] and not begins["B"]:
        raise ValueError(f"The gold tags are IOB1: {begins['I']} entities begin with I-. Convert them to IOB2.")
    if begins["I"]:
        logger.warning(
            f"{begins['I']} gold I- tags begin an entity, which is not IOB2: these entities are not counted."
        )


def groups_of(
    gold: Iterable[Sequence[str]], languages: Iterable[str | None], relations: Iterable[str | None]
) -> dict[str, list[str]]:
    """The names that `entity_scores` may report, under the headings of a report."""
    types = {tag[2:] for tags in gold for tag in tags if tag != "O"}
    return {
        "language": sorted({name for name in languages if name is not None}),
        "type": sorted(types),
        "image": sorted({name for name in relations if name is not None}),
    }


_INPUTS = """
Args:
    predictions, references (`list[list[str]]`): predicted and gold IOB2 tags of the words, sentence by sentence.
    languages, relations (`list[str | None]`, *optional*): of each sentence, its language and how its image relates.

Returns:
    `f1`, `precision`, `recall` over all entities; `f1_{language}`, `f1_{TYPE}`, `f1_{relation}`; all in [0, 1].
"""


class EntityF1(evaluate.Metric):
    """The scores of `entity_scores`, as an `evaluate` metric: batches may be added one by one."""

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Entity-level precision, recall and F1, micro-averaged, strict IOB2; by language and type.",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        languages: Sequence[str | None] = (),
        relations: Sequence[str | None] = (),
    ) -> dict[str, float]:
        return entity_scores(references, predictions, languages, relations)


__all__ = ["EntityF1", "entity_scores", "find_entities", "groups_of"]
