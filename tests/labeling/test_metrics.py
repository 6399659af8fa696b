"""Metrics against hand-made figures, scikit-learn, and their own symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from labeling.errors import GoldError
from labeling.figures import measure
from labeling.metrics import accuracy, accuracy_interval, brier, ece, interval, log_loss, reliability

METRICS = [accuracy, log_loss, brier, ece]


def draw(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    return p, (rng.random(n) < p).astype(float)


def test_log_loss_and_brier_agree_with_scikit_learn():
    p, gold = draw()
    assert log_loss(p, gold) == pytest.approx(sklearn_log_loss(gold, p))
    assert brier(p, gold) == pytest.approx(brier_score_loss(gold, p))


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 1000))
def test_swapping_the_responses_changes_no_metric(metric, seed):
    p, gold = draw(50, seed)
    assert metric(1 - p, 1 - gold) == pytest.approx(metric(p, gold), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_unlabelled_rows_are_left_out(metric):
    p, gold = draw(100)
    some = np.where(np.arange(100) < 40, gold, np.nan)
    assert metric(p, some) == metric(p[:40], gold[:40])


def test_a_calibrated_probability_has_an_ece_at_noise_level_and_a_sharpened_one_has_not():
    p, gold = draw(20_000)
    sharp = p**3 / (p**3 + (1 - p) ** 3)
    assert ece(p, gold) < 0.015
    assert ece(sharp, gold) > 0.05


def test_ece_is_the_weighted_gap_of_the_reliability_diagram():
    p = np.array([0.9, 0.9, 0.1, 0.6, 0.4])
    gold = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    diagram = reliability(p, gold)
    np.testing.assert_allclose(diagram.confidence, [0.6, 0.9])
    np.testing.assert_allclose(diagram.preferred_share, [0.5, 2 / 3])
    assert diagram.n_pairs.tolist() == [2, 3]
    assert ece(p, gold) == pytest.approx((2 * 0.1 + 3 * (0.9 - 2 / 3)) / 5)


def test_ties_count_half_in_calibration_and_not_in_accuracy():
    assert ece([0.5, 0.5], [0.5, 0.5]) == 0
    assert ece([1.0, 1.0], [0.5, 0.5]) == 0.5
    assert np.isnan(accuracy([0.7], [0.5]))


@pytest.mark.slow
def test_the_interval_covers_the_truth_in_about_95_of_100_draws():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        gold = (rng.random(200) < 0.7).astype(float)
        low, high = interval(accuracy, np.full(200, 0.9), gold, seed=seed, resamples=300)
        hits += low <= 0.7 <= high
    assert 88 <= hits <= 100


def test_groups_widen_the_interval_when_pairs_of_a_group_are_alike():
    gold = np.repeat(np.random.default_rng(0).integers(0, 2, 20), 50).astype(float)
    p = np.full(1000, 0.8)
    groups = np.repeat(np.arange(20).astype(str), 50)
    low, high = interval(accuracy, p, gold, groups)
    alone_low, alone_high = interval(accuracy, p, gold)
    assert high - low > 4 * (alone_high - alone_low)


@pytest.mark.slow
def test_with_five_groups_the_interval_still_covers_the_truth():
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        right = np.clip(rng.normal(0.7, 0.06, 5), 0, 1)
        gold = (rng.random((5, 100)) < right[:, None]).astype(float).ravel()
        low, high = accuracy_interval(np.full(500, 0.9), gold, np.repeat(np.arange(5).astype(str), 100))
        hits += low <= 0.7 <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_with_one_group_there_is_no_interval():
    assert np.isnan(accuracy_interval([0.9, 0.8], [1.0, 0.0], np.array(["g", "g"]))).all()


def test_the_interval_is_the_same_for_the_same_seed():
    p, gold = draw(100)
    assert interval(log_loss, p, gold, seed=3) == interval(log_loss, p, gold, seed=3)


@pytest.mark.parametrize(
    ("p", "gold", "words"),
    [
        ([0.5], [np.nan], "no gold label at all"),
        ([0.5, 0.5], [1.0], r"shape \(2,\) and gold \(1,\)"),
        ([1.5], [1.0], r"p_a must be a probability in \[0, 1\]"),
        ([np.nan], [1.0], "without NaN"),
        ([0.5], [2.0], r"gold must be P\(A preferred\)"),
    ],
)
def test_bad_input_is_named(p, gold, words):
    with pytest.raises(GoldError, match=words):
        log_loss(p, gold)


@pytest.mark.parametrize(("n", "p"), [(10, 0.9), (20, 0.95), (60, 0.98)])
def test_the_interval_of_an_accuracy_near_1_covers_it_too(n, p):
    rng = np.random.default_rng(0)
    covered = {"interval": 0, "figures": 0}
    for seed in range(200):
        gold, p_a = (rng.random(n) < p).astype(float), np.full(n, 0.9)
        low, high = interval(accuracy, p_a, gold, seed=seed, resamples=100)
        figures = measure(p_a, gold, seed=seed, resamples=100)
        covered["interval"] += low <= p <= high
        covered["figures"] += figures.accuracy_low <= p <= figures.accuracy_high
    assert min(covered.values()) >= 186  # 95 % less three standard errors; resampling alone covers it 63 % of the time


def test_groups_that_are_all_right_are_so_many_draws_and_no_more():
    groups = np.repeat([f"{i}" for i in range(25)], 40)
    low, high = accuracy_interval(np.full(1000, 0.9), np.ones(1000), groups)
    assert (low, high) == (pytest.approx(25 / (25 + 1.96**2), abs=1e-4), 1.0)
    gold = np.where(np.arange(1000) % 40, 1.0, 0.0)  # one of each group is wrong: resampling knows how many
    assert accuracy_interval(np.full(1000, 0.9), gold, groups) == (0.975, 0.975)
    low, high = accuracy_interval(np.full(1000, 0.1), np.ones(1000), groups)
    assert (low, high) == (0.0, pytest.approx(1.96**2 / (25 + 1.96**2), abs=1e-4))


@pytest.mark.parametrize("n_groups", [10, 25])
def test_an_accuracy_that_hangs_on_one_group_has_no_interval(n_groups):
    gold, groups = np.full(4 * n_groups, 0.5), np.repeat(np.arange(n_groups), 4).astype(str)
    gold[:4] = [1, 0, 1, 0]
    p_a = np.where(np.arange(len(gold)) % 4 == 0, 0.8, 0.2)
    assert np.isnan(accuracy_interval(p_a, gold, groups)).all()
    found = measure(p_a, gold, groups)
    assert found.accuracy == 0.75
    assert np.isnan([found.accuracy_low, found.accuracy_high]).all()
    assert not np.isnan([found.log_loss_low, found.log_loss_high]).any()
    gold[4:8] = [1, 0, 1, 1]  # a second group says something: a wide interval, not that of the draws which hold either
    low, high = accuracy_interval(p_a, gold, groups)
    assert low < 0.4
    assert (measure(p_a, gold, groups).accuracy_low, measure(p_a, gold, groups).accuracy_high) == pytest.approx(
        (low, high)
    )
