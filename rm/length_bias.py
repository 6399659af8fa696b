"""Is it the longer response that a reward model likes? Accuracy by length difference, and correlation with length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy.stats import rankdata

from labeling.figures import right_share
from labeling.pairs import Pairs
from labeling.resampling import Groups, group_sums, intervals

FloatArray = npt.NDArray[np.float64]

EDGES = (0.2, 0.5)
"""Where the bins of the length difference, as a share of the longer response, part."""
BINS = (
    "shorter by over 50 %", "shorter by 20-50 %", "shorter by up to 20 %", "equal",
    "longer by up to 20 %", "longer by 20-50 %", "longer by over 50 %",
)  # fmt: skip
"""The preferred response compared with the other, in characters, as a share of the longer one."""


@dataclass(frozen=True)
class LengthBias:
    """How far a reward model goes by length; lengths are in characters, gold ties are left out of the accuracies."""

    n_longer: int
    """Decided pairs whose preferred response is the longer one."""
    n_shorter: int
    accuracy_longer: float
    """Accuracy on them, in [0, 1]; NaN without any."""
    accuracy_shorter: float
    controlled_accuracy: float
    """Mean of `accuracy_longer` and `accuracy_shorter`, so that both kinds of pairs count equally, however many there
    are (balanced accuracy: Brodersen et al. 2010, doi 10.1109/ICPR.2010.764). "Always longer" has 0.5."""
    controlled_accuracy_low: float
    """Lower end of the 95 % interval over groups."""
    controlled_accuracy_high: float
    correlation: float
    """Spearman's rank correlation of r_a - r_b with the length difference, in [-1, 1], each pair in both orders."""
    correlation_low: float
    correlation_high: float


def length_bias(margins: FloatArray, pairs: Pairs, seed: int = 0) -> LengthBias:
    """Measure margins r_a - r_b (n,) against the lengths of n pairs that have gold labels."""
    gold, longer = pairs.gold, length_differences(pairs)
    decided = (gold != 0.5) & (longer != 0)
    agrees = decided & ((longer > 0) == (gold > 0.5))
    against = decided & ~agrees
    right = right_share(np.where(margins == 0, 0.5, margins > 0), gold)
    x, y = signed_ranks(margins), signed_ranks(longer)
    parts = np.column_stack([agrees, agrees * right, against, against * right, x * y, x * x, y * y]).astype(np.float64)
    groups: Groups = pairs.groups
    totals = group_sums(parts, np.zeros(len(gold), dtype=np.int64))
    with_longer, with_shorter = (float(share) for share in _accuracies(totals)[0])
    controlled, correlation = (float(value) for value in _figures(totals)[0])
    spans = intervals(parts, _figures, groups, seed)
    low, high = np.maximum(spans[:, 0], [0, -1]), np.minimum(spans[:, 1], 1)
    return LengthBias(
        int(agrees.sum()), int(against.sum()), with_longer, with_shorter,
        controlled, float(low[0]), float(high[0]), correlation, float(low[1]), float(high[1]),
    )  # fmt: skip


def length_differences(pairs: Pairs) -> FloatArray:
    """Return by how many characters response A is longer than B, shape (n,)."""
    a, b = lengths(pairs)
    return a - b


def lengths(pairs: Pairs) -> tuple[FloatArray, FloatArray]:
    """Return the characters of responses A and of responses B, each (n,)."""
    a, b = (pc.utf8_length(pairs.table[name]).to_numpy().astype(np.float64) for name in ("response_a", "response_b"))
    return a, b


def length_bins(pairs: Pairs) -> npt.NDArray[np.str_]:
    """Return which of `BINS` each pair is in, shape (n,); '' for gold ties and pairs without gold."""
    a, b = lengths(pairs)
    share = np.where(pairs.gold > 0.5, a - b, b - a) / np.maximum(np.maximum(a, b), 1)
    step = np.where(share == 0, 0, 1 + np.searchsorted(EDGES, np.abs(share), side="left"))
    at = len(EDGES) + 1 + np.where(share > 0, step, -step)
    decided = ~np.isnan(pairs.gold) & (pairs.gold != 0.5)
    return np.where(decided, np.array(BINS)[at], "")


def always_longer(pairs: Pairs) -> FloatArray:
    """Return P(A preferred) (n,) of 'the longer response', as sure in each group as it is right in the other groups.

    The share right there is smoothed by one pair right and one wrong; it is never below 0.5.
    """
    longer, gold = np.sign(length_differences(pairs)), pairs.gold
    counted = ~np.isnan(gold) & (gold != 0.5) & (longer != 0)
    right = counted & ((longer > 0) == (gold > 0.5))
    group = np.unique(pairs.groups, return_inverse=True)[1]
    inside = group_sums(np.column_stack([counted, right]).astype(np.float64), pairs.groups)
    n, n_right = (inside.sum(axis=0) - inside).T
    confidence = np.maximum((n_right + 1) / (n + 2), 0.5 + 1e-9)
    p_a: FloatArray = 0.5 + longer * (confidence[group] - 0.5)
    return p_a


def signed_ranks(values: FloatArray) -> FloatArray:
    """Return the centred ranks that values (n,) have among themselves and their negatives, shape (n,).

    >>> signed_ranks(np.array([0.1, -7.0, 0.0])).tolist()
    [1.5, -2.5, 0.0]
    """
    ranks: FloatArray = rankdata(np.abs(values))
    return np.sign(values) * (ranks - 0.5)


def _accuracies(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([sums[:, 1] / sums[:, 0], sums[:, 3] / sums[:, 2]], axis=1)


def _figures(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = sums[:, 4] / np.sqrt(sums[:, 5] * sums[:, 6])
    return np.stack([_accuracies(sums).mean(axis=1), correlation], axis=1)
