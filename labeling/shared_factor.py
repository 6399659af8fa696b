"""A Gaussian model of margins: each is signal, plus a confounder all voters share (verbosity, say), plus noise.

Given the preferred response y in {-1, +1} and the confounder c ~ N(0, 1), the score of voter j is normal with mean
mu_j y + b_j c and variance d_j: the residual covariance is diagonal plus rank one. Second moments tell the plane that
mu and b span (factor analysis); which direction in it is the preference follows from y having two values, where c is
normal (the likelihood of the mixture), and from the assumption that voters are right more often than wrong. Fitted by
expectation maximisation. A voter whose scores have two values themselves, as votes without margins have, looks just
like the preference: where the likelihood takes it for that, the others alone say what the preference is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

N_ANGLES = 36
TYPICAL_SIGNAL = (0.3, 0.25)
"""Mean and standard deviation of mu among voters before any are seen, in standard deviations of the score."""
MIN_SIZES = 10
"""Sizes of score from which on a voter is graded."""
PURE = 0.9
"""Share of the scores of a voter that is not graded, explained by y, from which on it was taken for the preference."""
TRUSTED_ROWS = 2000
"""The likelihood of this many rows decides between directions: more would only make the normal shape a dogma."""


@dataclass(frozen=True)
class SharedFactor:
    """A fitted model of the scores of m voters."""

    signal: FloatArray
    """Shape (m,): mu."""
    shared: FloatArray
    """Shape (m,): b."""
    noise: FloatArray
    """Shape (m,): d, variances."""

    def log_odds(self, scores: FloatArray) -> FloatArray:
        """Return log P(y = +1 | scores) - log P(y = -1 | scores), shape (n,); scores (n, m), 0 = none."""
        signal, shared, spread, overlap, _ = _sums(self, scores)
        result: FloatArray = 2 * (signal - overlap * shared / (1 + spread))
        return result

    def log_density(self, scores: FloatArray) -> FloatArray:
        """Return the log of the mixture density of each row of scores (n, m), shape (n,)."""
        signal, shared, spread, overlap, power = _sums(self, scores)
        squares = _added(scores**2, 1 / self.noise) - shared**2 / (1 + spread)
        logs = _added((scores != 0).astype(np.float64), np.log(2 * np.pi * self.noise))
        half = np.abs(signal - overlap * shared / (1 + spread))
        mean = power - overlap**2 / (1 + spread)
        mixed = half + np.log1p(np.exp(-2 * half)) - np.log(2)
        result: FloatArray = mixed - (squares + mean + logs + np.log1p(spread)) / 2
        return result


def fit_shared_factor(scores: FloatArray) -> SharedFactor:
    """Fit scores (n, m), 0 = none, whose rows may have been turned; every voter needs some scores."""
    starts = [improved(start, scores, 200)[0] for start in _directions(scores)]
    return max(starts, key=lambda model: _plausibility(model, scores))


def graded(scores: FloatArray, own: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which voters have `MIN_SIZES` sizes of score in most of what they say, shape (m,).

    `scores` (n, m) are margins as scores, 0 = none, `own` those with votes as +-1 where there is no margin.
    """
    said = (own != 0).sum(axis=0)
    sizes = [len(np.unique(np.abs(column[column != 0]))) for column in scores.T]
    result: npt.NDArray[np.bool_] = (np.asarray(sizes) >= MIN_SIZES) & (2 * (scores != 0).sum(axis=0) > said)
    return result


def taken_for_y(model: SharedFactor) -> npt.NDArray[np.bool_]:
    """Return which voters y all but equals, shape (m,)."""
    explained: FloatArray = model.signal**2
    result: npt.NDArray[np.bool_] = explained >= PURE * (explained + model.shared**2 + model.noise)
    return result


def beside(core: SharedFactor, scores: FloatArray, own: npt.NDArray[np.bool_]) -> SharedFactor:
    """Return a model of all m voters of scores (n, m), where `core` is that of the voters `own` (m,) alone.

    The others' scores are regressed on what the core expects of y and c, so they have no say in what those are.
    """
    signal, shared, spread, overlap, _ = _sums(core, scores[:, own])
    left = 1 / (1 + spread)
    y = np.tanh(signal - overlap * shared * left)
    c = left * (shared - y * overlap)
    mu, b, d = (np.zeros(len(own)) for _ in range(3))
    mu[own], b[own], d[own] = core.signal, core.shared, core.noise
    for j in np.flatnonzero(~own):
        z = scores[:, j]
        said = z != 0
        both = np.stack([y[said], c[said]])
        # A few imagined rows, in which the voter says nothing of either, so that it can always be solved.
        mu[j], b[j] = np.linalg.solve(both @ both.T + 5 * np.eye(2), both @ z[said])
        d[j] = max((np.sum(z[said] ** 2) + 1) / (said.sum() + 1) - mu[j] ** 2 - b[j] ** 2, 0.02)
    return SharedFactor(mu, b, d)


def _plausibility(model: SharedFactor, scores: FloatArray) -> float:
    mean, deviation = TYPICAL_SIGNAL
    rows = min(len(scores), TRUSTED_ROWS)
    prior = -(((model.signal - mean) / deviation) ** 2).sum() / 2
    return float(rows * model.log_density(scores).mean() + prior)


def _sums(model: SharedFactor, scores: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the sums over a row's voters of z mu / d, z b / d, b^2 / d, mu b / d and mu^2 / d, each (n,)."""
    given = (scores != 0).astype(np.float64)
    mu, b, d = model.signal, model.shared, model.noise
    return (
        _added(scores, mu / d),
        _added(scores, b / d),
        _added(given, b**2 / d),
        _added(given, mu * b / d),
        _added(given, mu**2 / d),
    )


def _added(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return values @ weights, added voter by voter, so that no row's sum depends on the rows around it."""
    total = np.zeros(len(values))
    for j, weight in enumerate(weights):
        total += values[:, j] * weight
    return total


def _directions(scores: FloatArray) -> list[SharedFactor]:
    """Return the likeliest directions of the preference in the plane of the two leading factors."""
    given = (scores != 0).astype(np.float64)
    both = np.maximum(given.T @ given, 1)
    covariance = scores.T @ scores / both
    size = np.sqrt(np.diag(covariance))
    loadings, noise = _factors(covariance / np.outer(size, size))
    angles = np.linspace(0, np.pi, N_ANGLES, endpoint=False)
    models = []
    for angle in angles:
        signal, shared = loadings @ [np.cos(angle), np.sin(angle)], loadings @ [-np.sin(angle), np.cos(angle)]
        models.append(SharedFactor(_upright(signal) * size, shared * size, noise * size**2))
    heights = [float(model.log_density(scores).mean()) for model in models]
    peaks = {i for i in range(N_ANGLES) if heights[i - 1] <= heights[i] > heights[(i + 1) % N_ANGLES]}
    peaks.add(int(np.argmax([model.signal.sum() for model in models])))
    return [models[i] for i in sorted(peaks)]


def _upright(signal: FloatArray) -> FloatArray:
    return signal if signal.sum() >= 0 else -signal


def _factors(correlation: FloatArray, iterations: int = 500) -> tuple[FloatArray, FloatArray]:
    """Return two loadings (m, 2) and the unique variances (m,) of a correlation matrix (principal axis factoring)."""
    common = np.full(len(correlation), 0.5)
    loadings = np.zeros((len(correlation), 2))
    for _ in range(iterations):
        reduced = correlation.copy()
        np.fill_diagonal(reduced, common)
        values, vectors = np.linalg.eigh(reduced)
        loadings = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
        new = np.clip((loadings**2).sum(axis=1), 0.02, 0.97)
        if np.abs(new - common).max() < 1e-6:
            break
        common = new
    return loadings, 1 - common


def improved(model: SharedFactor, scores: FloatArray, iterations: int) -> tuple[SharedFactor, bool]:
    """Return the model after at most so many steps of expectation maximisation, and whether they sufficed."""
    given = (scores != 0).astype(np.float64)
    n = given.sum(axis=0)
    last = -np.inf
    for _ in range(iterations):
        signal, shared, spread, overlap, _ = _sums(model, scores)
        left = 1 / (1 + spread)
        y = np.tanh(signal - overlap * shared * left)
        c, yc = left * (shared - y * overlap), left * (y * shared - overlap)
        cc = left + left**2 * (shared**2 - 2 * y * shared * overlap + overlap**2)
        # Regression of each voter's scores on y and c, with a few imagined rows so that it can always be solved.
        yy, y_c, c_c = n + 5, given.T @ yc, given.T @ cc + 5
        z_y, z_c = scores.T @ y, scores.T @ c
        determinant = yy * c_c - y_c**2
        mu, b = (z_y * c_c - z_c * y_c) / determinant, (z_c * yy - z_y * y_c) / determinant
        d = np.maximum(((scores**2).sum(axis=0) - mu * z_y - b * z_c + 1) / (n + 1), 0.02)
        model = SharedFactor(mu, b, d)
        likelihood = float(model.log_density(scores).mean())
        if likelihood - last < 1e-6:
            return SharedFactor(_upright(model.signal), model.shared, model.noise), True
        last = likelihood
    return SharedFactor(_upright(model.signal), model.shared, model.noise), False
