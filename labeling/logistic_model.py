"""Antisymmetric logistic regression on gold alone: what a label model has to beat where labels are many."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import fit_logistic, sigmoid
from labeling.checks import check_voters, needed_gold
from labeling.evidence import EvidenceCurve, evidence, fit_curves
from labeling.folds import group_folds, row_folds
from labeling.metrics import log_loss
from labeling.patterns import name_order
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Candidate ridge penalties on the weights, in units of pairs times squared log-odds."""
N_FOLDS = 10


class LogisticModel:
    """logit P(A preferred) = sum over voters of weight times evidence (see `labeling.evidence`), fitted on gold rows.

    The ridge penalty is the one with the lowest log-loss on gold pairs of held-out groups. Unlabelled rows only shape
    the evidence curves. Exchanging the responses of all pairs gives exactly 1 - p.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    curves_: tuple[EvidenceCurve, ...]
    """Evidence of each voter's margins."""
    weights_: FloatArray
    """Shape (m,), in log-odds at full evidence."""
    penalty_: float
    """The penalty chosen; the largest if all gold pairs are of one group, which leaves nothing to hold out."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Fit on gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        Raises GoldError without gold, and for gold of another shape, outside [0, 1] or of one class.
        """
        labels = needed_gold(gold, votes, "LogisticModel")
        known = np.flatnonzero(~np.isnan(labels))
        order = name_order(votes.names)
        self.names_, self.curves_ = votes.names, fit_curves(votes)
        x, q = turned(evidence(self.curves_, votes.take(known))[:, order], labels[known])
        groups = None if votes.groups is None else votes.groups[known]
        folds = row_folds(np.column_stack([x, q]), N_FOLDS) if groups is None else group_folds(groups, N_FOLDS)
        rows = np.lexsort((folds, *x.T, q))  # a fixed order, so that sums do not depend on the one given
        x, q, folds = x[rows], q[rows], folds[rows]
        losses = [_held_out_loss(x, q, folds, penalty) for penalty in PENALTIES]
        self.penalty_ = PENALTIES[int(np.argmin(losses))] if folds.max() > 0 else PENALTIES[-1]
        self.weights_ = _weights(x, q, self.penalty_)[np.argsort(order)]
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in (0, 1); 0.5 where nobody votes. Raises VotesError for other voters."""
        check_voters(self.names_, votes)
        p_a = sigmoid(evidence_sums(self.curves_, votes, self.weights_))
        return np.where((votes.signs == 0).all(axis=1), 0.5, p_a)


def turned(x: FloatArray, q: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Exchange responses so that q >= 0.5, and where q = 0.5 so that the first evidence favours A; x (n, m), q (n,)."""
    first = x[np.arange(len(x)), (x != 0).argmax(axis=1)]
    turn = np.where(q == 0.5, first < 0, q < 0.5)
    return np.where(turn[:, None], -x, x) + 0.0, np.maximum(q, 1 - q)  # + 0.0 makes -0.0 one with 0.0


def evidence_sums(curves: tuple[EvidenceCurve, ...], votes: VoteMatrix, weights: FloatArray) -> FloatArray:
    """Return the sum over voters of weight (m,) times evidence, (n,), added one by one in the order of their names."""
    sums, signs = np.zeros(len(votes)), votes.signs
    for j in name_order(votes.names):
        sums += weights[j] * curves[j](votes.margins[:, j], signs[:, j])
    return sums


def _weights(x: FloatArray, q: FloatArray, penalty: float) -> FloatArray:
    m = x.shape[1]
    return fit_logistic(x, q, centre=np.zeros(m), penalty=np.full(m, penalty))


def _held_out_loss(x: FloatArray, q: FloatArray, folds: IntArray, penalty: float) -> float:
    p = np.full(len(q), 0.5)
    for fold in np.unique(folds):
        out = folds == fold
        p[out] = sigmoid(x[out] @ _weights(x[~out], q[~out], penalty))
    return log_loss(p, q)
