"""Test sentences otherwise than they were written: what changes, and what stays beside it."""

import datasets

from benchmarks.robust import WAYS, changed

LABELS = ["O", "B-LOC", "I-LOC"]


def test_text_changes_and_all_else_stays():
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=LABELS)),
        }
    )
    data = {"id": ["7", "8"], "tokens": [["In", "New", "York", "!"], ["No", "."]], "ner_tags": [[0, 1, 2, 0], [0, 0]]}
    rows = datasets.Dataset.from_dict(data, features=features)
    found = {way: changed(rows, way) for way in WAYS}
    assert all(made.features == features and made["id"][:] == ["7", "8"] for made in found.values())
    assert found["as written"][:] == rows[:]
    assert found["capitals"]["tokens"][:] == [["IN", "NEW", "YORK", "!"], ["NO", "."]]
    last = found["lower case, no punctuation"]
    assert last["tokens"][:] == [["in", "new", "york"], ["no"]]
    assert last["ner_tags"][:] == [[0, 1, 2], [0]]
