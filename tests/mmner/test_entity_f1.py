"""The scores, against seqeval's own, a brute-force count, and cases worked out by hand; and the `evaluate` module."""

import ast
import logging
import random
import re
import sys
from pathlib import Path

import evaluate
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from mmner import entity_f1
from mmner.entity_f1 import entity_scores, find_entities, groups_of

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
STRICT = {"mode": "strict", "scheme": IOB2}


def random_sentences(seed: int, count: int = 60) -> tuple[list[list[str]], list[list[str]]]:
    """Gold tags that are IOB2, and predictions that often are not."""
    rng = random.Random(seed)
    gold, predicted = [], []
    for _ in range(count):
        tags = []
        for _ in range(rng.randint(0, 9)):
            inside = [f"I-{tags[-1][2:]}"] if tags and tags[-1] != "O" else []
            tags.append(rng.choice(["O", "O", "B-PER", "B-LOC", *inside]))
        gold.append(tags)
        predicted.append([tag if rng.random() < 0.7 else rng.choice(TAGS) for tag in tags])
    return gold, predicted


def counted(sentences) -> set[tuple[int, int, int, str]]:
    """Every stretch of words of every sentence, asked one by one whether it is an entity."""
    found = set()
    for row, tags in enumerate(sentences):
        for start in range(len(tags)):
            for end in range(start + 1, len(tags) + 1):
                kind = tags[start][2:]
                goes_on = all(tag == f"I-{kind}" for tag in tags[start + 1 : end])
                is_whole = end == len(tags) or tags[end] != f"I-{kind}"
                if tags[start] == f"B-{kind}" and goes_on and is_whole:
                    found.add((row, start, end, kind))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_seqeval_and_of_a_brute_force_count(seed):
    gold, predicted = random_sentences(seed)
    languages = [random.Random(row).choice(["en", "de", None]) for row in range(len(gold))]
    relations = ["depicts" if row % 2 else None for row in range(len(gold))]
    gold_spans, predicted_spans = counted(gold), counted(predicted)

    def f1(keep):
        in_gold, in_predicted = ({span for span in spans if keep(span)} for spans in (gold_spans, predicted_spans))
        return pytest.approx(2 * len(in_gold & in_predicted) / (len(in_gold) + len(in_predicted)))

    assert entity_scores(gold, predicted, languages, relations) == {
        "f1": pytest.approx(f1_score(gold, predicted, **STRICT)),
        "precision": pytest.approx(precision_score(gold, predicted, **STRICT)),
        "recall": pytest.approx(recall_score(gold, predicted, **STRICT)),
        **{f"f1_{lang}": f1(lambda span, lang=lang: languages[span[0]] == lang) for lang in ("en", "de")},
        **{f"f1_{kind}": f1(lambda span, kind=kind: span[3] == kind) for kind in ("PER", "LOC")},
        "f1_depicts": f1(lambda span: span[0] % 2),
    }


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (["I-PER", "B-PER", "I-LOC", "I-LOC", "B-PER", "I-PER", "B-PER"], [(1, 2), (4, 6), (6, 7)]),
        (["B-A-", "I-A-", "B--b", "B-creative-work", "I-creative-work"], [(0, 2), (2, 3), (3, 5)]),
        ([], []),
    ],
)
def test_an_entity_begins_with_b_alone_and_its_type_is_not_changed(tags, entities):
    assert find_entities([tags]) == [[(tags[start][2:], start, end) for start, end in entities]]


@pytest.mark.parametrize("tag", ["PER", "E-PER", "B-", "", "B-PER ", 1, None])
def test_a_tag_that_is_none_is_named_with_its_sentence(tag):
    sound, bad = [["O"], ["O", "O", "B-PER"]], [["O"], ["O", "O", tag]]
    message = re.escape(f"Sentence 1 has the tag {tag!r} at word 2; expected IOB2: O, B-TYPE or I-TYPE.")
    for gold, predicted in ((bad, sound), (sound, bad)):
        with pytest.raises(ValueError, match=message):
            entity_scores(gold, predicted)


def test_gold_tags_in_iob1_are_an_error_and_a_few_slips_are_not_counted_as_in_seqeval(caplog):
    gold = [["I-PER", "I-PER", "O", "I-LOC"], ["I-LOC", "B-LOC"]]
    with pytest.raises(ValueError, match="The gold tags are IOB1: 3 entities begin with I-. Convert them to IOB2"):
        entity_scores(gold[:1] + [["I-LOC", "O"]], gold[:1] + [["I-LOC", "O"]])
    gold, predicted = [["B-PER", "I-LOC"], ["I-LOC", "O", "B-LOC"]], [["B-PER", "I-LOC"], ["B-LOC", "O", "B-LOC"]]
    with caplog.at_level(logging.WARNING):
        assert entity_scores(gold, predicted)["f1"] == pytest.approx(f1_score(gold, predicted, **STRICT))
    assert caplog.messages[0].startswith("2 gold I- tags begin an entity, which is not IOB2: these entities are not")
    caplog.clear()
    entity_scores(predicted[1:], gold[1:])  # predictions may be anything
    assert not caplog.messages


def test_only_groups_with_gold_entities_have_a_score(caplog):
    scores = entity_scores([["B-PER"], ["O"], ["B-PER"]], [["B-PER"], ["B-LOC"], ["O"]], ["en", "de", "fr"])
    assert set(scores) == {"f1", "precision", "recall", "f1_en", "f1_fr", "f1_PER"}
    assert scores["precision"] == 0.5 and scores["f1_fr"] == 0.0  # the false one still counts over all
    assert entity_scores([["O"], []], [["B-PER"], []]) == {}
    assert "None of the 2 sentences has a gold entity: there is no score." in caplog.text
    assert entity_scores([["B-none"]], [["B-none"]], ["en"], ["none"])["f1_none"] == 1.0
    assert "The image relation none is left out of the scores" in caplog.text
    groups = groups_of([["B-PER", "I-PER"], ["O", "B-LOC"]], ["fr", "en"], [None, "depicts"])
    assert groups == {"language": ["en", "fr"], "type": ["LOC", "PER"], "image": ["depicts"]}


def test_lengths_that_differ_are_errors():
    with pytest.raises(ValueError, match="1 predicted sentences for 2 gold ones"):
        entity_scores([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match="2 predicted tags for the 1 words of sentence 1"):
        entity_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="1 languages for 2 sentences"):
        entity_scores([["O"], ["O"]], [["O"], ["O"]], ["en"])


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """As a stranger loads it: from another folder, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    return evaluate.load(entity_f1.PATH, cache_dir=str(tmp_path / "cache"))


def test_the_evaluate_module_gives_the_same_scores_whole_or_in_batches(metric):
    gold, predicted = random_sentences(7)
    groups = {"languages": ["en", "de", None] * 20, "relations": ["depicts", None] * 30}
    expected = entity_scores(gold, predicted, *groups.values())
    assert metric.compute(predictions=predicted, references=gold, **groups) == expected
    for start in range(0, 60, 20):
        metric.add_batch(predictions=predicted[start : start + 20], references=gold[start : start + 20])
    assert metric.compute(**groups) == expected


def test_the_evaluate_module_is_one_file_that_imports_nothing_of_ours():
    tree = ast.parse((Path(entity_f1.PATH) / "entity_f1.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    known = {"datasets", "evaluate", "seqeval"} | sys.stdlib_module_names
    assert {name.partition(".")[0] for name in imported} <= known


def test_the_snippet_of_its_readme_gives_what_it_says(metric):
    readme = Path(entity_f1.PATH, "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    exec(snippet.replace("metric.compute(", "scores = metric.compute("), names)
    half = {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert names["scores"] == {**half, "f1_en": 1.0, "f1_de": 0.0, "f1_PER": 1.0, "f1_ORG": 0.0}
