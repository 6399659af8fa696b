"""Metrics of a probability that A is preferred, against gold: accuracy, log-loss, Brier, calibration, with intervals.

Everywhere `p_a` is P(A preferred), shape (n,), in [0, 1], and `gold` the label as P(A preferred), shape (n,), in [0, 1]
or NaN; rows whose gold is NaN are left out. All are unchanged when the responses are exchanged (1 - p_a, 1 - gold).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.errors import GoldError
from labeling.summary import wilson

FloatArray = npt.NDArray[np.float64]
Metric = Callable[[FloatArray, FloatArray], float]

FEW_GROUPS = 20
"""Below so many groups an interval comes from the jackknife and Student's t."""
UNDEFINED = 0.025
"""Share of draws without what a figure is of, as decided pairs, from which on few groups have it."""
FEW_DISSENTERS = 5
"""Below so many groups with a row that is wrong (or right), resampling tells too little of an accuracy."""


def accuracy(p_a: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Return the share of decided pairs on which the likelier response is the preferred one, in [0, 1].

    Gold ties are left out; a posterior of exactly 0.5 counts as half right.

    >>> accuracy([0.9, 0.2, 0.5, 0.7], [1, 1, 1, 0.5])
    0.5
    """
    p, q = _labelled(p_a, gold)
    decided = q != 0.5
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (q > 0.5))
    return float(right[decided].mean()) if decided.any() else float("nan")


def log_loss(p_a: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Return the mean of -(gold log p + (1 - gold) log(1 - p)) in nats; log 2 = 0.693 is knowing nothing.

    >>> round(log_loss([0.5, 0.5], [1, 0]), 3)
    0.693
    """
    p, q = _labelled(p_a, gold)
    tiny = 1e-12
    p = np.clip(p, tiny, 1 - tiny)
    return float(-(q * np.log(p) + (1 - q) * np.log1p(-p)).mean())


def brier(p_a: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Return the mean squared difference of p_a and gold; 0.25 is knowing nothing (on decided pairs)."""
    p, q = _labelled(p_a, gold)
    return float(((p - q) ** 2).mean())


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: how often the likelier response is preferred, per bin of confidence max(p, 1 - p)."""

    confidence: FloatArray
    """Mean confidence in each non-empty bin, in [0.5, 1]."""
    preferred_share: FloatArray
    """Share of pairs in the bin whose likelier response is the preferred one, ties counting half."""
    n_pairs: npt.NDArray[np.int64]
    """Pairs in each bin."""


def reliability(p_a: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 10) -> Reliability:
    """Bin pairs by confidence max(p, 1 - p) into equal widths over [0.5, 1]; empty bins are left out."""
    p, q = _labelled(p_a, gold)
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, np.where(p > 0.5, q, 1 - q))
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    n = np.bincount(index, minlength=bins)
    full = n > 0
    return Reliability(
        confidence=np.bincount(index, confidence, bins)[full] / n[full],
        preferred_share=np.bincount(index, right, bins)[full] / n[full],
        n_pairs=n[full],
    )


def ece(p_a: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error: the mean over pairs of |confidence - share right| of their bin, in [0, 1].

    Bins are `bins` equal widths of confidence max(p, 1 - p) over [0.5, 1] (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    >>> ece([0.8] * 10, [1] * 8 + [0] * 2) < 1e-12
    True
    """
    diagram = reliability(p_a, gold, bins)
    gap = np.abs(diagram.confidence - diagram.preferred_share)
    return float((gap * diagram.n_pairs).sum() / diagram.n_pairs.sum())


def interval(
    metric: Metric,
    p_a: npt.ArrayLike,
    gold: npt.ArrayLike,
    groups: npt.NDArray[np.str_] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Return a 95 % interval of a metric that takes whole groups (n,) as the units drawn (pairs where None).

    From `FEW_GROUPS` groups on it is the percentile bootstrap; with fewer, where that is too narrow, the jackknife over
    groups with Student's t; an accuracy near 0 or 1 is `widened`. Where one group alone has what the metric is of,
    nothing can be said: (NaN, NaN).
    """
    p, q = np.asarray(p_a, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    labelled = ~np.isnan(q)
    cluster = np.arange(len(q)) if groups is None else np.unique(groups, return_inverse=True)[1]
    cluster = np.unique(cluster[labelled], return_inverse=True)[1]
    p, q = _labelled(p, q)
    order = np.argsort(cluster, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster))[:-1])
    if len(members) < FEW_GROUPS:
        return _of_accuracy(metric, p, q, cluster, *_jackknife(metric, p, q, cluster))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = np.concatenate([members[c] for c in generator.integers(0, len(members), len(members))])
        values.append(metric(p[rows], q[rows]))
    if np.isnan(values).mean() > UNDEFINED:
        return _of_accuracy(metric, p, q, cluster, *_jackknife(metric, p, q, cluster))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return _of_accuracy(metric, p, q, cluster, float(low), float(high))


def widened(low: float, high: float, right: FloatArray, n: FloatArray) -> tuple[float, float]:
    """Return an interval of the share of rows that are right, no narrower than Wilson's where few rows say otherwise.

    `right` (g,) of the `n` (g,) rows of each group are right. Where fewer than `FEW_DISSENTERS` groups, and fewer than
    half of them, hold a row that is wrong (or right), draws of groups hardly ever hold other shares: ten groups that
    are all right would give [1, 1]. There it is joined with Wilson's interval (1927) for as many draws as there are
    groups, as if all rows of a group were one.

    >>> widened(1.0, 1.0, np.ones(10), np.ones(10))
    (0.7224672001371107, 1.0)
    """
    right, n = right[n > 0], n[n > 0]
    dissenters = min(int((right < n).sum()), int((right > 0).sum()))
    g = len(n)
    if low != low or dissenters >= min(FEW_DISSENTERS, g / 2):
        return low, high
    least, most = wilson(float(right.sum() / n.sum()) * g, g)
    return min(low, least), max(high, most)


def _of_accuracy(
    metric: Metric, p: FloatArray, q: FloatArray, cluster: npt.NDArray[np.int64], low: float, high: float
) -> tuple[float, float]:
    """Return an interval, widened where it is of the accuracy."""
    if metric is not accuracy:
        return low, high
    decided = q != 0.5
    share = np.where(p == 0.5, 0.5, (p > 0.5) == (q > 0.5))
    right, n = (np.bincount(cluster, values).astype(np.float64) for values in (decided * share, decided))
    return widened(low, high, right, n)


def accuracy_interval(
    p_a: npt.ArrayLike, gold: npt.ArrayLike, groups: npt.NDArray[np.str_] | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of `accuracy`, cut to [0, 1]."""
    low, high = interval(accuracy, p_a, gold, groups, seed)
    return max(low, 0.0) if low == low else low, min(high, 1.0) if high == high else high


def _jackknife(metric: Metric, p: FloatArray, q: FloatArray, cluster: npt.NDArray[np.int64]) -> tuple[float, float]:
    from scipy.stats import t

    n_groups = int(cluster.max()) + 1
    if n_groups < 2:
        return float("nan"), float("nan")
    without = np.array([metric(p[cluster != c], q[cluster != c]) for c in range(n_groups)])
    error = np.sqrt((n_groups - 1) * np.var(without))  # NaN where the metric hangs on one group alone
    half = float(t.ppf(0.975, n_groups - 1)) * float(error)
    whole = metric(p, q)
    return whole - half, whole + half


def _labelled(p_a: npt.ArrayLike, gold: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    p, q = np.asarray(p_a, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 1:
        raise GoldError(f"p_a has shape {p.shape} and gold {q.shape}; expected the same (n,)")
    known = ~np.isnan(q)
    if not known.any():
        raise GoldError("no gold label at all: nothing can be measured; pass pairs of which some are labelled")
    if ((q[known] < 0) | (q[known] > 1)).any():
        raise GoldError("gold must be P(A preferred) in [0, 1], NaN where unlabelled")
    if np.isnan(p[known]).any() or ((p[known] < 0) | (p[known] > 1)).any():
        raise GoldError("p_a must be a probability in [0, 1] without NaN")
    return p[known], q[known]
