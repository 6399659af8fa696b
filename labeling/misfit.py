"""How far a model is from explaining how often voters agree: what it leaves may be an error that all of them share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from labeling.copies import agreement
from labeling.latent_class import SIGNS, LatentClass, scales, unpack
from labeling.shared_factor import SharedFactor
from labeling.vote_rows import VoteRows

FloatArray = npt.NDArray[np.float64]

FEWEST = 3.5
"""Agreements of two voters below which nothing can be checked: three weights fit three agreements exactly."""
COMPARED_ROWS = 2000
"""Rows with margins on which agreement is compared with what the model expects."""


def misfit(model: LatentClass | SharedFactor, rows: VoteRows) -> tuple[float, float]:
    """Return the root mean square of unexplained agreement: with what so few pairs cannot exclude, and at least."""
    if _agreements(rows) < FEWEST:
        return 1.0, 1.0
    if rows.scores.any():
        rows = rows.part(COMPARED_ROWS)
    if isinstance(model, SharedFactor):
        scores = rows.leanings
        size = np.sqrt(np.maximum(agreement(scores, rows.counts)[0].diagonal(), 1e-12))
        agree, both = agreement(scores / size, rows.counts)
        expected = (np.outer(model.signal, model.signal) + np.outer(model.shared, model.shared)) / np.outer(size, size)
    else:
        agree, both = agreement(rows.signs.astype(np.float64), rows.counts)
        expected = _expected_agreement(model, rows, both)
    return unexplained(agree, expected, both)


def _agreements(rows: VoteRows) -> float:
    """Return how many agreements of two voters there are to compare, those on few pairs counting less.

    That is (sum of w)^2 / sum of w^2, w being how often two both vote: 3 for three voters, also where a fourth never
    votes, 6 for four, 190 for twenty whose functions fire on few pairs each; 0 where nobody votes beside another.
    """
    both = np.triu(np.abs(rows.signs).astype(np.float64).T @ (np.abs(rows.signs) * rows.counts[:, None]), 1)
    return float(both.sum() ** 2 / (both**2).sum()) if both.any() else 0.0


def unexplained(agree: FloatArray, expected: FloatArray, both: FloatArray) -> tuple[float, float]:
    """Return the root mean square of agree - expected, (m, m), beyond chance: two standard errors above, and below."""
    weight = np.triu(both, 1)
    if not weight.any():
        return 1.0, 1.0
    chance = (1 - np.minimum(agree**2, 0.99)) / np.maximum(both, 1)
    excess = (weight * ((agree - expected) ** 2 - chance)).sum() / weight.sum()
    error = np.sqrt(2 * (weight**2 * chance**2).sum()) / weight.sum()
    high, low = np.sqrt(max(excess, 0) + 2 * error), np.sqrt(max(excess - 2 * error, 0))
    return float(min(high, 1.0)), float(min(low, 1.0))


def _expected_agreement(model: LatentClass, rows: VoteRows, both: FloatArray) -> FloatArray:
    """Return the mean product of two voters' signs that the model expects where both vote, (m, m)."""
    p = unpack(model.structure, model.vector)
    a, log_mass = scales(p)
    voted = (rows.signs != 0) * np.sqrt(rows.counts)[:, None]
    sloped = bool(p.slope.any())
    weights = p.weight + p.slope * rows.strengths if sloped else p.weight[None, :]

    def product(first: FloatArray, second: FloatArray) -> FloatArray:
        if not sloped:
            constant: FloatArray = np.outer(first[0], second[0])
            return constant
        joint: FloatArray = (first * voted).T @ (second * voted)
        return np.divide(joint, both, out=np.zeros_like(joint), where=both > 0)

    total = np.zeros_like(both)
    of_source = [2 * expit(p.bias + z * weights) - 1 for z in SIGNS]
    for y in SIGNS:
        for scale, share in zip(a, np.exp(log_mass) * expit(y * p.prior), strict=True):
            said = 2 * expit(p.bias + y * scale * weights) - 1
            within = []
            for block, u in zip(model.structure.blocks, p.source, strict=True):
                members = np.isin(np.arange(len(p.weight)), block)
                chances = expit(scale * u * y * np.array(SIGNS))
                said = np.where(members, chances[0] * of_source[0] + chances[1] * of_source[1], said)
                within.append(
                    (
                        np.outer(members, members),
                        sum(c * product(t, t) for c, t in zip(chances, of_source, strict=True)),
                    )
                )
            expected = product(said, said)
            for inside, of_block in within:
                expected = np.where(inside, of_block, expected)
            total += share * expected
    return total
