"""Two reward models on the same pairs: the differences, their intervals, and whether chance would do as much."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeling.figures import right_share, row_log_loss
from labeling.pairs import Pairs
from labeling.resampling import group_sums, intervals
from rm.evaluation import check_unseen, warn_of_use, with_gold
from rm.model import score
from rm.temperature import probability, temperature_of

FloatArray = npt.NDArray[np.float64]

FEW_GROUPS = 12
"""Up to so many groups all changes of sign are tried."""
FLIPS = 9_999
"""Random changes of sign tried with more groups."""


@dataclass(frozen=True)
class Comparison:
    """The first model minus the second on the same pairs; `p_` are probabilities of such a difference by chance.

    A p-value is that of a sign-flip (paired permutation) test over whole groups: were the models exchangeable, each
    group's difference could as well have had the other sign. McNemar's test would be wrong here: it takes pairs as
    independent, and the pairs of a prompt or topic are not.
    """

    n: int
    """Pairs with a gold label."""
    n_groups: int
    n_ties: int
    """Pairs whose gold label is 0.5: left out of the accuracy."""
    accuracy: float
    """Difference in accuracy, in [-1, 1]; > 0: the first is better."""
    accuracy_low: float
    """Lower end of the 95 % interval, both models on the same draws of groups; NaN with one group."""
    accuracy_high: float
    p_accuracy: float
    """Two-sided, in (0, 1]; with g groups it cannot be below 2 / 2^g."""
    log_loss: float
    """Difference in log-loss in nats, each model with its own temperature; < 0: the first is better."""
    log_loss_low: float
    log_loss_high: float
    p_log_loss: float
    disagreement_share: float
    """Share of pairs on which the two prefer different responses."""


def compare(first: str | Path, second: str | Path, pairs: Pairs, *, seed: int = 0) -> Comparison:
    """Compare two saved reward models on the pairs that have a gold label.

    Raises DataError where there is no gold label, GroupLeakError where either was trained on a pair's prompt.
    """
    known = with_gold(pairs)
    for model in (first, second):
        check_unseen(model, known)
        warn_of_use(model, known)
    one, other = (probability(score(model, known), temperature_of(model)) for model in (first, second))
    return compare_probabilities(one, other, known, seed=seed)


def compare_probabilities(one: FloatArray, other: FloatArray, pairs: Pairs, *, seed: int = 0) -> Comparison:
    """Compare two P(A preferred), shape (n,), on n pairs; those without gold are left out."""
    known = ~np.isnan(pairs.gold)
    p, r, gold, groups = one[known], other[known], pairs.gold[known], pairs.groups[known]
    decided = gold != 0.5
    right = np.where(decided, right_share(p, gold) - right_share(r, gold), 0.0)
    loss = row_log_loss(p, gold) - row_log_loss(r, gold)
    parts = np.column_stack([right, decided, loss, np.ones(len(gold))]).astype(np.float64)
    (accuracy_low, accuracy_high), (loss_low, loss_high) = intervals(parts, _differences, groups, seed).tolist()
    sums = group_sums(parts, groups)
    accuracy, log_loss = (float(value) for value in _differences(sums.sum(axis=0)[None])[0])
    return Comparison(
        n=len(gold),
        n_groups=len(sums),
        n_ties=int((~decided).sum()),
        accuracy=accuracy,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        p_accuracy=sign_flip(sums[:, 0], seed),
        log_loss=log_loss,
        log_loss_low=loss_low,
        log_loss_high=loss_high,
        p_log_loss=sign_flip(sums[:, 2], seed),
        disagreement_share=float((np.sign(p - 0.5) != np.sign(r - 0.5)).mean()),
    )


def sign_flip(differences: FloatArray, seed: int = 0) -> float:
    """Return the two-sided p-value of the sum of independent differences (g,) that are symmetric around 0 by chance.

    All 2^g signs up to `FEW_GROUPS` differences other than 0, else `FLIPS` random ones and the observed one (Phipson &
    Smyth 2010, arXiv 1603.05766).

    >>> sign_flip(np.array([1.0, 1.0, 1.0])), sign_flip(np.zeros(5))
    (0.25, 1.0)
    """
    told = differences[differences != 0]
    if len(told) <= FEW_GROUPS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(told)))).reshape(2 ** len(told), len(told))
        return float((np.abs(signs @ told) >= _nearly(told)).mean())
    generator = np.random.default_rng(seed)
    batches = (generator.integers(0, 2, (FLIPS // 9, len(told)), dtype=np.int8) for _ in range(9))
    more = sum(int((np.abs((2.0 * batch - 1) @ told) >= _nearly(told)).sum()) for batch in batches)
    return (more + 1) / (FLIPS + 1)


def _nearly(told: FloatArray) -> float:
    """Return the observed sum, less what rounding may take from an equal one."""
    return abs(float(told.sum())) - 1e-12 * float(np.abs(told).sum())


def _differences(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]], axis=1)
