"""Choosing pairs for a training budget."""

from __future__ import annotations

import numpy as np
import pytest

from augment import choose
from labeling.errors import DataError, WeakprefWarning

TURNS = [{"role": "user", "content": "Why?"}]


@pytest.fixture
def pairs(make_pairs):
    rows = [([{"role": "user", "content": f"Why {i}?"}], "yes", "no") for i in range(100)]
    return make_pairs(rows, [1.0 if i < 10 else None for i in range(100)])


P_A = np.linspace(0.01, 0.99, 100)


def test_all_gold_is_kept_and_the_budget_is_met_from_the_surer_half(pairs):
    chosen = choose(pairs, P_A, 40)
    assert chosen[:10].all()
    assert chosen.sum() == 40
    confidence = np.abs(P_A - 0.5)[10:]
    assert confidence[chosen[10:]].min() >= np.median(confidence)


def test_gold_goes_before_the_budget_and_the_surer_half_is_the_most_there_is(pairs):
    with pytest.warns(WeakprefWarning, match="10 pairs have gold and all are chosen, though n is 3"):
        assert choose(pairs, P_A, 3).sum() == 10
    assert choose(pairs, P_A, 1000).sum() == 10 + 45


def test_of_equally_sure_pairs_no_more_than_half_are_the_surer_half(pairs):
    p_a = np.where(np.arange(100) % 2, 0.95, 0.51)  # 45 weak pairs of each
    assert np.abs(p_a - 0.5)[choose(pairs, p_a, 55)].min() >= 0.01  # gold pairs are chosen whatever they are
    assert (p_a[choose(pairs, p_a, 1000)][10:] == 0.95).all()
    p_a[10:14] = 0.95  # two more
    chosen = choose(pairs, p_a, 1000)
    assert chosen.sum() == 10 + 45
    assert (p_a[chosen][10:] == 0.95).all()
    order = np.random.default_rng(1).permutation(100)
    assert (choose(pairs.take(order), p_a[order], 1000) == chosen[order]).all()


@pytest.mark.parametrize("wrong", [np.nan, 2.0, -0.1])
def test_a_weak_pair_without_a_probability_is_named_and_a_gold_one_needs_none(pairs, wrong):
    known, unknown = P_A.copy(), P_A.copy()
    known[3], unknown[30] = wrong, wrong
    assert (choose(pairs, known, 40) == choose(pairs, P_A, 40)).all()
    with pytest.raises(DataError, match=rf"p_a is {wrong:g} in row 30 \(1 such rows\)"):
        choose(pairs, unknown, 40)


def test_pairs_nobody_knows_anything_of_are_never_chosen(pairs):
    assert choose(pairs, np.full(100, 0.5), 50).sum() == 10


def test_the_choice_depends_on_the_seed_and_not_on_row_order(pairs):
    first = choose(pairs, P_A, 30, seed=1)
    assert (first == choose(pairs, P_A, 30, seed=1)).all()
    assert (first != choose(pairs, P_A, 30, seed=2)).any()
    order = np.random.default_rng(0).permutation(100)
    assert (choose(pairs.take(order), P_A[order], 30, seed=1) == first[order]).all()


def test_bad_input_is_named(pairs):
    with pytest.raises(DataError, match="n is 0"):
        choose(pairs, P_A, 0)
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        choose(pairs, [0.1, 0.2, 0.3], 5)
