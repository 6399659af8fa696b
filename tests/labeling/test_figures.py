"""The record of figures: equal to the metrics one by one, and its intervals to those of rows drawn."""

from __future__ import annotations

import numpy as np
import pytest

from labeling.errors import GoldError
from labeling.figures import METRICS, measure, right_share, row_log_loss
from labeling.metrics import interval
from labeling.resampling import group_sums, intervals


def draw(n=300, n_groups=40, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    gold = np.where(rng.random(n) < 0.1, 0.5, (rng.random(n) < p).astype(float))
    return p, gold, rng.integers(0, n_groups, n).astype(str)


@pytest.mark.parametrize("n_groups", [5, 40])
@pytest.mark.parametrize("name", METRICS)
def test_summing_groups_gives_the_interval_that_drawing_rows_gives(name, n_groups):
    p, gold, groups = draw(n_groups=n_groups)
    figures = measure(p, gold, groups, seed=3, resamples=50)
    low, high = interval(METRICS[name], p, gold, groups, seed=3, resamples=50)
    assert getattr(figures, name) == METRICS[name](p, gold)
    assert getattr(figures, f"{name}_low") == pytest.approx(max(low, 0.0))
    assert getattr(figures, f"{name}_high") == pytest.approx(high if name == "log_loss" else min(high, 1.0))


def test_swapping_the_responses_changes_no_figure():
    p, gold, groups = draw()
    one, other = measure(p, gold, groups, resamples=20), measure(1 - p, 1 - gold, groups, resamples=20)
    assert vars(one) == pytest.approx(vars(other))


def test_copies_within_groups_do_not_narrow_the_interval():
    p, gold, _ = draw(n=60)
    groups = np.arange(60).astype(str)
    once = measure(p, gold, groups)
    often = measure(np.repeat(p, 10), np.repeat(gold, 10), np.repeat(groups, 10))
    assert often.accuracy_low == pytest.approx(once.accuracy_low)
    assert often.log_loss_high == pytest.approx(once.log_loss_high)


def test_ties_count_for_all_but_accuracy_and_unlabelled_rows_for_nothing():
    p, gold = np.array([0.9, 0.2, 0.6, 0.5]), np.array([1.0, 0.5, 0.0, np.nan])
    figures = measure(p, gold)
    assert (figures.n, figures.n_ties, figures.accuracy) == (3, 1, 0.5)
    assert figures.brier == pytest.approx((0.01 + 0.09 + 0.36) / 3)


def test_one_group_has_no_interval_and_no_gold_no_figures():
    p, gold, _ = draw()
    assert np.isnan(measure(p, gold, np.full(len(p), "one")).ece_high)
    with pytest.raises(GoldError, match="no gold label at all"):
        measure(p, np.full(len(p), np.nan))


def test_rows_say_what_the_metrics_average():
    p, gold, _ = draw()
    assert row_log_loss(p, gold).mean() == METRICS["log_loss"](p, gold)
    assert right_share(np.array([0.9, 0.5, 0.9, 0.1]), np.array([1, 1, 0.5, 1])).tolist() == [1, 0.5, 0.5, 0]


def test_an_interval_of_a_mean_is_that_of_the_central_limit():
    values = np.random.default_rng(1).normal(size=(4000, 1))
    parts = np.column_stack([values, np.ones(4000)])
    low, high = intervals(parts, lambda sums: sums[:, :1] / sums[:, 1:], np.arange(4000))[0]
    assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(4000), rel=0.1)
    assert group_sums(parts, np.arange(4000) // 2000)[:, 1].tolist() == [2000, 2000]


def test_the_ece_is_never_outside_its_interval():
    rng = np.random.default_rng(0)
    for seed in range(30):
        p = rng.uniform(0.02, 0.98, 120)
        figures = measure(p, (rng.random(120) < p).astype(float), seed=seed, resamples=200)
        assert figures.ece_low <= figures.ece <= figures.ece_high
