"""A latent-class model of votes: who is preferred, how hard the pair is, and which voters only repeat a common source.

Given the preferred response y in {-1, +1}, the scale a of a pair (log-normal with median 1; a = 1 where pairs are
alike) and the answer z in {-1, +1} of a common source,

    P(single voter says s) = sigmoid(s (a w y + b)),
    P(z) = sigmoid(a u y z),    P(copy of z says s) = sigmoid(s (w z + b)),

where w grows linearly with the strength of the vote. One coin per voter (Dawid and Skene 1979) is the case without
scale, sources and bias b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SIGNS = (1, -1)
NODES, _MASS = np.polynomial.hermite_e.hermegauss(7)
LOG_MASS = np.log(_MASS / _MASS.sum())
"""Quadrature over log a (Gauss-Hermite)."""


@dataclass(frozen=True)
class Structure:
    """Which parts of the model are in use."""

    n_voters: int
    blocks: tuple[tuple[int, ...], ...] = ()
    """Voters that repeat a common source, by index; all others are single."""
    varied: bool = False
    """Whether pairs differ in difficulty."""
    sloped: tuple[int, ...] = ()
    """Voters whose votes come in strengths."""
    biased: tuple[int, ...] = ()
    """Voters that may lean to one position."""
    uneven: bool = False
    """Whether one position may be preferred more often than the other."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the parts of the parameter vector: weight, slope, source, log spread, bias, prior."""
        m = self.n_voters
        return m, len(self.sloped), len(self.blocks), int(self.varied), len(self.biased), int(self.uneven)

    @property
    def singles(self) -> tuple[int, ...]:
        """The voters of no block."""
        copies = {j for block in self.blocks for j in block}
        return tuple(j for j in range(self.n_voters) if j not in copies)


@dataclass(frozen=True)
class Parameters:
    """What is learned, in log-odds."""

    weight: FloatArray
    """Shape (m,): w of a vote of strength 0."""
    slope: FloatArray
    """Shape (m,): growth of w with the strength."""
    source: FloatArray
    """Shape (blocks,): u."""
    spread: float
    """Standard deviation of log a; 0 = pairs are alike."""
    bias: FloatArray
    """Shape (m,): b; > 0 leans to A."""
    prior: float
    """Log-odds of A before any vote."""


def unpack(structure: Structure, vector: FloatArray) -> Parameters:
    """Return the named parts of a parameter vector."""
    m = structure.n_voters
    weight, slope, source, log_spread, bias, prior = np.split(vector, np.cumsum(structure.sizes)[:-1])
    slopes, biases = np.zeros(m), np.zeros(m)
    slopes[list(structure.sloped)] = slope
    biases[list(structure.biased)] = bias
    return Parameters(
        weight,
        slopes,
        source,
        float(np.exp(log_spread[0])) if structure.varied else 0.0,
        biases,
        float(prior[0]) if structure.uneven else 0.0,
    )


def scales(parameters: Parameters) -> tuple[FloatArray, FloatArray]:
    """Return the nodes a (K,) of the difficulty and the log of their shares (K,)."""
    if not parameters.spread:
        return np.ones(1), np.zeros(1)
    return np.exp(parameters.spread * NODES), LOG_MASS


CHUNK = 1 << 14
"""Rows worked on at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class LatentClass:
    """A fitted model."""

    structure: Structure
    vector: FloatArray
    """The parameters, as `unpack` reads them."""

    def log_odds(self, signs: npt.NDArray[np.int8], strengths: FloatArray | None = None) -> FloatArray:
        """Return log P(y = +1 | votes) - log P(y = -1 | votes), shape (n,), of signs and strengths >= 0, both (n, m).

        Voters are added one after the other, so that no row's figure depends on the rows around it.
        """
        p = unpack(self.structure, self.vector)
        a, log_mass = scales(p)
        out = np.empty(len(signs))
        for start in range(0, len(signs), CHUNK):
            rows = slice(start, start + CHUNK)
            s = signs[rows]
            g = None if strengths is None else strengths[rows]
            first, second = self._log_joint(p, a, s, g)
            out[rows] = np.logaddexp.reduce(first + log_mass, axis=1) - np.logaddexp.reduce(second + log_mass, axis=1)
        return out + p.prior

    def log_evidence(self, signs: npt.NDArray[np.int8], strengths: FloatArray | None = None) -> FloatArray:
        """Return log P(signs | who votes, how strongly), shape (n,)."""
        p = unpack(self.structure, self.vector)
        a, log_mass = scales(p)
        first, second = self._log_joint(p, a, signs, strengths)
        both = np.concatenate([first + log_mass + log_expit(p.prior), second + log_mass + log_expit(-p.prior)], axis=1)
        result: FloatArray = np.logaddexp.reduce(both, axis=1)
        return result

    def _log_joint(
        self, p: Parameters, a: FloatArray, s: npt.NDArray[np.int8], g: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Return log P(votes | y, a), shape (n, K), for y = +1 and -1."""

        def said(j: int, answer: FloatArray) -> FloatArray:
            """Return log P(vote of j | answer), (n, K), where `answer` (K,) scales its weight."""
            if g is None or p.slope[j] == 0:
                eta = p.bias[j] + p.weight[j] * answer
                either: FloatArray = np.stack([np.zeros_like(eta), log_expit(eta), log_expit(-eta)])
                return either[s[:, j]]  # -1 = B takes the last
            eta = p.bias[j] + (p.weight[j] + p.slope[j] * g[:, j, None]) * answer
            return np.where(s[:, j, None] == 0, 0.0, log_expit(s[:, j, None] * eta))

        parts = []
        for y in SIGNS:
            total = np.zeros((len(s), len(a)))
            for j in self.structure.singles:
                total += said(j, y * a)
            for block, u in zip(self.structure.blocks, p.source, strict=True):
                sources = [sum((said(j, np.full(1, float(z))) for j in block), np.zeros((len(s), 1))) for z in SIGNS]
                total += np.logaddexp(*(log_expit(a * u * y * z) + of for z, of in zip(SIGNS, sources, strict=True)))
            parts.append(total)
        return parts[0], parts[1]
