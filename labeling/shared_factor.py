"""A Gaussian model of margins: each is signal, plus a confounder all voters share (verbosity, say), plus noise.

Given the preferred response y in {-1, +1} and the confounder c ~ N(0, 1), the score of voter j is normal with mean
mu_j y + b_j c and variance d_j: the residual covariance is diagonal plus rank one. Second moments tell the plane that
mu and b span (factor analysis); which direction in it is the preference follows from y having two values, where c is
normal (the likelihood of the mixture), and from the assumption that voters are right more often than wrong. Fitted by
expectation maximisation. Unless a confounder is needed, there is none: then what margins share is the preference times
the scale a of the pair (`difficulty`), mu_j a y. A voter whose scores are of one size, as votes without margins are and
those of a judge that always says its largest margin, looks just like the preference: where the likelihood takes it for
that, the others alone say what the preference is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeling.difficulty import DIFFICULTIES, expected, log_mean, log_odds

FloatArray = npt.NDArray[np.float64]

N_ANGLES = 36
TYPICAL_SIGNAL = (0.3, 0.25)
"""Mean and standard deviation of mu among voters before any are seen, in standard deviations of the score."""
MIN_SIZES = 10
"""Sizes of score from which on a voter is graded."""
BUNCHED = 0.72
"""Bunching from which on it is not."""
PURE = 0.8
"""Share of what y could explain of a voter that is not graded from which on it was taken for the preference."""
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
    difficulty: str = "alike"
    """How pairs differ in difficulty: "alike", or, where nothing confounds, one of `DIFFICULTIES`."""

    @property
    def confounded(self) -> bool:
        """Whether the voters share more than y: b is not 0."""
        return bool(self.shared.any())

    def log_odds(self, scores: FloatArray) -> FloatArray:
        """Return log P(y = +1 | scores) - log P(y = -1 | scores), shape (n,); scores (n, m), 0 = none."""
        signal, shared, spread, overlap, power = _sums(self, scores)
        lean, rest = signal - overlap * shared / (1 + spread), power - overlap**2 / (1 + spread)
        return log_odds(self.difficulty, lean, rest)

    def log_density(self, scores: FloatArray) -> FloatArray:
        """Return the log of the mixture density of each row of scores (n, m), shape (n,)."""
        signal, shared, spread, overlap, power = _sums(self, scores)
        squares = _added(scores**2, 1 / self.noise) - shared**2 / (1 + spread)
        logs = _added((scores != 0).astype(np.float64), np.log(2 * np.pi * self.noise))
        lean, rest = signal - overlap * shared / (1 + spread), power - overlap**2 / (1 + spread)
        result: FloatArray = log_mean(self.difficulty, lean, rest) - (squares + logs + np.log1p(spread)) / 2
        return result


def fit_shared_factor(scores: FloatArray) -> SharedFactor:
    """Fit scores (n, m), 0 = none, whose rows may have been turned; every voter needs some scores.

    There is a confounder if the likelihood gains more by it than by pairs of differing difficulty, by log log n nats
    for each of m - 1 parameters (after Hannan and Quinn 1979): margins that grow with how clear a pair is look much
    like one.
    """
    n, m = scores.shape
    loadings, noise, size = _factors(scores, 1)
    one = SharedFactor(_upright(loadings[:, 0]) * size, np.zeros(m), noise * size**2)
    one, _ = improved(one, scores, 200)
    alone = [replace(one, difficulty=difficulty) for difficulty in ("alike", *DIFFICULTIES)]
    simple = max(alone, key=lambda model: _height(model, scores))
    starts = [improved(start, scores, 200)[0] for start in _directions(scores)]
    confounded = max(starts, key=lambda model: _height(model, scores) + _plausibility(model))
    price = (m - 1) * np.log(np.log(min(n, TRUSTED_ROWS)))
    return confounded if _height(confounded, scores) > _height(simple, scores) + price else simple


def bunching(own: FloatArray) -> FloatArray:
    """Return how alike the sizes of each voter's scores own (n, m), 0 = none, are: squared mean over mean square, (m,).

    It is 1 for votes without margins, near it for a judge that hardly ever says but its largest one, and 2 / pi for
    scores of margins that are never the same; 1 for a voter that says nothing.
    """
    said = np.maximum((own != 0).sum(axis=0), 1)
    squares = (own**2).sum(axis=0) / said
    sizes = (np.abs(own).sum(axis=0) / said) ** 2
    return np.asarray(np.divide(sizes, squares, out=np.ones(len(said)), where=squares > 0))


def graded(scores: FloatArray, own: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which voters have `MIN_SIZES` sizes of score, not bunched, in most of what they say, shape (m,).

    `scores` (n, m) are margins as scores, 0 = none, `own` those with votes as +-1 where there is no margin.
    """
    said = (own != 0).sum(axis=0)
    sizes = np.asarray([len(np.unique(np.abs(column[column != 0]))) for column in scores.T])
    result: npt.NDArray[np.bool_] = (sizes >= MIN_SIZES) & (2 * (scores != 0).sum(axis=0) > said)
    return result & (bunching(own) < BUNCHED)


def taken_for_y(model: SharedFactor, own: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which voters, of scores own (n, m), y explains about as far as their sign could, shape (m,)."""
    explained: FloatArray = model.signal**2
    total = explained + model.shared**2 + model.noise
    most = bunching(own) if model.difficulty == "alike" else 1.0
    result: npt.NDArray[np.bool_] = explained >= PURE * most * total
    return result


def beside(core: SharedFactor, scores: FloatArray, own: npt.NDArray[np.bool_]) -> SharedFactor:
    """Return a model of all m voters of scores (n, m), where `core` is that of the voters `own` (m,) alone.

    The others' scores are regressed on what the core expects of y and c, so they have no say in what those are.
    """
    signal, shared, spread, overlap, power = _sums(core, scores[:, own])
    left = 1 / (1 + spread)
    y = expected(core.difficulty, signal - overlap * shared * left, power - overlap**2 * left)
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
    return SharedFactor(mu, b, d, core.difficulty)


def _height(model: SharedFactor, scores: FloatArray) -> float:
    """Return the log-likelihood of as many rows as are trusted."""
    return float(min(len(scores), TRUSTED_ROWS) * model.log_density(scores).mean())


def _plausibility(model: SharedFactor) -> float:
    """Return the log of how likely its signals are before any score is seen, but for a constant."""
    mean, deviation = TYPICAL_SIGNAL
    return float(-(((model.signal - mean) / deviation) ** 2).sum() / 2)


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
    loadings, noise, size = _factors(scores, 2)
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


def _factors(scores: FloatArray, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return n loadings (m, n) and unique variances (m,) of scores over their size, (m,): principal axis factoring."""
    given = (scores != 0).astype(np.float64)
    covariance = scores.T @ scores / np.maximum(given.T @ given, 1)
    size = np.sqrt(np.diag(covariance))
    common, loadings = np.full(len(size), 0.5), np.zeros((len(size), n))
    for _ in range(500):
        reduced = covariance / np.outer(size, size)
        np.fill_diagonal(reduced, common)
        values, vectors = np.linalg.eigh(reduced)
        loadings = vectors[:, -n:] * np.sqrt(np.maximum(values[-n:], 0))
        new = np.clip((loadings**2).sum(axis=1), 0.02, 0.97)
        if np.abs(new - common).max() < 1e-6:
            break
        common = new
    return loadings, 1 - common, size


def improved(model: SharedFactor, scores: FloatArray, iterations: int) -> tuple[SharedFactor, bool]:
    """Return the model after at most so many steps of expectation maximisation, and whether they sufficed.

    Without a confounder a y is taken for normal, which is to fit second moments: they hold whatever a is.
    """
    given = (scores != 0).astype(np.float64)
    n, alone = given.sum(axis=0), not model.confounded
    difficulty, model = model.difficulty, replace(model, difficulty="half-normal" if alone else model.difficulty)
    last = -np.inf
    for _ in range(iterations):
        signal, shared, spread, overlap, power = _sums(model, scores)
        left = 1 / (1 + spread)
        y = signal / (1 + power) if alone else np.tanh(signal - overlap * shared * left)
        square = 1 / (1 + power) + y**2 if alone else np.ones(len(y))
        c, yc = left * (shared - y * overlap), left * (y * shared - square * overlap)
        cc = left + left**2 * (shared**2 - 2 * y * shared * overlap + square * overlap**2)
        # Regression of each voter's scores on y and c, with a few imagined rows so that it can always be solved.
        yy, y_c, c_c = given.T @ square + 5, given.T @ yc, given.T @ cc + 5
        z_y, z_c = scores.T @ y, scores.T @ c
        determinant = yy * c_c - y_c**2
        mu, b = (z_y * c_c - z_c * y_c) / determinant, (z_c * yy - z_y * y_c) / determinant
        d = np.maximum(((scores**2).sum(axis=0) - mu * z_y - b * z_c + 1) / (n + 1), 0.02)
        model = SharedFactor(mu, b, d, model.difficulty)
        likelihood = float(model.log_density(scores).mean())
        if likelihood - last < 1e-6:
            return SharedFactor(_upright(model.signal), model.shared, model.noise, difficulty), True
        last = likelihood
    return SharedFactor(_upright(model.signal), model.shared, model.noise, difficulty), False
