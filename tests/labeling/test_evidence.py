"""Evidence curves, folds and the antisymmetric logistic: what each promises the label model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from labeling.antisymmetric import bounded, fit_logistic, log_evidence, predictive_factor, sigmoid
from labeling.evidence import fit_curve
from labeling.folds import group_folds, row_folds

margin_lists = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


@given(margin_lists)
def test_a_curve_is_monotone_bounded_and_antisymmetric(margins):
    curve = fit_curve(margins)
    grid = np.sort(np.concatenate([np.array(margins), np.linspace(-2e6, 2e6, 50)]))
    x = curve(grid, np.sign(grid))
    assert (np.diff(x) >= 0).all()
    assert (np.abs(x) <= 1).all()
    assert (curve(-grid, -np.sign(grid)) == -x).all()


def test_a_curve_reads_a_margin_as_the_share_of_smaller_ones():
    curve = fit_curve(np.arange(1, 1001) * np.where(np.arange(1000) % 2, 1, -1))
    assert curve([250.0, -500.0, 5000.0], [1, -1, 1]) == pytest.approx([0.25, -0.5, 1.0], abs=0.01)


def test_without_a_margin_the_vote_itself_is_the_evidence():
    assert fit_curve([np.nan, np.nan])([np.nan, np.nan, np.nan], [1, -1, 0]).tolist() == [1, -1, 0]
    assert fit_curve([1.0, 2.0])([np.nan, np.nan], [1, 0]).tolist() == [1, 0]


@given(margin_lists)
def test_scores_are_monotone_bounded_and_antisymmetric(margins):
    curve = fit_curve(margins)
    grid = np.sort(np.concatenate([np.array(margins), np.linspace(-2e6, 2e6, 50)]))
    scores = curve.scores(grid)
    assert (np.diff(scores) >= 0).all()
    assert (np.abs(scores) <= 3).all()
    assert (curve.scores(-grid) == -scores).all()


def test_normal_margins_come_out_in_standard_deviations_whatever_their_unit():
    margins = np.random.default_rng(0).normal(0, 7.0, 50_000)
    scores = fit_curve(margins).scores(margins)
    inside = np.abs(margins) < 14
    assert np.abs(scores - margins / 7)[inside].max() < 0.1


def test_the_median_is_that_of_the_margins_also_where_most_are_alike():
    margins = np.concatenate([np.ones(900), np.linspace(2, 8, 100)])
    assert fit_curve(margins).median == pytest.approx(1.0, abs=0.2)
    assert fit_curve(np.arange(1.0, 1002.0)).median == pytest.approx(501, rel=0.02)
    assert np.isnan(fit_curve([np.nan]).median)


def test_no_margin_has_no_score():
    assert fit_curve([1.0, -2.0]).scores([np.nan, 0.0]).tolist() == [0, 0]
    assert fit_curve([np.nan]).scores([1.0]).tolist() == [0]


def test_the_evidence_of_a_logistic_is_its_integrated_likelihood():
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(60, 1)), rng.integers(0, 2, 60).astype(float)
    centre, penalty = np.array([0.5]), np.array([3.0])
    w = fit_logistic(x, q, centre, penalty)
    grid = np.linspace(-6, 6, 20_001)
    log_p = -(np.logaddexp(0, np.where(q == 1, -1, 1) * np.outer(grid, x[:, 0]))).sum(axis=1)
    prior = np.sqrt(penalty / (2 * np.pi)) * np.exp(-penalty * (grid - centre) ** 2 / 2)
    exact = np.log((np.exp(log_p) * prior).sum() * (grid[1] - grid[0]))
    assert log_evidence(x, q, w, centre, penalty) == pytest.approx(exact, abs=0.01)


def test_shrunk_logits_are_the_mean_of_the_probabilities_that_the_coefficients_may_give():
    rng = np.random.default_rng(0)
    x, penalty = rng.normal(size=(200, 3)), np.full(3, 0.5)
    q = (rng.random(200) < sigmoid(x @ [0.5, -0.5, 0.2])).astype(float)
    few = x[:12] * np.sign(x[:12, :1])
    w = fit_logistic(few, np.ones(12), np.zeros(3), penalty)
    p = sigmoid(few @ w)
    spread = np.linalg.cholesky(np.linalg.inv((few.T * (p * (1 - p))) @ few + np.diag(penalty)))
    mean = sigmoid(few @ (w[:, None] + spread @ rng.normal(size=(3, 20_000)))).mean(axis=1)
    shrunk = sigmoid(predictive_factor(few, w, penalty) * (few @ w))
    assert abs(shrunk.mean() - mean.mean()) < 0.01 < 0.03 < abs(p.mean() - mean.mean())
    assert predictive_factor(x, fit_logistic(x, q, np.zeros(3), penalty), penalty) > 0.97


def test_the_logistic_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (rng.random(400) < sigmoid(x @ [1.0, -0.5, 0.2])).astype(float)
    theirs = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y).coef_[0]
    np.testing.assert_allclose(fit_logistic(x, y, np.zeros(3), np.full(3, 2.0)), theirs, atol=1e-5)


def test_a_soft_label_is_a_weighted_pair_of_hard_ones():
    x = np.array([[1.0], [0.5]])
    soft = fit_logistic(x, np.array([0.7, 0.3]), np.zeros(1), np.ones(1))
    repeated = fit_logistic(
        np.repeat(x, 10, axis=0), np.array([1] * 7 + [0] * 3 + [1] * 3 + [0] * 7, float), np.zeros(1), np.full(1, 10.0)
    )
    np.testing.assert_allclose(soft, repeated, atol=1e-7)


def test_bounding_is_odd_monotone_and_close_to_the_identity_near_zero():
    z = np.linspace(-30, 30, 601)
    assert (np.diff(bounded(z, 3.0)) >= 0).all()
    assert (bounded(-z, 3.0) == -bounded(z, 3.0)).all()
    assert np.abs(bounded(z, 3.0)).max() <= 3.0
    assert bounded(np.array([1.5]), 3.0)[0] == pytest.approx(1.5, rel=1e-3)


def test_groups_are_never_separated_and_folds_are_even():
    groups = np.random.default_rng(0).integers(0, 40, 400).astype(str)
    folds = group_folds(groups, 5)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    counts = np.bincount(folds)
    assert len(counts) == 5
    assert counts.max() - counts.min() < 20


def test_folds_do_not_depend_on_row_order():
    groups = np.random.default_rng(0).integers(0, 40, 400).astype(str)
    order = np.random.default_rng(1).permutation(400)
    assert (group_folds(groups[order], 5) == group_folds(groups, 5)[order]).all()
    x = np.random.default_rng(2).normal(size=(50, 3))
    assert (row_folds(x[order[order < 50]], 5) == row_folds(x, 5)[order[order < 50]]).all()
