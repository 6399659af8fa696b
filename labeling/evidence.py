"""Evidence curves: a voter's votes and margins as one bounded, monotone, antisymmetric number per pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]

MAX_SCORE = 3.0
"""Largest normal score: one margin in 370 is farther out."""
TYPICAL_SCORE = 0.8
"""Mean size of a normal score."""
LEVELS = np.linspace(0.0, 1.0, 65)


@dataclass(frozen=True)
class EvidenceCurve:
    """How far a margin leans, as the share of all margins of that voter it exceeds in size."""

    sizes: FloatArray
    """Increasing sizes |margin|, shape (k,); empty for a voter without margins."""
    heights: FloatArray
    """Share of the voter's margins that are smaller, shape (k,), in [0, 1]."""

    def __call__(self, margins: npt.ArrayLike, signs: npt.ArrayLike) -> FloatArray:
        """Return the evidence, shape (n,), in [-1, 1], > 0 favours A; the vote's sign where there is no margin."""
        margin = np.asarray(margins, dtype=np.float64)
        vote = np.asarray(signs, dtype=np.float64)
        if not len(self.sizes):
            return vote
        leaned = np.sign(margin) * np.interp(np.abs(margin), self.sizes, self.heights)
        return np.where(np.isnan(margin), vote, leaned)

    @property
    def median(self) -> float:
        """Median size of a margin; NaN for a voter without margins."""
        return float(np.interp(0.5, self.heights, self.sizes)) if len(self.sizes) else float("nan")

    def scores(self, margins: npt.ArrayLike) -> FloatArray:
        """Return margins as normal scores, shape (n,), in [-3, 3], > 0 favours A; 0 where there is no margin.

        A score is the quantile of the half-normal distribution at the share of smaller margins: a normal margin of mean
        zero comes out in units of its standard deviation.
        """
        margin = np.asarray(margins, dtype=np.float64)
        if not len(self.sizes):
            return np.zeros(len(margin))
        heights = np.minimum(ndtri((1 + self.heights) / 2), MAX_SCORE)
        scores: FloatArray = np.nan_to_num(np.sign(margin) * np.interp(np.abs(margin), self.sizes, heights))
        return scores


def fit_curve(margins: npt.ArrayLike) -> EvidenceCurve:
    """Learn a curve from a voter's margins (n,), NaN = none; exchanging the responses changes nothing."""
    sizes = np.abs(np.asarray(margins, dtype=np.float64))
    sizes = np.sort(sizes[sizes > 0])
    if not len(sizes):
        return EvidenceCurve(np.empty(0), np.empty(0))
    knots = np.unique(np.quantile(sizes, LEVELS))
    below = np.searchsorted(sizes, knots, side="left")
    upto = np.searchsorted(sizes, knots, side="right")
    return EvidenceCurve(knots, (below + upto) / (2 * len(sizes)))


def fit_curves(votes: VoteMatrix) -> tuple[EvidenceCurve, ...]:
    """Learn one curve per voter from all rows, labelled or not."""
    return tuple(fit_curve(votes.margins[:, j]) for j in range(len(votes.names)))


def evidence(curves: tuple[EvidenceCurve, ...], votes: VoteMatrix) -> FloatArray:
    """Return the evidence of every voter on every pair, shape (n, m), in [-1, 1], > 0 favours A, 0 = none."""
    x = np.empty(votes.votes.shape, dtype=np.float64)
    for j, curve in enumerate(curves):
        x[:, j] = curve(votes.margins[:, j], votes.signs[:, j])
    return x
