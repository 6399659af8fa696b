"""Consistency rates: truths about rankings, alignment by prompt, clamping, and CREAM's objective with q = C."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from labeling.consistency import (
    RATES,
    Rewards,
    clamped,
    consistency,
    ensemble_consistency,
    kendall,
    pair_agreement,
    spearman,
    top_order,
)
from labeling.errors import DataError, WeakprefWarning
from rm.objectives import bradley_terry

KINDS = pytest.mark.parametrize("kind", RATES)
scores = st.lists(st.integers(-3, 3), min_size=2, max_size=7)
rankings = st.permutations(range(6))


def rewards(rows):
    """Rewards from (prompt, candidate, value)."""
    prompts, candidates, values = zip(*rows, strict=True)
    return Rewards(np.array(prompts), np.array(candidates), np.array(values, dtype=np.float64))


@KINDS
@given(values=scores)
def test_a_model_agrees_with_itself(kind, values):
    expected = 0.5 if len(set(values)) == 1 else 1.0
    assert RATES[kind](values, values) == pytest.approx(expected)


@KINDS
@given(ranking=rankings)
def test_the_reverse_ranking_has_rate_zero(kind, ranking):
    assert RATES[kind](ranking, [-value for value in ranking]) == pytest.approx(0.0)


@KINDS
@given(j=scores, data=st.data())
def test_the_rate_is_symmetric_monotone_free_and_in_the_unit_interval(kind, j, data):
    k = data.draw(st.lists(st.integers(-3, 3), min_size=len(j), max_size=len(j)))
    rate = RATES[kind](j, k)
    assert 0 <= rate <= 1
    assert RATES[kind](k, j) == pytest.approx(rate)
    assert RATES[kind]([math.exp(value) for value in j], [5 * value + 100 for value in k]) == pytest.approx(rate)


@given(rankings, rankings)
def test_without_ties_the_rate_is_the_share_of_pairs_ordered_alike(j, k):
    alike = [(j[a] - j[b]) * (k[a] - k[b]) > 0 for a in range(6) for b in range(a)]
    assert kendall(j, k) == pytest.approx(np.mean(alike))


@pytest.mark.parametrize(("rate", "reference"), [(kendall, kendalltau), (spearman, spearmanr)])
def test_rates_are_scipys_correlations_moved_to_the_unit_interval(rate, reference):
    rng = np.random.default_rng(0)
    for _ in range(50):
        j, k = rng.integers(0, 4, (2, 6))
        if np.ptp(j) and np.ptp(k):
            assert rate(j, k) == pytest.approx((reference(j, k).statistic + 1) / 2)


def test_top_order_compares_best_and_worst_not_first_and_last():
    j, same_ends, other_ends = [2, 9, 1, 5], [3, 8, 0, 4], [2, 5, 9, 1]
    assert top_order(j, same_ends) == 1.0
    assert top_order(j, other_ends) == 0.0
    assert top_order([1, 9, 0, 5], [5, 9, 1, 0]) == 0.0  # the best alone does not do


def test_top_order_counts_the_share_of_tied_ends_in_common():
    assert top_order([2, 2, 1, 0], [2, 1, 1, 0]) == 0.5
    assert top_order([2, 2, 0, 0], [2, 1, 1, 0]) == 0.25
    assert top_order([1, 1, 1, 1], [2, 1, 1, 0]) == 0.5


def test_rates_are_matched_by_prompt_and_candidate_whatever_the_order():
    j = [("p", 0, 1.0), ("p", 1, 2.0), ("q", 0, 1.0), ("q", 1, 2.0)]
    k = [("p", 0, 1.0), ("p", 1, 2.0), ("q", 0, 2.0), ("q", 1, 1.0)]
    found = consistency(rewards(j), rewards(k))
    assert dict(zip(found.prompt_ids, found.rates, strict=True)) == {"p": 1.0, "q": 0.0}
    turned = consistency(rewards(j), rewards(k[::-1]))
    assert turned.rates.tolist() == found.rates.tolist()


def test_a_skipped_prompt_moves_no_other_prompts_rate():
    j = [("lost", 0, 1.0), ("lost", 1, 2.0), ("p", 0, 1.0), ("p", 1, 2.0), ("q", 0, 1.0), ("q", 1, 2.0), ("one", 0, 1)]
    k = [("one", 0, 4.0), ("q", 0, 2.0), ("q", 1, 1.0), ("p", 0, 1.0), ("p", 1, 2.0)]
    found = consistency(rewards(j), rewards(k))
    assert (found.n_unmatched, found.n_single) == (1, 1)
    assert found.of(["q", "p", "q"]).tolist() == [0.0, 1.0, 0.0]
    assert found.mean == 0.5
    with pytest.raises(DataError, match="1 of 1 prompts have no consistency rate, the first is lost"):
        found.of(["lost"])


def test_different_responses_repeats_and_rewards_that_are_no_number_are_named():
    j = rewards([("p", 0, 1.0), ("p", 1, 2.0)])
    with pytest.raises(DataError, match="not the same ones"):
        consistency(j, rewards([("p", 0, 1.0), ("p", 2, 2.0)]))
    with pytest.raises(DataError, match="two rewards"):
        consistency(j, rewards([("p", 0, 1.0), ("p", 0, 2.0)]))
    with pytest.raises(DataError, match=r"row 1 \(prompt p\) is nan"):
        rewards([("p", 0, 1.0), ("p", 1, math.nan)])
    with pytest.raises(DataError, match="no prompt has two"):
        consistency(j, rewards([("other", 0, 1.0), ("other", 1, 2.0)]))
    with pytest.raises(DataError, match="kind is 'pearson'"):
        consistency(j, j, "pearson")


def test_members_of_an_ensemble_are_compared_pair_by_pair():
    ranked = [rewards([("p", i, float(v)) for i, v in enumerate(values)]) for values in ([1, 2], [1, 2], [2, 1])]
    assert ensemble_consistency(ranked).rates.tolist() == pytest.approx([1 / 3])
    with pytest.raises(DataError, match="1 members"):
        ensemble_consistency(ranked[:1])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.randoms())
def test_agreement_on_pairs_is_the_rate_of_rankings_of_two(margins, random):
    other = random.sample(margins, len(margins))
    expected = [kendall([h, 0.0], [g, 0.0]) for h, g in zip(margins, other, strict=True)]
    assert pair_agreement(margins, other).tolist() == pytest.approx(expected)


def test_rates_below_a_half_are_raised_to_it_and_warned_of():
    with pytest.warns(WeakprefWarning, match=r"below 0.5 in 1 of 3 cases \(lowest 0.460\)"):
        assert clamped([0.46, 0.5, 0.9]).tolist() == [0.5, 0.5, 0.9]
    assert clamped(0.7) == 0.7
    with pytest.raises(DataError, match="expected rates"):
        clamped([1.2])


def loss(rate, h):
    h, q = (torch.tensor(float(value), dtype=torch.float64) for value in (h, rate))
    return bradley_terry(h, q).item()


def plain(h):
    """DPO's loss l(h)."""
    return math.log1p(math.exp(-h)) if h > -30 else -h


margins, unit = st.floats(-20, 20), st.floats(0, 1)


@given(margins)
def test_full_consistency_is_plain_dpo(h):
    assert loss(1.0, h) == pytest.approx(plain(h), rel=1e-9)


@given(margins, st.floats(0, 0.5))
def test_consistency_one_minus_e_is_label_smoothing_e(h, e):
    assert loss(1 - e, h) == pytest.approx((1 - e) * plain(h) + e * plain(-h), rel=1e-9)


@given(margins, unit)
def test_a_rate_and_a_margin_mirrored_give_the_same_loss(h, rate):
    assert loss(rate, h) == pytest.approx(loss(1 - rate, -h), rel=1e-9, abs=1e-12)


def test_consistency_of_a_half_has_no_gradient_at_no_margin_and_more_has():
    for rate, gradient in ((0.5, 0.0), (1.0, -0.5), (0.46, 0.04)):
        h = torch.zeros((), dtype=torch.float64, requires_grad=True)
        bradley_terry(h, torch.tensor(rate, dtype=torch.float64)).backward()
        assert h.grad.item() == pytest.approx(gradient, abs=1e-12)
