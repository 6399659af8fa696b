"""Guards: what is measured of self-labels, and an alarm that fires on drift and not without it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from augment.drift_guards import CALIBRATION_WORSENED, Watched, alarms, drift_figures, label_figures
from augment.self_labels import SelfLabels
from labeling.antisymmetric import sigmoid
from labeling.errors import WeakprefWarning

N = 400


def watched(scale=1.0, noise=0.0, seed=0):
    """A model whose margins are logit(P(gold)) times a factor: 1 is calibrated, more is over-confident."""
    rng = np.random.default_rng(seed)
    h = rng.normal(0, 1.5, N)
    gold = (np.random.default_rng(seed + 1).random(N) < sigmoid(h)).astype(float)
    noisy = h + noise * np.random.default_rng(seed + 2).normal(size=N)
    return Watched(sigmoid(scale * noisy), gold, np.array([f"g{i // 4}" for i in range(N)]))


def test_the_alarm_goes_off_by_name_where_a_loop_grows_surer_but_not_better():
    with pytest.warns(WeakprefWarning, match=r"calibration-worsened: in iteration 2 .* 400 watched pairs"):
        assert alarms(watched(scale=4.0), watched(), 2) == [CALIBRATION_WORSENED]


def test_the_alarm_says_which_way_the_calibration_went():
    with pytest.warns(WeakprefWarning, match="the loop confirms its own errors: use an earlier iteration"):
        alarms(watched(scale=4.0), watched(), 2)
    timid = r"less sure \(0\.5\d\) than it is right \(0\.7\d\): "
    with pytest.warns(WeakprefWarning, match=timid + "if it is right as often as before, weakpref calibrate"):
        alarms(watched(scale=0.1), watched(), 2)
    with pytest.warns(WeakprefWarning, match=timid + "use more gold"):
        alarms(watched(scale=0.1), watched(), 2, rewards=False)


@pytest.mark.parametrize("seed", range(10))
def test_the_alarm_is_quiet_where_only_chance_moves_the_figures(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alarms(watched(noise=0.1, seed=3 * seed), watched(seed=3 * seed), 2) == []
        assert alarms(watched(seed=3 * seed), watched(scale=2.0, seed=3 * seed), 2) == []  # it became better
        assert alarms(watched(), None, 1) == alarms(None, watched(), 1) == []


def labels(p_a, trained, margin=None):
    n = len(p_a)
    margin = np.log(p_a / (1 - p_a)) if margin is None else margin
    nothing = np.full(n, np.nan)
    target = np.where(trained, p_a, np.nan)
    return SelfLabels(
        p_a, margin, nothing, trained, target, np.ones(n), np.where(trained, 1, 0).astype(np.int32), nothing
    )


def test_figures_are_of_the_pool_and_of_what_is_trained_on_against_hidden_labels():
    p_a = np.array([0.9, 0.8, 0.3, 0.6])
    found = label_figures(
        labels(p_a, np.array([False, True, True, False])), np.array([False, True, True, True]),
        np.array([0.0, 1.0, 1.0, 1.0]), np.ones(4),
    )  # fmt: skip
    assert found["label_accuracy"] == pytest.approx(2 / 3)
    assert found["trained_accuracy"] == 0.5
    unknown = label_figures(labels(p_a, np.ones(4, bool)), np.ones(4, bool), np.full(4, np.nan), np.ones(4))
    assert set(unknown.values()) == {None}


def test_length_drift_is_measured_against_the_seeds_own_labels():
    longer = np.array([5.0, -5.0, 10.0, 20.0, -3.0, 0.0])
    pool = np.array([False, False, True, True, True, True])
    gold = np.array([1.0, 1.0, np.nan, np.nan, np.nan, np.nan])  # the longer one wins in half of the seed
    p_a = np.array([0.5, 0.5, 0.9, 0.8, 0.2, 0.9])  # and in all of the labels; lengths tie in the last
    found = drift_figures(labels(p_a, pool), None, pool, gold, longer)
    assert (found["longer_share"], found["length_drift"]) == (1.0, 0.5)
    margin = np.log(p_a / (1 - p_a))[pool]
    assert found["reward_length_correlation"] == pytest.approx(np.corrcoef(margin, longer[pool])[0, 1])
    votes = {"no model": np.full(6, np.nan), "a model": np.array([9.0, np.nan, 1.0, 3.0, 2.0, np.nan])}
    of = {who: drift_figures(labels(p_a, pool, margin), None, pool, gold, longer) for who, margin in votes.items()}
    assert of["no model"]["margin_length_correlation"] is None
    seen = np.corrcoef([1.0, 3.0, 2.0], [10.0, 20.0, -3.0])[0, 1]
    assert of["a model"]["margin_length_correlation"] == pytest.approx(seen)
    assert (found["kept"], found["kept_share"], found["consistency_rate"]) == (4, 1.0, None)


def test_length_bias_is_measured_against_the_true_labels_of_the_same_pairs():
    longer = np.array([5.0, -5.0, 10.0, 20.0, -3.0, 0.0, 4.0, 4.0])
    p_a = np.array([0.1, 0.9, 0.9, 0.8, 0.2, 0.9, 0.9, 0.9])  # the longer one wins but for the seed
    hidden = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5, np.nan])  # on three that are known it wins twice
    pool = np.array([False, False, True, True, True, True, True, True])
    assert label_figures(labels(p_a, pool), pool, hidden, longer)["length_bias"] == pytest.approx(1 / 3)
    assert label_figures(labels(p_a, pool), pool, hidden, -longer)["length_bias"] == pytest.approx(-1 / 3)
    few = pool & (np.arange(8) == 3)
    assert label_figures(labels(p_a, few), pool, hidden, longer)["length_bias"] == 1.0  # of what is trained on


def test_the_consistency_rate_is_the_share_of_the_pool_that_kept_its_preference():
    pool = np.array([True, True, True, False])
    before = labels(np.array([0.9, 0.2, 0.7, 0.9]), pool)
    now = labels(np.array([0.6, 0.7, 0.5, 0.1]), pool)
    found = drift_figures(now, before, pool, np.full(4, np.nan), np.ones(4))
    assert found["consistency_rate"] == 0.5  # same, opposite, a tie
    assert found["length_drift"] is None
