"""How much pairs differ in difficulty where margins tell: the scale a > 0 of a pair, averaged out.

A score is normal with mean mu a y. However a is distributed, its mean square is 1, the scale of mu.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

FloatArray = npt.NDArray[np.float64]

DIFFICULTIES = {"normal": (5.11, -4.52), "half-normal": (1.0, 0.0), "exponential": (0.0, 2**0.5)}
"""p and t of the density of a, proportional to exp(-p a^2 / 2 - t a); besides these there is "alike": a = 1 for all."""


def log_odds(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return log P(scores | y = +1) - log P(scores | y = -1), shape (n,).

    `lean` (n,) and `power` (n,) are what log P(scores | a y) has before a y and before -(a y)^2 / 2.
    """
    if difficulty == "alike":
        return 2 * lean
    return _log_mean_of(difficulty, lean, power) - _log_mean_of(difficulty, -lean, power)


def log_mean(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return the log of the mean of exp(a y lean - (a y)^2 power / 2) over a and y, shape (n,)."""
    if difficulty == "alike":
        half = np.abs(lean)
        return np.asarray(half + np.log1p(np.exp(-2 * half)) - np.log(2) - power / 2)
    for_a, for_b = _log_mean_of(difficulty, lean, power), _log_mean_of(difficulty, -lean, power)
    return np.asarray(np.logaddexp(for_a, for_b) - np.log(2))


def expected(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return the mean of a y given the scores, shape (n,)."""
    if difficulty == "alike":
        return np.tanh(lean)
    p_a = 1 / (1 + np.exp(-np.clip(log_odds(difficulty, lean, power), -700, 700)))
    p, t = DIFFICULTIES[difficulty]
    return np.asarray(p_a * _mean(lean - t, power + p) - (1 - p_a) * _mean(-lean - t, power + p))


def _log_mean_of(difficulty: str, lean: FloatArray, power: FloatArray) -> FloatArray:
    """Return the log of the mean of exp(a lean - a^2 power / 2) over a, shape (n,)."""
    p, t = DIFFICULTIES[difficulty]
    return _log_integral(lean - t, power + p) - _log_integral(np.full(1, -t), np.full(1, p))


def _log_integral(t: FloatArray, p: FloatArray) -> FloatArray:
    """Return the log of the integral of exp(t a - p a^2 / 2) over a > 0; where p is 0, t must be below 0."""
    curved = p > 0
    q = np.where(curved, p, 1.0)
    normal = t**2 / (2 * q) + log_ndtr(t / np.sqrt(q)) + np.log(2 * np.pi / q) / 2
    return np.where(curved, normal, -np.log(np.where(curved, 1.0, -t)))


def _mean(t: FloatArray, p: FloatArray) -> FloatArray:
    """Return the mean of a > 0 whose density is proportional to exp(t a - p a^2 / 2)."""
    curved = p > 0
    q = np.where(curved, p, 1.0)
    u = t / np.sqrt(q)
    normal = (u + np.exp(-(u**2) / 2 - np.log(2 * np.pi) / 2 - log_ndtr(u))) / np.sqrt(q)
    return np.where(curved, normal, -1 / np.where(curved, -1.0, t))
