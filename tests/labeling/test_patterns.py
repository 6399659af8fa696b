"""Patterns of votes: counts as in the rows, and no order or exchange leaves a trace."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling import patterns as patterns_module
from labeling.checks import gold_lead
from labeling.patterns import find_patterns, merged, oriented, row_sums
from labeling.votes import VoteMatrix

FIELDS = ("signs", "forward", "backward", "labelled", "lead")


def draw(n=300, m=4, seed=0, coverage=0.6, kinds=40):
    """Votes of m voters, named out of order, on n pairs that repeat `kinds` different rows; gold for some."""
    rng = np.random.default_rng(seed)
    rows = np.where(rng.random((kinds, m)) < coverage, rng.integers(0, 2, (kinds, m)), -1).astype(np.int8)
    rows[0] = -1
    votes = rows[rng.integers(0, kinds, n)]
    names = tuple(f"v{j}" for j in rng.permutation(m))
    gold = rng.choice([0.0, 0.2, 0.5, 1.0, np.nan], n, p=[0.1, 0.1, 0.1, 0.1, 0.6])
    matrix = VoteMatrix(votes, np.full((n, m), np.nan, np.float32), names, np.array([f"p{i}" for i in range(n)]))
    return matrix, gold_lead(gold)


def same(one, other):
    return one.names == other.names and all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


@pytest.mark.parametrize("m", [1, 2, 5, 14, 33, 34, 70])
def test_counts_and_leads_are_those_of_the_rows(m):
    votes, lead = draw(m=m)
    found = find_patterns(votes, lead)
    order = np.argsort(votes.names)
    rows = [tuple(row) for row in votes.signs[:, order].tolist()]
    assert found.names == tuple(sorted(votes.names))
    count = Counter(rows)
    gold = Counter(row for row, known in zip(rows, ~np.isnan(lead), strict=True) if known)
    for k, signs in enumerate(found.signs.tolist()):
        mirror = tuple(-s for s in signs)
        assert next((s for s in signs if s), 1) == 1
        assert found.forward[k] == count[tuple(signs)]
        assert found.labelled[0, k] == gold[tuple(signs)]
        if any(signs):
            assert found.backward[k] == count[mirror]
            assert found.labelled[1, k] == gold[mirror]
        for way, row in enumerate([tuple(signs), mirror] if any(signs) else [tuple(signs)]):
            at = [row == other and not np.isnan(x) for other, x in zip(rows, lead, strict=True)]
            assert found.lead[way, k] == lead[at].sum()
    assert found.forward.sum() + found.backward.sum() == len(votes)
    assert len({tuple(signs) for signs in found.signs.tolist()}) == len(found.signs)


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 14, 40]), st.booleans())
def test_order_of_rows_and_voters_leaves_no_trace(seed, m, labelled):
    votes, lead = draw(60, m, seed)
    rng = np.random.default_rng(seed)
    lead = lead if labelled else np.full(60, np.nan)
    rows = rng.permutation(60)
    other = votes.take(rows).select([votes.names[j] for j in rng.permutation(m)])
    assert same(find_patterns(votes, lead), find_patterns(other, lead[rows]))


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 14, 40]), st.booleans())
def test_exchanged_votes_have_the_same_oriented_patterns(seed, m, labelled):
    votes, lead = draw(30, m, seed, kinds=8)
    one = oriented(find_patterns(votes, lead if labelled else None))
    other = oriented(find_patterns(votes.swap(), -lead if labelled else None))
    assert same(one, other)
    assert one.symmetric == other.symmetric
    assert one.symmetric or one.exchanged != other.exchanged


def test_rows_of_which_half_are_mirrored_are_symmetric_unless_gold_leans():
    votes, lead = draw(50)
    both = VoteMatrix(
        np.concatenate([votes.votes, votes.swap().votes]), np.full((100, 4), np.nan, np.float32), votes.names,
        np.arange(100).astype(str),
    )  # fmt: skip
    mirrored = np.concatenate([lead, -lead])
    assert oriented(find_patterns(both)).symmetric
    assert oriented(find_patterns(both, mirrored)).symmetric
    ties_in_the_first_half = np.repeat([0, np.nan], 50)
    assert not oriented(find_patterns(both, ties_in_the_first_half)).symmetric
    leaning = np.where(np.isnan(mirrored), np.nan, 0.25)
    assert not oriented(find_patterns(both, leaning)).symmetric


@pytest.mark.parametrize("m", [6, 14])
def test_counting_in_a_table_sorting_and_several_words_agree(m, monkeypatch):
    votes, lead = draw(m=m)
    found = {}
    for way, table, word in (("table", 3**14, 33), ("sorted", 1, 33), ("words", 1, 5)):
        monkeypatch.setattr(patterns_module, "MAX_TABLE", table)
        monkeypatch.setattr(patterns_module, "WORD", word)
        found[way] = find_patterns(votes, lead)
    assert same(found["table"], found["sorted"])
    assert same(found["table"], found["words"])


def test_more_rows_than_a_batch_are_counted_once_each(monkeypatch):
    votes, lead = draw(500)
    whole = find_patterns(votes, lead)
    monkeypatch.setattr(patterns_module, "BATCH", 64)
    monkeypatch.setattr(patterns_module, "BLOCK", 7)
    assert same(find_patterns(votes, lead), whole)


@pytest.mark.parametrize("m", [4, 14, 40])
def test_parts_merge_into_the_patterns_of_the_whole(m):
    votes, lead = draw(m=m)
    parts = [slice(0, 10), slice(10, 200), slice(200, 300)]
    found = [find_patterns(votes.take(np.arange(300)[part]), lead[part]) for part in parts]
    assert same(merged(found), find_patterns(votes, lead))
    bare = [find_patterns(votes.take(np.arange(300)[part])) for part in parts]
    assert same(merged(bare), find_patterns(votes))


def test_row_sums_add_what_each_vote_says_wherever_the_row_stands():
    votes, _ = draw(m=9)
    says = np.random.default_rng(0).normal(size=(9, 3))
    sums = row_sums(votes, says, start=0.5)
    expected = 0.5 + says[np.arange(9), votes.votes.astype(int)].sum(axis=1)
    np.testing.assert_allclose(sums, expected, atol=1e-12)
    order = np.random.default_rng(1).permutation(9)
    shuffled = votes.take(np.arange(300)[::-1]).select([votes.names[j] for j in order])
    assert np.array_equal(row_sums(shuffled, says[order], start=0.5), sums[::-1])


def test_gold_leads_of_exchanged_pairs_are_exact_negatives():
    gold = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, np.nan])
    assert np.array_equal(gold_lead(1 - gold), -gold_lead(gold), equal_nan=True)
