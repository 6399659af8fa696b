"""How much pairs differ in difficulty where margins tell: the scale a > 0 of a pair, averaged out over a grid.

A score is normal with mean mu a y. However a is distributed, its mean square is 1, the scale of mu.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

FloatArray = npt.NDArray[np.float64]

SCALES = 0.1 * (np.arange(60) + 0.5)
"""The grid of a, up to 6."""
SPREAD = 0.5
"""Standard deviation of log a where it is log-normal."""


def _shares(density: FloatArray) -> FloatArray:
    return np.asarray(density / density.sum())


DIFFICULTIES = {
    "log-normal": _shares(np.exp(-((np.log(SCALES) / SPREAD + SPREAD) ** 2) / 2) / SCALES),
    "half-normal": _shares(np.exp(-(SCALES**2) / 2)),
    "exponential": _shares(np.exp(-np.sqrt(2) * SCALES)),
}
"""Share of the pairs at each of `SCALES`; besides these there is "alike": a = 1 for all."""


def log_odds(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return log P(scores | y = +1) - log P(scores | y = -1), shape (n,).

    `lean` (n,) and `power` (n,) are what log P(scores | a y) has before a y and before -(a y)^2 / 2.
    """
    if difficulty == "alike":
        return 2 * lean
    for_a, for_b = _sides(difficulty, lean, power)
    return np.asarray(logsumexp(for_a, axis=1) - logsumexp(for_b, axis=1))


def log_mean(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return the log of the mean of exp(a y lean - (a y)^2 power / 2) over a and y, shape (n,)."""
    if difficulty == "alike":
        half = np.abs(lean)
        return np.asarray(half + np.log1p(np.exp(-2 * half)) - np.log(2) - power / 2)
    for_a, for_b = _sides(difficulty, lean, power)
    return np.asarray(np.logaddexp(logsumexp(for_a, axis=1), logsumexp(for_b, axis=1)) - np.log(2))


def expected(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return the mean of a y given the scores, shape (n,)."""
    if difficulty == "alike":
        return np.tanh(lean)
    logs = np.stack(_sides(difficulty, lean, power), axis=1)
    shares = np.exp(logs - logs.max(axis=(1, 2), keepdims=True))
    return np.asarray(((shares[:, 0] - shares[:, 1]) @ SCALES) / shares.sum(axis=(1, 2)))


def _sides(difficulty: str, lean: FloatArray, power: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log P(a) + a y lean - a^2 power / 2 for each scale a, of y = +1 and of y = -1, (n, scales) each."""
    either = np.log(DIFFICULTIES[difficulty]) - SCALES**2 * power[:, None] / 2
    return either + SCALES * lean[:, None], either - SCALES * lean[:, None]
