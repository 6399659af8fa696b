"""Sparse + low-rank label model: copying between voters and factors they share, told apart in the precision matrix.

After CARE (arXiv 2603.00039): given the hidden factors (quality, confounders such as verbosity), few voters depend on
each other directly, so that the inverse correlation of their evidence is S - L, S sparse and L of low rank.
"""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import fit_logistic, sigmoid
from labeling.checks import check_voters, checked_gold
from labeling.errors import VotesError, WeakprefWarning
from labeling.evidence import EvidenceCurve, evidence, fit_curves
from labeling.logistic_model import evidence_sums, turned
from labeling.patterns import name_order
from labeling.precision import sparse_plus_low_rank
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]

STEPS = 1 << 10
"""Evidence is rounded to multiples of one over this where products are summed: exact, so that no row order matters."""
LEAST_EIGENVALUE = 0.05
"""Of the correlation matrix, which is not definite by itself where voters abstain."""
SPARSE, LOW_RANK = 2.0, 3.0
"""Penalties in units of sampling noise: sqrt(log m / n) on an entry of S, sqrt(m / n) on an eigenvalue of L."""
PULL = 5.0
"""Ridge penalty that holds the factors' scales where they are without gold."""


class SparseLowRank:
    """P(A preferred) from a weighted sum of evidence, weighted by the quality factor's part of the precision matrix.

    Second moments cannot tell which factor is quality. Without gold it is taken to be the one that goes most with the
    voters' mean: the assumption that most are right more often than wrong and share no stronger confounder. Its scale
    follows from the matrix, or from how the sums spread if they look more mixed up. Gold fits all factors' scales.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    curves_: tuple[EvidenceCurve, ...]
    """Evidence of each voter's margins."""
    weights_: FloatArray
    """Shape (m,), in log-odds at full evidence."""
    sparse_: FloatArray
    """S, shape (m, m); off the diagonal is direct dependence, such as copying: negative where voters go together."""
    low_rank_: FloatArray
    """L, shape (m, m), no negative eigenvalue: what shared factors explain."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Learn from all rows and from gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        Raises GoldError as `checked_gold` does and VotesError below three voters. Warns if the solver does not settle,
        and if the voters share no factor, where every posterior is 0.5.
        """
        labels = checked_gold(gold, votes)
        if len(votes.names) < 3:
            raise VotesError(
                f"SparseLowRank needs 3 voters or more, found {len(votes.names)}; use LabelModel or MajorityVote"
            )
        order = name_order(votes.names)
        back = np.argsort(order)
        self.names_, self.curves_ = votes.names, fit_curves(votes)
        x = evidence(self.curves_, votes)[:, order]
        correlation, n_both, size = correlations(np.rint(x * STEPS) / STEPS)
        sparse, low_rank = _split(correlation, n_both)
        weights = factor_weights(correlation, low_rank) / size[:, None]
        scales = np.zeros(weights.shape[1])
        if len(scales):
            scales[0] = mixture_scale(x, weights[:, 0])
            scales = _fit_scales(scales, weights, x, labels)
        self.weights_ = (weights @ scales)[back]
        self.sparse_, self.low_rank_ = sparse[np.ix_(back, back)], low_rank[np.ix_(back, back)]
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in [0, 1]; 0.5 where nobody votes. Raises VotesError for other voters."""
        check_voters(self.names_, votes)
        p_a = sigmoid(evidence_sums(self.curves_, votes, self.weights_))
        return np.where((votes.signs == 0).all(axis=1), 0.5, p_a)


def correlations(x: FloatArray) -> tuple[FloatArray, float, FloatArray]:
    """Return the uncentred correlation of evidence x (n, m), (m, m), and each voter's root mean square, (m,).

    Both are taken where the voters speak; between them stands on how many rows two voters do, the median of the pairs.
    """
    speaks = (x != 0).astype(np.float64)
    squares, counts = (x**2).T @ speaks, speaks.T @ speaks
    scale = np.sqrt(squares * squares.T)
    values, vectors = np.linalg.eigh(np.divide(x.T @ x, scale, out=np.zeros_like(scale), where=scale > 0))
    definite = (vectors * np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    deviation = np.sqrt(np.diag(definite))
    size = np.sqrt(np.diag(squares) / np.maximum(np.diag(counts), 1))
    n_both = float(np.median(counts[~np.eye(len(counts), dtype=bool)]))
    return definite / np.outer(deviation, deviation), max(n_both, 1.0), np.where(size > 0, size, 1.0)


def _split(correlation: FloatArray, n_both: float) -> tuple[FloatArray, FloatArray]:
    """Return S and L (m, m); the penalties are halved until a factor appears, ten times at most."""
    m = len(correlation)
    for halvings in range(11):
        unit = 0.5**halvings / np.sqrt(n_both)
        parts = sparse_plus_low_rank(correlation, SPARSE * unit * np.sqrt(np.log(m)), LOW_RANK * unit * np.sqrt(m))
        if parts[1].any():
            return parts
    warnings.warn(
        f"SparseLowRank found no factor that the {m} voters share: every posterior is 0.5; label some pairs and use "
        f"LabelModel or LogisticModel",
        WeakprefWarning,
        stacklevel=3,
    )
    return parts


def factor_weights(correlation: FloatArray, low_rank: FloatArray) -> FloatArray:
    """Return weights (m, r) of standardised evidence that give each factor's log-odds, most agreed with first.

    If g g' is a factor's part of L and its two classes are equally likely, evidence within a class has the precision
    inv(C) + g g', and the log-odds are 2 sqrt(1 + g' C g) g' x (linear discriminant and Woodbury's identity).
    """
    values, vectors = np.linalg.eigh(low_rank)
    kept = values > 1e-6
    g = vectors[:, kept] * np.sqrt(values[kept])
    separation, with_mean = (g * (correlation @ g)).sum(axis=0), (correlation @ g).sum(axis=0)
    weights = 2 * np.sqrt(1 + separation) * g * np.where(with_mean < 0, -1, 1)
    ordered: FloatArray = weights[:, np.argsort(-np.abs(with_mean) / np.sqrt(separation), kind="stable")]
    return ordered


def mixture_scale(x: FloatArray, weights: FloatArray) -> float:
    """Return c in [0, 1] such that c t are log-odds of the two classes that weighted sums t of evidence x (n, m) show.

    Within the classes, t is taken as N(+-k v, s v), v the sum of squared weights of those who speak; c = 2 k / s, at
    most 1, by expectation maximisation.
    """
    t, v = np.zeros(len(x)), np.zeros(len(x))
    for column, weight in zip(x.T, weights, strict=True):
        t += weight * column
        v += weight**2 * (column != 0)
    rows = np.lexsort((v, np.abs(t)))  # a fixed order, so that sums do not depend on the one given
    rows = rows[v[rows] > 0]
    t, v = np.abs(t[rows]), v[rows]
    scale, before = 1.0, np.inf
    while before - scale > 1e-5:
        wrong = t * (1 - np.tanh(scale * t / 2))
        k = (t - wrong).mean() / v.mean()
        s = ((t - k * v) ** 2 / v + 2 * k * wrong).mean()
        before, scale = scale, float(2 * k / max(s, 2 * k))
    return scale


def _fit_scales(scales: FloatArray, weights: FloatArray, x: FloatArray, labels: FloatArray) -> FloatArray:
    known = np.flatnonzero(~np.isnan(labels))
    if not len(known):
        return scales
    z, q = turned(x[known], labels[known])
    rows = np.lexsort((*z.T, q))
    return fit_logistic(z[rows] @ weights, q[rows], scales, np.full(len(scales), PULL))
