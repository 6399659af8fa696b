"""SER's rules as pure functions: anchors, learning status, filters, carry-over (METHODS: arXiv 2411.00418)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from augment.evolve_method import Ground
from augment.learning_status import FORMS, Status, Thresholds, amplified, keep, learning_status, separated
from augment.reward_anchor import ANCHORS, preference, probabilities
from augment.ser import Ser
from labeling.errors import DataError
from rm.objectives import hinge

rewards = arrays(np.float64, (8, 2), elements=st.floats(-4, 4).map(lambda x: round(x, 3)))
FIRST = np.arange(8) < 3
ANY = Thresholds(enough=1)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("form", FORMS)
@given(r=rewards, constant=st.integers(-50, 50))
def test_a_constant_added_to_all_rewards_changes_nothing(anchor, form, r, constant):
    p, moved = (probabilities(values, anchor, FIRST, ~FIRST) for values in (r, r + constant))
    assert np.allclose(p, moved, atol=1e-9)
    assert np.allclose(preference(r), preference(r + constant), atol=1e-9)
    clear = [t for t in (0.55, 0.45) if np.abs(p - t).min() < 1e-6] == [] and np.abs(p[:, 0] - p[:, 1] - 0.3).min() > 0
    if clear and np.abs(np.abs(p[:, 0] - p[:, 1]) - 0.3).min() > 1e-6:
        assert keep(p, ANY, form)[0] == keep(moved, ANY, form)[0]
        assert (keep(p, ANY, form)[1] == keep(moved, ANY, form)[1]).all()


@pytest.mark.parametrize("anchor", ANCHORS)
@given(r=rewards)
def test_exchanging_the_responses_exchanges_their_probabilities_and_keeps_the_same_pairs(anchor, r):
    p, exchanged = (probabilities(x, anchor, FIRST, ~FIRST) for x in (r, r[:, ::-1]))
    assert np.allclose(exchanged, p[:, ::-1], atol=1e-12)
    if np.abs(np.abs(p[:, 0] - p[:, 1]) - 0.3).min() > 1e-9 and np.abs(p - 0.5).min() > 0.051:
        assert (keep(p, ANY)[1] == keep(exchanged, ANY)[1]).all()


def test_anchors_centre_on_what_their_name_says():
    r = np.array([[1.0, 3.0], [10.0, 12.0], [90.0, 95.0]])
    seed, pool = np.array([True, False, False]), np.array([False, True, False])  # the third is watched
    assert probabilities(r, "seed", seed, pool)[0].sum() == pytest.approx(1.0)  # 1 and 3 lie around their mean
    assert probabilities(r, "pool", seed, pool)[1].sum() == pytest.approx(1.0)
    assert probabilities(r, "margin", seed, pool).sum(axis=1).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(DataError, match="no pair of the seed"):
        probabilities(r, "seed", np.zeros(3, dtype=bool), pool)
    with pytest.raises(DataError, match="anchor is 'mean'"):
        probabilities(r, "mean", seed, pool)


P = np.array([[0.9, 0.1], [0.56, 0.44], [0.95, 0.6], [0.5, 0.5], [0.44, 0.1]])


def test_separated_pairs_have_a_good_and_a_bad_response_and_amplified_ones_differ():
    assert separated(P, Thresholds()).tolist() == [True, True, False, False, False]
    assert amplified(P, Thresholds()).tolist() == [True, False, True, False, True]


def test_the_status_asks_for_separation_first_then_for_difference_then_stops():
    assert learning_status(P, Thresholds(enough=2)) == Status.SEPARATE
    assert learning_status(P, Thresholds(enough=3)) == Status.AMPLIFY
    assert learning_status(P, Thresholds(enough=4)) == Status.CONVERGED
    assert learning_status(P, Thresholds(enough=0.4)) == Status.SEPARATE  # a share of five pairs
    assert learning_status(P, Thresholds(enough=0.6)) == Status.AMPLIFY


def test_a_share_of_the_pool_is_a_whole_number_of_pairs_whatever_its_product_is_rounded_to():
    assert 0.07 * 100 > 7
    assert [Thresholds(enough=share).least(100) for share in (0.07, 0.071, 1e-12)] == [7, 8, 1]
    seven = np.repeat(np.array([[0.9, 0.1], [0.5, 0.5]]), [7, 93], axis=0)
    assert learning_status(seven, Thresholds(enough=0.07)) == Status.SEPARATE


def test_the_papers_filter_follows_the_status_and_the_released_one_takes_either_rule():
    assert keep(P, Thresholds(enough=2))[1].tolist() == separated(P, Thresholds()).tolist()
    assert keep(P, Thresholds(enough=3))[1].tolist() == amplified(P, Thresholds()).tolist()
    assert not keep(P, Thresholds(enough=4))[1].any()
    for enough in (2, 3, 4):
        status, kept = keep(P, Thresholds(enough=enough), "as_released")
        assert kept.tolist() == [True, True, True, False, True]
        assert status == Status.SEPARATE
    assert keep(np.array([[0.9, 0.5]]), Thresholds(), "as_released")[0] == Status.AMPLIFY  # one pair is enough
    assert keep(np.full((3, 2), 0.5), Thresholds(enough=1), "as_released")[0] == Status.CONVERGED
    with pytest.raises(DataError, match="form is 'mine'"):
        keep(P, Thresholds(), "mine")


def test_thresholds_out_of_order_are_named():
    with pytest.raises(DataError, match="low, high, delta"):
        Thresholds(high=0.4, low=0.5)
    for enough in (0, float("nan")):
        with pytest.raises(DataError, match="enough above 0"):
            Thresholds(enough=enough)


@pytest.fixture(scope="module")
def ground(make_pairs: Callable) -> Ground:
    """Two pairs of the seed, four of the pool."""
    prompts = [[{"role": "user", "content": f"Question {i}?"}] for i in range(6)]
    pairs = make_pairs([(prompt, "yes", "no") for prompt in prompts], [1.0, 0.0, None, None, None, None])
    return Ground(pairs, np.zeros(6, dtype=bool), pairs.gold)


def margins(*values):
    """Rewards (1, 6, 2) of a model whose margins on the pool are these."""
    h = np.array([1.0, -1.0, *values])
    return np.column_stack([h / 2, -h / 2])[None]


def test_the_paper_trains_on_this_iterations_pairs_and_those_of_the_one_before(ground):
    method = Ser("paper", Thresholds(enough=1))
    first = method.label(1, margins(2, -2, 0, 0), ground, [])
    assert (first.trained.tolist(), first.target[2:4].tolist()) == ([False, False, True, True, False, False], [1, 0])
    second = method.label(2, margins(0, 2, 2, 0), ground, [first])  # pair 2 is carried over, pair 3 changed its mind
    assert second.trained.tolist() == [False, False, True, True, True, False]
    assert second.target[2:5].tolist() == [1, 1, 1]
    assert second.iteration.tolist() == [0, 0, 1, 2, 2, 0]
    third = method.label(3, margins(0, 0, 0, 2), ground, [first, second])  # what iteration 1 kept is gone
    assert third.iteration.tolist() == [0, 0, 0, 2, 2, 3]


def test_what_a_short_training_has_no_room_for_is_kept_all_the_same(ground):
    drawn = np.array([False, False, True, False, False, False])
    for form in FORMS:
        method = Ser(form, Thresholds(enough=1))
        first = replace(method.label(1, margins(2, -2, 0, 0), ground, []), trained=drawn)
        second = method.label(2, margins(0, 0, 2, 0), ground, [first])
        assert second.iteration.tolist() == [0, 0, 1, 1, 2, 0]
        assert second.facts["n_pool"] == (4 if form == "paper" else 2)


def test_as_released_what_is_kept_leaves_the_pool_and_the_rest_goes_back_to_it(ground):
    method = Ser("as_released", Thresholds(enough=1))
    first = method.label(1, margins(2, -2, 0, 0), ground, [])
    assert first.facts["n_pool"] == 4
    second = method.label(2, margins(-2, 2, 2, 0), ground, [first])  # pairs 2 and 3 are no longer asked
    assert second.facts["n_pool"] == 2
    assert second.iteration.tolist() == [0, 0, 1, 1, 2, 0]
    assert second.target[2:5].tolist() == [1, 0, 1]
    last = method.label(3, margins(2, 2, 2, 0), ground, [first, second])
    assert (last.status, last.facts["n_pool"]) == ("converged", 1)


def test_of_equal_rewards_none_is_preferred(ground):
    method = Ser("paper", Thresholds(delta=0.0, enough=1))
    labels = method.label(1, margins(0, 0, 0.001, 0), ground, [])
    assert labels.trained.tolist() == [False, False, False, False, True, False]
    assert method.label(1, margins(0, 0, 0, 0), ground, []).status == "converged"


def test_a_model_that_sees_no_difference_has_converged(ground):
    for form in FORMS:
        labels = Ser(form, Thresholds(enough=1)).label(1, margins(0, 0, 0, 0), ground, [])
        assert labels.status == "converged"
        assert not labels.trained.any()


def test_hard_labels_under_the_hinge_ask_for_a_margin_and_no_more():
    h = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0])
    assert hinge(h, torch.ones(5), 1.0).tolist() == [2.0, 1.0, 0.5, 0.0, 0.0]
