"""Synthetic votes whose generating model is known, so that the true posterior (the oracle) is too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Votes, the true preference, and what the generating model says of it."""

    votes: VoteMatrix
    gold: FloatArray
    """Shape (n,): 1 = A preferred, 0 = B."""
    oracle: FloatArray
    """Shape (n,): P(A preferred | votes) under the generating model."""


def sigmoid(z: FloatArray) -> FloatArray:
    result: FloatArray = 1 / (1 + np.exp(-z))
    return result


def _sample(y: FloatArray, s: FloatArray, logits: FloatArray, margins: FloatArray | None = None) -> Sample:
    n, m = s.shape
    votes = np.where(s == 0, -1, (1 - s) / 2).astype(np.int8)
    values = np.full((n, m), np.nan, np.float32) if margins is None else margins.astype(np.float32)
    names = tuple(f"voter {j}" for j in range(m))
    ids = np.array([f"pair {i}" for i in range(n)])
    return Sample(VoteMatrix(votes, values, names, ids), (y + 1) / 2, sigmoid(logits))


def _coins(rng: np.random.Generator, y: FloatArray, weights: FloatArray, coverage: FloatArray | float = 1.0) -> Sample:
    s = np.where(rng.random((len(y), len(weights))) < sigmoid(weights), y[:, None], -y[:, None])
    s = s * (rng.random(s.shape) < coverage)
    return _sample(y, s, s @ weights)


def _preferences(rng: np.random.Generator, n: int, p_a: float = 0.5) -> FloatArray:
    return np.where(rng.random(n) < p_a, 1.0, -1.0)


def _logit(p: FloatArray | float) -> FloatArray:
    q = np.asarray(p, dtype=np.float64)
    result: FloatArray = np.log(q / (1 - q))
    return result


def independent(n: int, m: int, seed: int) -> Sample:
    """Accuracies evenly from .55 to .75, full coverage, errors independent."""
    rng = np.random.default_rng(seed)
    return _coins(rng, _preferences(rng, n), _logit(np.linspace(0.55, 0.75, m)))


def correlated_block(n: int, m: int, seed: int) -> Sample:
    """Four tenths of the voters repeat one weak voter (accuracy .62), each wrong about it in 5 % of pairs."""
    rng = np.random.default_rng(seed)
    y = _preferences(rng, n)
    k = round(0.4 * m)
    alone = _coins(rng, y, _logit(np.linspace(0.6, 0.77, m - k)))
    source = np.where(rng.random(n) < 0.62, y, -y)
    copies = np.where(rng.random((n, k)) < 0.95, source[:, None], -source[:, None])
    about_source = copies.sum(axis=1) * _logit(0.95)
    from_copies = 2 * np.arctanh((2 * 0.62 - 1) * np.tanh(about_source / 2))
    s = np.concatenate([copies, alone.votes.signs], axis=1)
    return _sample(y, s, _logit(alone.oracle) + from_copies)


def heterogeneous(n: int, m: int, seed: int) -> Sample:
    """Four tenths good (.6 to .75), three tenths useless (.5), three tenths adversarial (.35 to .45)."""
    rng = np.random.default_rng(seed)
    good, bad = round(0.4 * m), round(0.3 * m)
    accuracies = np.concatenate(
        [np.linspace(0.6, 0.75, good), np.full(m - good - bad, 0.5), np.linspace(0.35, 0.45, bad)]
    )
    return _coins(rng, _preferences(rng, n), _logit(accuracies))


def sparse(n: int, m: int, seed: int) -> Sample:
    """Coverage evenly from 2 to 10 %, accuracies .6 to .9; only pairs with a vote."""
    rng = np.random.default_rng(seed)
    coverage, accuracies = np.linspace(0.02, 0.10, m), np.linspace(0.9, 0.6, m)
    rate = 1 - np.prod(1 - coverage)
    y = _preferences(rng, int(1.2 * n / rate) + 100)
    drawn = _coins(rng, y, _logit(accuracies), coverage)
    kept = np.flatnonzero((drawn.votes.votes >= 0).any(axis=1))[:n]
    return Sample(drawn.votes.take(kept), drawn.gold[kept], drawn.oracle[kept])


def one_sided(n: int, m: int, seed: int) -> Sample:
    """Half of the voters only ever vote for A (or only for B) or abstain; the others are coins of .6 to .75."""
    rng = np.random.default_rng(seed)
    y = _preferences(rng, n)
    k = m // 2
    coins = _coins(rng, y, _logit(np.linspace(0.6, 0.75, m - k)))
    side = np.where(np.arange(k) % 2 == 0, 1.0, -1.0)
    fires = {True: np.linspace(0.4, 0.7, k), False: np.linspace(0.1, 0.3, k)}
    right = y[:, None] == side
    fired = rng.random((n, k)) < np.where(right, fires[True], fires[False])
    speaks = side * np.log(fires[True] / fires[False])
    silent = side * np.log((1 - fires[True]) / (1 - fires[False]))
    logits = _logit(coins.oracle) + np.where(fired, speaks, silent).sum(axis=1)
    return _sample(y, np.concatenate([fired * side, coins.votes.signs], axis=1), logits)


def imbalanced(n: int, m: int, seed: int) -> Sample:
    """A is preferred in 80 % of pairs; accuracies .55 to .8, coverage .6."""
    rng = np.random.default_rng(seed)
    drawn = _coins(rng, _preferences(rng, n, 0.8), _logit(np.linspace(0.55, 0.8, m)), 0.6)
    return Sample(drawn.votes, drawn.gold, sigmoid(_logit(drawn.oracle) + _logit(0.8)))


def difficulty(n: int, m: int, seed: int) -> Sample:
    """Each pair scales every voter's log-odds by its own factor, log-normal with standard deviation 1."""
    rng = np.random.default_rng(seed)
    y = _preferences(rng, n)
    scale = np.exp(rng.normal(0, 1, n))
    weights = _logit(np.linspace(0.55, 0.8, m))
    s = np.where(rng.random((n, m)) < sigmoid(scale[:, None] * weights), y[:, None], -y[:, None])
    nodes, mass = np.polynomial.hermite_e.hermegauss(41)
    likelihood = np.zeros((n, 2))
    for node, share in zip(nodes, mass / mass.sum(), strict=True):
        w = np.exp(node) * weights
        for column, sign in enumerate((1, -1)):
            likelihood[:, column] += share * np.exp(-np.logaddexp(0, -sign * s * w).sum(axis=1))
    return _sample(y, s, np.log(likelihood[:, 0]) - np.log(likelihood[:, 1]))


def confounder(n: int, m: int, seed: int) -> Sample:
    """Margins = signal + a shared confounder (verbosity, say) + noise, all Gaussian; votes are their signs."""
    rng = np.random.default_rng(seed)
    y = _preferences(rng, n)
    signal, shared = rng.uniform(0.2, 0.7, m), rng.uniform(0.2, 1.0, m)
    margins = y[:, None] * signal + rng.normal(size=(n, 1)) * shared + rng.normal(size=(n, m))
    weights = 2 * np.linalg.solve(np.eye(m) + np.outer(shared, shared), signal)
    scale = rng.uniform(0.3, 3.0, m)
    return _sample(y, np.sign(margins), margins @ weights, margins * scale)


def graded_margins(n: int, m: int, seed: int) -> Sample:
    """Responses differ by x, normal, and margins are multiples of x plus noise; votes are their signs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    signal = rng.uniform(0.2, 0.8, m)
    margins = x[:, None] * signal + rng.normal(size=(n, m))
    z = margins @ signal / np.sqrt(1 + signal @ signal)
    scale = rng.uniform(0.3, 3.0, m)
    return _sample(np.sign(x), np.sign(margins), log_ndtr(z) - log_ndtr(-z), margins * scale)


SCENARIOS: dict[str, Callable[[int, int, int], Sample]] = {
    "independent": independent,
    "correlated block": correlated_block,
    "heterogeneous": heterogeneous,
    "sparse": sparse,
    "one-sided": one_sided,
    "imbalanced": imbalanced,
    "difficulty": difficulty,
    "confounder": confounder,
    "graded margins": graded_margins,
}
