"""Intervals of figures that are functions of sums over rows: whole groups are drawn, and only their sums added up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from labeling.metrics import FEW_GROUPS, UNDEFINED

FloatArray = npt.NDArray[np.float64]
Groups = npt.NDArray[np.str_] | npt.NDArray[np.int64]
OfSums = Callable[[FloatArray], FloatArray]

CELLS = 1 << 22
"""Most counts of groups held at a time."""


def intervals(parts: FloatArray, figures: OfSums, groups: Groups, seed: int = 0, resamples: int = 1000) -> FloatArray:
    """Return 95 % intervals, shape (f, 2), of figures of the sums of `parts` (n, k) over rows, groups (n,) drawn whole.

    `figures` takes sums (r, k) and returns (r, f). From `FEW_GROUPS` groups on it is the percentile bootstrap; with
    fewer, where that is too narrow, the jackknife over groups with Student's t, as where a figure is undefined in more
    than `UNDEFINED` of the draws; NaN for a figure that hangs on one group alone. The draws are those
    of `labeling.metrics.interval`, which adds up rows instead.
    """
    sums = group_sums(parts, groups)
    if len(sums) < FEW_GROUPS:
        return _jackknife(sums, figures)
    values = figures(_drawn(sums, np.random.default_rng(seed), resamples))
    found = _by_figure(values, lambda column: np.nanquantile(column, [0.025, 0.975]))
    few = np.isnan(values).mean(axis=0) > UNDEFINED
    return np.where(few[:, None], _jackknife(sums, figures), found) if few.any() else found


def group_sums(parts: FloatArray, groups: Groups) -> FloatArray:
    """Return the sums of `parts` (n, k) over the rows of each group, shape (g, k), groups in sorted order."""
    cluster = np.unique(groups, return_inverse=True)[1]
    return np.stack([np.bincount(cluster, column) for column in parts.T], axis=1)


def _drawn(sums: FloatArray, generator: np.random.Generator, resamples: int) -> FloatArray:
    g = len(sums)
    batch = max(1, CELLS // g)
    totals = []
    for start in range(0, resamples, batch):
        draws = [generator.integers(0, g, g) for _ in range(min(batch, resamples - start))]
        totals.append(np.stack([np.bincount(drawn, minlength=g) for drawn in draws]).astype(np.float64) @ sums)
    return np.concatenate(totals)


def _jackknife(sums: FloatArray, figures: OfSums) -> FloatArray:
    from scipy.stats import t

    g, total = len(sums), sums.sum(axis=0)
    whole = figures(total[None])[0]
    if g < 2:
        return np.full((len(whole), 2), np.nan)
    without = figures(total - sums)
    error = np.sqrt((g - 1) * np.var(without, axis=0))  # NaN for a figure that hangs on one group alone
    half = float(t.ppf(0.975, g - 1)) * error
    return np.stack([whole - half, whole + half], axis=1)


def _by_figure(values: FloatArray, summary: OfSums) -> FloatArray:
    """Return what `summary` makes of each column of (r, f), NaN where a column is nothing else."""
    nothing = np.nan * summary(np.zeros(1))
    return np.array([nothing if np.isnan(column).all() else summary(column) for column in values.T])
