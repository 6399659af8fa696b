"""One record of how well probabilities foretell gold labels: accuracy, log-loss, Brier, ECE, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.metrics import accuracy, brier, ece, log_loss, widened
from labeling.resampling import Groups, group_sums, intervals

FloatArray = npt.NDArray[np.float64]

METRICS = {"accuracy": accuracy, "log_loss": log_loss, "brier": brier, "ece": ece}
"""What is measured, in order."""
BINS = 10
"""Bins of confidence of the ECE."""


@dataclass(frozen=True)
class Figures:
    """How well P(A preferred) foretells gold labels; `_low` and `_high` are the ends of 95 % intervals over groups.

    An end is NaN with one group (`labeling.resampling.intervals`); that of an accuracy near 0 or 1 is
    `labeling.metrics.widened`.
    """

    n: int
    """Pairs with a gold label."""
    n_ties: int
    """Those whose gold label is 0.5; they count for all but accuracy."""
    accuracy: float
    """Share of decided pairs whose likelier response is the preferred one, in [0, 1]; 0.5 counts half."""
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    """Nats; 0.693 is knowing nothing."""
    log_loss_low: float
    log_loss_high: float
    brier: float
    """Mean squared difference, in [0, 1]; 0.25 is knowing nothing (on decided pairs)."""
    brier_low: float
    brier_high: float
    ece: float
    """Expected calibration error, in [0, 1]; biased upwards for few pairs, and so is its interval."""
    ece_low: float
    ece_high: float

    def spans(self, names: Iterable[str]) -> dict[str, float]:
        """Return the figures of these names, each with its `_low` and `_high`."""
        return {f"{name}{end}": getattr(self, f"{name}{end}") for name in names for end in ("", "_low", "_high")}


def measure(
    p_a: FloatArray, gold: FloatArray, groups: Groups | None = None, seed: int = 0, resamples: int = 1000
) -> Figures:
    """Measure P(A preferred) (n,) against gold (n,), NaN where unlabelled; intervals draw whole groups (n,).

    Without groups every pair is its own. Raises GoldError without gold, or for values outside [0, 1].
    """
    known = ~np.isnan(gold)
    p, q = p_a[known], gold[known]
    values = {name: metric(p, q) for name, metric in METRICS.items()}
    units = np.arange(len(q)) if groups is None else groups[known]
    parts = _parts(p, q)
    spans = intervals(parts, _of_sums, units, seed, resamples)
    decided, right = group_sums(parts[:, 1:3], units).T
    spans[0] = widened(float(spans[0, 0]), float(spans[0, 1]), right, decided)
    for name, (low, high) in zip(METRICS, spans, strict=True):
        most = np.inf if name == "log_loss" else 1.0
        if name == "ece":  # drawing again makes every ECE larger: where all draws lie above it, it is the lower end
            low = np.minimum(low, values[name])
        values |= {f"{name}_low": float(np.maximum(low, 0.0)), f"{name}_high": float(np.minimum(high, most))}
    return Figures(n=len(q), n_ties=int((q == 0.5).sum()), **values)


def right_share(p_a: FloatArray, gold: FloatArray) -> FloatArray:
    """Return 1 where the likelier response is the preferred one, 0 where not, 0.5 where p_a or gold is 0.5; (n,)."""
    return np.where((p_a == 0.5) | (gold == 0.5), 0.5, (p_a > 0.5) == (gold > 0.5))


def row_log_loss(p_a: FloatArray, gold: FloatArray) -> FloatArray:
    """Return the log-loss of each row, (n,), in nats, of which `labeling.metrics.log_loss` is the mean."""
    tiny = 1e-12
    p = np.clip(p_a, tiny, 1 - tiny)
    return -(gold * np.log(p) + (1 - gold) * np.log1p(-p))


def _parts(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return, a row, what the figures are sums of: count, decided, right, log-loss, Brier, gap in its bin."""
    decided = (q != 0.5).astype(np.float64)
    confidence = np.maximum(p, 1 - p)
    follows = np.where(p == 0.5, 0.5, np.where(p > 0.5, q, 1 - q))
    at = np.minimum(((confidence - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)
    gaps = np.where(at[:, None] == np.arange(BINS), (confidence - follows)[:, None], 0.0)
    columns = [np.ones(len(p)), decided, decided * right_share(p, q), row_log_loss(p, q), (p - q) ** 2]
    return np.column_stack([*columns, gaps])


def _of_sums(sums: FloatArray) -> FloatArray:
    n, decided, right, loss, squares = sums[:, :5].T
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without a decided pair has no accuracy
        return np.stack([right / decided, loss / n, squares / n, np.abs(sums[:, 5:]).sum(axis=1) / n], axis=1)
