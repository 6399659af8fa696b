"""What gold labels add to a consensus: a linear correction of its log-odds, as far as the gold pairs bear it out.

logit P(A) = c * model + d * share of votes + sum over voters (v_j sign_j + s_j score_j) + intercept. Candidates are
the consensus as it is, scaled, and corrected by votes or by votes and margins under one of several ridge penalties,
with the consensus or without it. They are averaged by their marginal likelihood (Bayesian model averaging): few gold
pairs tell them apart only roughly, and a correction that takes many numbers to say must explain more. A corrected
consensus is as unsure as its coefficients are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import fit_logistic, log_evidence, predictive_factor, sigmoid
from labeling.evidence import TYPICAL_SCORE
from labeling.folds import group_folds, row_folds
from labeling.metrics import log_loss

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Candidate ridge penalties on what a voter adds to the consensus, in pairs times squared log-odds."""
FACTOR_PULL = 2.0
"""Pull of the factors of the consensus towards what they are without gold, and of the intercept towards 0."""
UNTOUCHED = (0.2, 0.9)
"""Probability, before any gold is seen, that the consensus needs no correction: with trust 0, and with trust 1."""
SCALED = 0.2
"""Probability, if it needs one, that a factor is all it needs."""
KEPT = 0.8
"""Probability, if voters need corrections, that these are added to the consensus; otherwise they take its place."""
FEW_PAIRS = 500
"""Up to so many gold pairs are cross-fitted in 10 folds, more in 5."""


@dataclass(frozen=True)
class Anchor:
    """The correction: how the parts add up to the log-odds of A."""

    agreed: FloatArray
    """Shape (2,): factors of the log-odds of the consensus' model and of the share of votes."""
    votes: FloatArray
    """Shape (m,): log-odds a vote adds to it."""
    scores: FloatArray
    """Shape (m,): log-odds a margin of score 1 adds to it."""
    intercept: float
    """Log-odds of A whatever is voted; 0 unless A and B are told apart."""


@dataclass(frozen=True)
class GoldRows:
    """What is known of the gold pairs, in a fixed order; A and B exchanged in rows so that no order of them matters."""

    agreed: FloatArray
    """Shape (n, 2): log-odds of the consensus' model, and of the share of votes."""
    signs: FloatArray
    """Shape (n, m): +1 = A, -1 = B, 0 = abstain."""
    scores: FloatArray
    """Shape (n, m): margins as normal scores, 0 = none."""
    side: FloatArray
    """Shape (n,): 1, or -1 where A and B were exchanged; what an intercept multiplies."""
    q: FloatArray
    """Shape (n,): P(first response preferred)."""
    folds: IntArray
    """Shape (n,)."""

    def logits(self, anchor: Anchor) -> FloatArray:
        """Return what an anchor makes of the rows, shape (n,)."""
        coefficients = np.concatenate([anchor.agreed, anchor.votes, anchor.scores, np.full(1, anchor.intercept)])
        result: FloatArray = self.design() @ coefficients
        return result

    def design(self) -> FloatArray:
        """Return what coefficients multiply, shape (n, 2 m + 3): consensus, signs, scores and side."""
        return np.column_stack([self.agreed, self.signs, self.scores, self.side])


def gold_rows(
    agreed: FloatArray,
    signs: FloatArray,
    scores: FloatArray,
    q: FloatArray,
    groups: npt.NDArray[np.str_] | None,
    ids: npt.NDArray[np.str_] | None = None,
) -> tuple[GoldRows, IntArray]:
    """Return the gold pairs, the likelier response of each first, sorted; and the order they were put in."""
    first = (signs + scores)[np.arange(len(q)), ((signs + scores) != 0).argmax(axis=1)]
    side = np.where(np.where(q == 0.5, first < 0, q < 0.5), -1.0, 1.0)
    x = np.column_stack([signs, scores]) * side[:, None] + 0.0  # + 0.0 makes -0.0 one with 0.0
    q = np.maximum(q, 1 - q)
    n_folds = 10 if len(q) <= FEW_PAIRS else 5
    if groups is None:
        # Dealt out by what pairs are, not by their labels, or every fold would hold its share of the errors.
        unlabelled = np.column_stack([signs, scores]) * np.where(first < 0, -1.0, 1.0)[:, None] + 0.0
        folds = row_folds(np.column_stack([q, side, unlabelled, _numbers(ids, len(q))]), n_folds)
    else:
        folds = group_folds(groups, n_folds)
    order = np.lexsort((folds, side, *x.T, q))
    m = signs.shape[1]
    x = x[order]
    rows = GoldRows(
        (agreed * side[:, None] + 0.0)[order], x[:, :m], x[:, m:], side[order], q[order], np.asarray(folds[order])
    )
    return rows, order


def _numbers(ids: npt.NDArray[np.str_] | None, n: int) -> FloatArray:
    """Return a number (n,) for each id that has nothing to do with what it says; 0 without ids."""
    if ids is None:
        return np.zeros(n)
    digests = [hashlib.blake2b(str(name).encode(), digest_size=6).digest() for name in ids]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.float64)


def fit_anchor(rows: GoldRows, trust: float, lopsided: bool) -> Anchor:
    """Fit the correction on gold rows to a consensus that is `trust` of its model and the rest of the share of votes.

    With `lopsided` A and B are told apart, and there is an intercept.
    """
    m = rows.signs.shape[1]
    coefficients, evidence = zip(*_candidates(rows, np.array([trust, 1 - trust]), lopsided), strict=True)
    untouched = UNTOUCHED[0] + (UNTOUCHED[1] - UNTOUCHED[0]) * trust
    corrected = np.tile([KEPT, 1 - KEPT], (len(evidence) - 2) // 2) / max((len(evidence) - 2) // 2, 1)
    prior = np.concatenate([[untouched], (1 - untouched) * np.array([SCALED, *((1 - SCALED) * corrected)])])
    share = prior * np.exp(np.array(evidence) - max(evidence))
    c = _monotone((share / share.sum()) @ np.stack(coefficients), m)
    return Anchor(c[:2], c[2 : m + 2], c[m + 2 : -1], float(c[-1]))


def held_out_logits(rows: GoldRows, trust: float, lopsided: bool) -> FloatArray:
    """Return logits of the gold rows, (n,), each by an anchor fitted on the other folds; empty for a single fold."""
    folds = np.unique(rows.folds)
    if len(folds) < 2:
        return np.zeros(0)
    logits = np.empty(len(rows.q))
    for fold in folds:
        out = rows.folds == fold
        logits[out] = _part(rows, out).logits(fit_anchor(_part(rows, ~out), trust, lopsided))
    return logits


def _part(rows: GoldRows, kept: npt.NDArray[np.bool_]) -> GoldRows:
    return GoldRows(
        rows.agreed[kept], rows.signs[kept], rows.scores[kept], rows.side[kept], rows.q[kept], rows.folds[kept]
    )


def _candidates(rows: GoldRows, consensus: FloatArray, lopsided: bool) -> Iterator[tuple[FloatArray, float]]:
    """Yield coefficients (2 m + 3,) of the design, and their log marginal likelihood."""
    m, design = rows.signs.shape[1], rows.design()
    as_it_is = np.concatenate([consensus, np.zeros(2 * m + 1)])
    blend = design @ as_it_is
    yield as_it_is, -len(rows.q) * log_loss(sigmoid(blend), rows.q)
    one, pull = np.ones(1), np.full(1, FACTOR_PULL)
    factor = fit_logistic(blend[:, None], rows.q, one, pull)
    yield factor[0] * as_it_is, log_evidence(blend[:, None], rows.q, factor, one, pull)
    side = np.array([2 * m + 2] if lopsided else [], dtype=np.int64)
    for penalty in PENALTIES:
        precision = np.full(2 * m + 3, penalty)
        precision[[0, 1, -1]] = FACTOR_PULL
        for voters in _kinds(rows):
            for agreed in (np.arange(2), np.arange(0)):
                columns = np.concatenate([agreed, voters, side])
                yield _corrected(design, rows.q, columns, as_it_is, precision)


def _kinds(rows: GoldRows) -> list[IntArray]:
    """Return the columns of votes, and of votes and scores."""
    spoken = 2 + np.flatnonzero(rows.signs.any(axis=0))
    leaned = 2 + rows.signs.shape[1] + np.flatnonzero(rows.scores.any(axis=0))
    return [spoken, np.concatenate([spoken, leaned])] if len(leaned) else [spoken]


def _corrected(
    design: FloatArray, q: FloatArray, columns: IntArray, centre: FloatArray, precision: FloatArray
) -> tuple[FloatArray, float]:
    """Fit the named columns, pulled to `centre`; of a voter whose vote and score oppose, only the stronger is used."""
    m, used = (len(centre) - 3) // 2, columns
    while True:
        w = fit_logistic(design[:, used], q, centre[used], precision[used])
        coefficients = np.zeros(len(centre))
        coefficients[used] = w
        contrary = (coefficients != 0) & (_monotone(coefficients, m) == 0)
        if not contrary.any():
            x, pull = design[:, used], precision[used]
            return predictive_factor(x, w, pull) * coefficients, log_evidence(x, q, w, centre[used], pull)
        used = used[~contrary[used]]


def _monotone(coefficients: FloatArray, m: int) -> FloatArray:
    """Return coefficients with the weaker of a voter's vote and score 0 where they oppose each other.

    More margin then never means less: the evidence of a voter is monotone in its margin.
    """
    result = coefficients.copy()
    vote, score = result[2 : m + 2], result[m + 2 : -1]
    opposed, weaker = vote * score < 0, np.abs(vote) < TYPICAL_SCORE * np.abs(score)
    vote[opposed & weaker] = 0.0
    score[opposed & ~weaker] = 0.0
    return result
