"""Fit a latent-class model: its marginal log-likelihood with the exact gradient, maximised by L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from labeling.evidence import TYPICAL_SCORE
from labeling.latent_class import SIGNS, LatentClass, Structure, scales, unpack

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_STEPS = 1000
"""Steps after which a fit is given up as it is."""
TYPICAL_WEIGHT = 0.8
"""Weight a voter is assumed to have before any agreement is seen, in log-odds: accuracy 0.69."""


@dataclass(frozen=True)
class Table:
    """Distinct rows of votes with their counts; a voter has one column for each strength its votes come in."""

    plus: FloatArray
    """Shape (k, c): 1 where the row has a vote for A in this column."""
    minus: FloatArray
    """Shape (k, c): 1 where the row has a vote for B in this column."""
    counts: FloatArray
    """Shape (k,): how many pairs have this row."""
    voter: IntArray
    """Voter of each column, shape (c,), ascending."""
    strength: FloatArray
    """Strength of the votes in each column, shape (c,), >= 0."""


@dataclass(frozen=True)
class _Voices:
    """Log-probabilities of what voters say given an answer in {+1, -1}, and how their log-odds change them."""

    columns: npt.NDArray[np.bool_]
    eta: tuple[FloatArray, FloatArray]
    """Log-odds (c, K) of a vote for A in each column, for both answers."""
    log_p: tuple[FloatArray, FloatArray]
    """Log-probability (k, K) of the votes in each row, for both answers."""

    def slopes(self, table: Table, shares: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Return the derivative by `eta` of the log-likelihood, (c, K) twice, where rows believe in `shares` (k, K)."""
        plus, minus = table.plus[:, self.columns], table.minus[:, self.columns]
        first, second = (
            expit(-e) * (plus.T @ share) - expit(e) * (minus.T @ share)
            for e, share in zip(self.eta, shares, strict=True)
        )
        return first, second


def _voices(table: Table, columns: npt.NDArray[np.bool_], w: FloatArray, b: FloatArray, a: FloatArray) -> _Voices:
    lean = np.outer(w[columns], a)
    eta = (b[columns, None] + lean, b[columns, None] - lean)
    plus, minus = table.plus[:, columns], table.minus[:, columns]
    first, second = (plus @ log_expit(e) + minus @ log_expit(-e) for e in eta)
    return _Voices(columns, eta, (first, second))


def objective(
    vector: FloatArray, structure: Structure, table: Table, centre: FloatArray, precision: FloatArray
) -> tuple[float, FloatArray]:
    """Return minus the penalised log-likelihood and its gradient; the penalty is precision / 2 (vector - centre)^2."""
    p = unpack(structure, vector)
    a, log_mass = scales(p)
    w = p.weight[table.voter] + p.slope[table.voter] * table.strength
    b = p.bias[table.voter]
    single = _voices(table, np.isin(table.voter, structure.singles), w, b, a)
    copies = [_voices(table, np.isin(table.voter, block), w, b, np.ones(1)) for block in structure.blocks]
    # joint[y][k][z]: log P(z | y, a) P(votes of block k | z), shape (k, K)
    joint = [
        [[log_expit(a * u * y * z) + said for z, said in zip(SIGNS, block.log_p, strict=True)]
         for u, block in zip(p.source, copies, strict=True)]
        for y in SIGNS
    ]  # fmt: skip
    whole = [[np.logaddexp(*terms) for terms in blocks] for blocks in joint]
    log_p = [
        said + log_mass + log_expit(y * p.prior) + sum(blocks, np.zeros(1))
        for y, said, blocks in zip(SIGNS, single.log_p, whole, strict=True)
    ]
    peak = np.maximum(*log_p).max(axis=1, keepdims=True)
    shares = [np.exp(part - peak) for part in log_p]
    mass = (shares[0] + shares[1]).sum(axis=1)
    value = table.counts @ (np.log(mass) + peak[:, 0])
    believed = (shares[0] * (table.counts / mass)[:, None], shares[1] * (table.counts / mass)[:, None])

    d_w, d_b, d_log_a = np.zeros(len(w)), np.zeros(len(w)), np.zeros(len(a))
    d_source = np.zeros(len(copies))
    for y, d_eta in zip(SIGNS, single.slopes(table, believed), strict=True):
        d_w[single.columns] += y * d_eta @ a
        d_b[single.columns] += d_eta.sum(axis=1)
        d_log_a += y * a * (w[single.columns] @ d_eta)
    for k, block in enumerate(copies):
        sources = [np.zeros((len(mass), 1)), np.zeros((len(mass), 1))]
        for i, y in enumerate(SIGNS):
            for j, z in enumerate(SIGNS):
                share = believed[i] * np.exp(joint[i][k][j] - whole[i][k])
                sources[j] += share.sum(axis=1, keepdims=True)
                slack = y * z * share.sum(axis=0) * expit(-a * p.source[k] * y * z)
                d_source[k] += slack @ a
                d_log_a += slack * a * p.source[k]
        for z, d_eta in zip(SIGNS, block.slopes(table, (sources[0], sources[1])), strict=True):
            d_w[block.columns] += z * d_eta[:, 0]
            d_b[block.columns] += d_eta[:, 0]
    gradient = np.concatenate([
        np.bincount(table.voter, d_w, structure.n_voters),
        np.bincount(table.voter, d_w * table.strength, structure.n_voters)[list(structure.sloped)],
        d_source,
        np.full(int(structure.varied), d_log_a @ np.log(a)),
        np.bincount(table.voter, d_b, structure.n_voters)[list(structure.biased)],
        np.full(int(structure.uneven), believed[0].sum() * expit(-p.prior) - believed[1].sum() * expit(p.prior)),
    ])  # fmt: skip
    away = vector - centre
    return float((precision * away**2).sum() / 2 - value), precision * away - gradient


@dataclass(frozen=True)
class Fit:
    """A model with its maximised log-likelihood."""

    model: LatentClass
    log_likelihood: float
    """In nats, over all rows of the table."""
    score: float
    """Log-likelihood less half the log of the number of pairs per parameter (Schwarz 1978)."""
    converged: bool


def fit_latent_class(table: Table, structure: Structure, start: FloatArray | None = None) -> Fit:
    """Maximise the likelihood with a normal prior on every parameter, worth a few votes.

    `start` is a parameter vector to begin from; by default all voters are right more often than wrong, and equally so.
    """
    prior = _prior(structure)
    vector, converged = _maximised(table, structure, prior[0] if start is None else start, prior)
    turned = _likelier_side(vector, structure, prior)
    if (turned != vector).any():
        vector, converged = _maximised(table, structure, turned, prior)
    flat = np.zeros(len(vector))
    log_likelihood = -objective(vector, structure, table, flat, flat)[0]
    score = log_likelihood - len(vector) / 2 * np.log(max(table.counts.sum(), 1.0))
    return Fit(LatentClass(structure, vector), log_likelihood, float(score), converged)


def _maximised(
    table: Table, structure: Structure, start: FloatArray, prior: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, bool]:
    found = minimize(
        objective,
        start,
        args=(structure, table, *prior),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-low, high) for high, low in zip(*_limits(structure), strict=True)],
        options={"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "ftol": 1e-9, "gtol": 1e-4},
    )
    return np.asarray(found.x, dtype=np.float64), bool(found.success)


def _likelier_side(vector: FloatArray, structure: Structure, prior: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Return the vector with the answers of a source, or of the preference, exchanged where that is likelier a priori.

    No vote can tell (+1 and -1 are but names), and a long step of the maximisation may end on the wrong side. What
    counts is what a vote of typical strength weighs, not one of strength 0.
    """
    centre, precision = prior

    def penalty(of: FloatArray) -> float:
        away = of - centre
        away[list(structure.sloped)] += TYPICAL_SCORE * of[structure.n_voters :][: len(structure.sloped)]
        return float(precision @ away**2)

    for exchanged in _exchanges(structure):
        other = vector * exchanged
        if penalty(other) < penalty(vector):
            vector = other
    return vector


def _exchanges(structure: Structure) -> list[FloatArray]:
    """Return what to multiply a vector with to exchange the answers of each source, and of the preference."""
    m, _, n_blocks, *_ = structure.sizes
    exchanges = []
    for k, group in enumerate((*structure.blocks, structure.singles)):
        of_preference = k == n_blocks
        weight = np.where(np.isin(np.arange(m), group), -1.0, 1.0)
        source = np.where((np.arange(n_blocks) == k) | of_preference, -1.0, 1.0)
        unchanged = np.ones(int(structure.varied) + len(structure.biased))
        prior = np.full(int(structure.uneven), -1.0 if of_preference else 1.0)
        exchanges.append(np.concatenate([weight, weight[list(structure.sloped)], source, unchanged, prior]))
    return exchanges


def _limits(structure: Structure) -> tuple[list[float], list[float]]:
    """Return how far up and how far down each parameter may go: no voter is surer than 1 in 400."""
    high = [
        limit for size, limit in zip(structure.sizes, (6.0, 6.0, 6.0, 1.0, 6.0, 6.0), strict=True) for _ in range(size)
    ]
    low = [
        limit for size, limit in zip(structure.sizes, (6.0, 6.0, 6.0, 3.0, 6.0, 6.0), strict=True) for _ in range(size)
    ]
    return high, low


def _prior(structure: Structure) -> tuple[FloatArray, FloatArray]:
    """Return the centre and the precision of the normal prior on each parameter."""
    m, n_slopes, n_blocks, n_spreads, n_biases, n_priors = structure.sizes
    weight, certainty = np.full(m, TYPICAL_WEIGHT), np.full(m, 0.7)
    copies = [j for block in structure.blocks for j in block]
    weight[copies], certainty[copies] = 2.0, 0.25
    means = [
        weight,
        np.zeros(n_slopes),
        np.full(n_blocks, 0.8),
        np.full(n_spreads, -0.7),
        np.zeros(n_biases + n_priors),
    ]
    precisions = [certainty, np.ones(n_slopes + n_blocks), np.full(n_spreads, 2.0), np.full(n_biases, 0.25)]
    return np.concatenate(means), np.concatenate([*precisions, np.full(n_priors, 0.1)])
