"""The Gaussian model of margins: signal, a confounder or none, noise; and how pairs differ in difficulty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import multivariate_normal

from labeling.consensus import learn_consensus
from labeling.difficulty import DIFFICULTIES, expected, log_mean
from labeling.metrics import log_loss
from labeling.misfit import misfit
from labeling.shared_factor import SharedFactor, fit_shared_factor, improved
from labeling.voter_facts import in_words

FACTOR = SharedFactor(np.array([0.5, 0.4, -0.2, 0.6]), np.array([0.7, 0.1, 0.9, 0.4]), np.array([1.0, 0.5, 2.0, 0.8]))


def margins_of(model, n, seed=0):
    rng = np.random.default_rng(seed)
    y, c, noise = rng.choice([-1.0, 1.0], (n, 1)), rng.normal(size=(n, 1)), rng.normal(size=(n, len(model.noise)))
    return y * model.signal + c * model.shared + noise * np.sqrt(model.noise), y[:, 0]


def test_the_density_of_margins_is_that_of_two_normals_and_missing_ones_do_not_count():
    scores, _ = margins_of(FACTOR, 40)
    scores[np.random.default_rng(1).random(scores.shape) < 0.3] = 0
    for row, density, odds in zip(scores, FACTOR.log_density(scores), FACTOR.log_odds(scores), strict=True):
        at = row != 0
        mean, spread = FACTOR.signal[at], np.diag(FACTOR.noise[at]) + np.outer(FACTOR.shared[at], FACTOR.shared[at])
        first, second = (multivariate_normal(y * mean, spread).logpdf(row[at]) if at.any() else 0.0 for y in (1, -1))
        assert density == pytest.approx(np.logaddexp(first, second) - np.log(2))
        assert odds == pytest.approx(first - second)
    assert FACTOR.log_odds(np.zeros((1, 4))) == FACTOR.log_density(np.zeros((1, 4))) == 0


def scales(difficulty, n, rng):
    """Scales of pairs whose mean square is 1, drawn."""
    if difficulty == "normal":
        drawn = rng.normal(4.52 / 5.11, 5.11**-0.5, 2 * n)
        return drawn[drawn > 0][:n]
    return {
        "alike": np.ones(n),
        "half-normal": np.abs(rng.normal(size=n)),
        "exponential": rng.exponential(0.5**0.5, n),
    }[difficulty]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_density_of_margins_that_differ_in_difficulty_is_that_of_all_scales(difficulty):
    model = replace(FACTOR, shared=np.zeros(4), difficulty=difficulty)
    scores, _ = margins_of(model, 20)
    scores[np.random.default_rng(1).random(scores.shape) < 0.3] = 0
    odds, density = model.log_odds(scores), model.log_density(scores)
    drawn = scales(difficulty, 200_000, np.random.default_rng(2))
    assert (drawn**2).mean() == pytest.approx(1, abs=0.02)
    p, t = DIFFICULTIES[difficulty]
    share, _ = quad(lambda a: np.exp(-p * a**2 / 2 - t * a), 0, 40)
    assert drawn.mean() == pytest.approx(quad(lambda a: a * np.exp(-p * a**2 / 2 - t * a), 0, 40)[0] / share, abs=0.01)
    for i, row in enumerate(scores):
        at = row != 0
        spread = np.diag(model.noise[at])

        def side(y, row=row, at=at, spread=spread):
            def at_scale(a):
                said = multivariate_normal(y * a * model.signal[at], spread).pdf(row[at]) if at.any() else 1.0
                return np.exp(-p * a**2 / 2 - t * a) / share * said

            return quad(at_scale, 0, 8)[0]

        first, second = side(1), side(-1)
        assert odds[i] == pytest.approx(np.log(first / second), abs=1e-4)
        assert density[i] == pytest.approx(np.log((first + second) / 2), abs=1e-4)


@pytest.mark.parametrize("difficulty", ["alike", *DIFFICULTIES])
def test_no_row_of_margins_depends_on_the_rows_around_it(difficulty):
    model = replace(FACTOR, difficulty=difficulty)
    scores, _ = margins_of(FACTOR, 1000)
    assert np.array_equal(model.log_odds(scores[7:8]), model.log_odds(scores)[7:8])
    assert np.array_equal(model.log_density(scores[7:8]), model.log_density(scores)[7:8])
    assert np.array_equal(model.log_odds(-scores), -model.log_odds(scores))
    assert np.isfinite(model.log_odds(200 * scores)).all()


@pytest.mark.parametrize("shared", [1.0, 0.0])
def test_no_step_of_expectation_maximisation_lowers_the_likelihood_and_its_prior(shared):
    scores, _ = margins_of(FACTOR, 300)
    scores[np.random.default_rng(1).random(scores.shape) < 0.3] = 0
    model = SharedFactor(np.array([0.1, 0.9, 0.3, 0.2]), shared * np.array([0.2, -0.5, 0.5, 0.9]), np.ones(4))
    patterns, which = np.unique(scores != 0, axis=0, return_inverse=True)

    def height(model):
        """Where nothing confounds, of a normal a y."""
        if shared:
            return model.log_density(scores).sum()
        spread = np.diag(model.noise) + np.outer(model.signal, model.signal)
        return sum(
            multivariate_normal(cov=spread[np.ix_(at, at)]).logpdf(scores[which == k][:, at]).sum()
            for k, at in enumerate(patterns)
            if at.any()
        )

    heights = []
    for _ in range(60):
        imagined = (5 * model.signal**2 + 5 * model.shared**2 + 1) / model.noise + np.log(model.noise)
        heights.append(height(model) - imagined.sum() / 2)
        model, _ = improved(model, scores, 1)
    assert heights[-1] > heights[0] + 10
    assert (np.diff(heights) > -1e-9).all()


@pytest.mark.parametrize("difficulty", ["alike", *DIFFICULTIES])
def test_what_is_expected_of_the_preference_is_the_slope_of_the_likelihood(difficulty):
    lean, power, step = np.array([-3.0, 0.0, 0.2, 8.0]), np.array([2.0, 0.0, 1e-3, 20.0]), 1e-5
    slope = (log_mean(difficulty, lean + step, power) - log_mean(difficulty, lean - step, power)) / (2 * step)
    np.testing.assert_allclose(expected(difficulty, lean, power), slope, atol=1e-5)


def test_a_confounder_is_told_from_the_preference():
    truth = SharedFactor(np.linspace(0.4, 0.9, 6), np.linspace(1.0, 0.3, 6), np.ones(6))
    scores, y = margins_of(truth, 6000)
    model = fit_shared_factor(scores)
    np.testing.assert_allclose(model.signal, truth.signal, atol=0.1)
    np.testing.assert_allclose(np.abs(model.shared), truth.shared, atol=0.1)
    np.testing.assert_allclose(model.noise, truth.noise, atol=0.1)
    gold = (y + 1) / 2
    excess = log_loss(expit(model.log_odds(scores)), gold) - log_loss(expit(truth.log_odds(scores)), gold)
    assert excess < 0.002


@pytest.mark.parametrize("scale", ["alike", *DIFFICULTIES])
def test_nothing_confounds_margins_that_only_differ_in_how_clear_a_pair_is(scale):
    truth = SharedFactor(np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5]), np.zeros(6), np.ones(6), scale)
    rng = np.random.default_rng(0)
    a = scales(scale, 6000, rng)
    y = rng.choice([-1.0, 1.0], 6000)
    scores = (a * y)[:, None] * truth.signal + rng.normal(size=(6000, 6))
    model = fit_shared_factor(scores)
    assert not model.shared.any()
    assert model.difficulty == scale
    np.testing.assert_allclose(model.signal, truth.signal, atol=0.1)
    gold = (y + 1) / 2
    excess = log_loss(expit(model.log_odds(scores)), gold) - log_loss(expit(truth.log_odds(scores)), gold)
    assert excess < 0.002


def test_margins_of_a_confounder_are_modelled_as_such(rows_of):
    scores, _ = margins_of(SharedFactor(np.linspace(0.4, 0.9, 6), np.linspace(1.0, 0.3, 6), np.ones(6)), 3000)
    confounded = learn_consensus(rows_of(np.sign(scores).astype(np.int8), scores))
    assert isinstance(confounded.model, SharedFactor)
    assert in_words(confounded, "abcdef", None, 0, 3.0)[0] == "margins that share a confounder"


def test_a_gaussian_model_leaves_nothing_unexplained_of_its_own_margins(rows_of):
    scores, _ = margins_of(FACTOR, 2000)
    rows = rows_of(np.sign(scores).astype(np.int8), scores)
    high, low = misfit(FACTOR, rows)
    assert (low, high < 0.06) == (0, True)
    assert misfit(replace(FACTOR, shared=-FACTOR.shared[::-1]), rows)[1] > 0.1
