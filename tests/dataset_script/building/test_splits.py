"""Splits by identity: nothing that must be unseen is in two splits, and what they cost is told."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_script.building.splits import keep_given, resplit

ROWS = 40
pairs_of_rows = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=20)
row_and_thing = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 15)), max_size=60, unique=True)


def pairs(items):
    return np.array(items, np.int64).reshape(-1, 2)


@settings(max_examples=200, deadline=None)
@given(pairs_of_rows, row_and_thing, st.integers(0, 5))
def test_resplit_parts_nothing_that_belongs_together(together, ties, seed):
    assignment = resplit(ROWS, (0.6, 0.2, 0.2), seed, pairs(together), pairs(ties))
    split = assignment.split
    kept = [(row, thing) for row, thing in ties if split[row] >= 0]
    for thing in {thing for _, thing in kept}:
        assert len({split[row] for row, other in kept if other == thing}) == 1
    for first, second in together:
        if split[first] >= 0 and split[second] >= 0:
            assert split[first] == split[second]
    assert assignment.left_out.total() == (split < 0).sum()
    again = resplit(ROWS, (0.6, 0.2, 0.2), seed, pairs(together), pairs(ties))
    assert (again.split == split).all()


def test_resplit_without_ties_leaves_no_row_out_and_obtains_the_shares():
    split = resplit(20_000, (0.7, 0.1, 0.2), 3, pairs([]), pairs([])).split
    assert np.allclose(np.bincount(split) / 20_000, (0.7, 0.1, 0.2), atol=0.01)
    other = resplit(20_000, (0.7, 0.1, 0.2), 4, pairs([]), pairs([])).split
    assert (other != split).any()


def test_resplit_gives_an_entity_that_is_everywhere_a_split_of_its_own():
    # Entity 0 is in half of the rows, the others in two each: one component, were it not for entity 0.
    rows = 2000
    ties = pairs([(row, 1 + row // 2) for row in range(rows)] + [(row, 0) for row in range(0, rows, 2)])
    assignment = resplit(rows, (0.8, 0.1, 0.1), 0, pairs([]), ties)
    assert assignment.hubs == 1
    counts = np.bincount(assignment.split[assignment.split >= 0], minlength=3)
    assert (counts > 0).sum() > 1, "the rows are not all tied to one split"
    with_hub = assignment.split[::2]
    assert len(set(with_hub[with_hub >= 0])) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=ROWS, max_size=ROWS), pairs_of_rows, row_and_thing)
def test_keep_given_leaves_out_training_for_the_sake_of_testing(given_splits, together, ties):
    assignment = keep_given(np.array(given_splits, np.int8), pairs(together), pairs(ties))
    # The obvious way: a row goes if one of a later split hangs together with it, or shares an entity with it.
    groups = [{row} for row in range(ROWS)]
    for first, second in together:
        merged = next(g for g in groups if first in g) | next(g for g in groups if second in g)
        groups = [group for group in groups if not group & merged] + [merged]
    leaking = {
        row for group in groups for row in group if given_splits[row] < max(given_splits[other] for other in group)
    }
    for row, thing in ties:
        if any(given_splits[other] > given_splits[row] for other, same in ties if same == thing):
            leaking.add(row)
    assert {int(row) for row in np.flatnonzero(assignment.split < 0)} == leaking
    assert assignment.left_out.total() == len(leaking)
    kept = assignment.split >= 0
    assert (assignment.split[kept] == np.array(given_splits)[kept]).all()
