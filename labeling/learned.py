"""Everything a label model learned that turns votes into log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.anchor import Anchor
from labeling.antisymmetric import bounded
from labeling.consensus import Consensus
from labeling.evidence import EvidenceCurve

FloatArray = npt.NDArray[np.float64]
SignArray = npt.NDArray[np.int8]

LEAST_ODDS = 9.0
"""Odds that the posterior may reach whatever the evidence: 0.9."""


@dataclass(frozen=True)
class Learned:
    """Parameters of a fitted label model; voters are in the order of their names."""

    curves: tuple[EvidenceCurve, ...]
    """How each of the m voters' margins become scores."""
    heard: npt.NDArray[np.int64]
    """The voters the consensus listens to."""
    consensus: Consensus
    anchor: Anchor
    exchanged: bool
    """Whether A and B stand exchanged in what was learned."""
    max_logit: float
    """Bound of the log-odds."""

    @property
    def way(self) -> int:
        """What signs and scores are multiplied with before anything else: -1 if A and B stand exchanged, else 1."""
        return -1 if self.exchanged else 1

    def log_odds(self, signs: SignArray, margins: npt.NDArray[np.float32] | None) -> FloatArray:
        """Return the log-odds of A, shape (n,), of signs (n, m) and margins (n, m), None = no margin at all."""
        scores = None if margins is None else self.way * self.scores(margins)
        signs = self.way * signs
        modelled, shares = self.agreed(signs, scores)
        z = modelled * self.anchor.agreed[0] + shares * self.anchor.agreed[1] + self.anchor.intercept
        for j, vote in enumerate(self.anchor.votes):
            z += vote * signs[:, j]
            if scores is not None:
                z += self.anchor.scores[j] * scores[:, j]
        z = bounded(z, self.max_logit)
        if not self.consensus.lopsided:
            z[~signs.any(axis=1)] = 0.0
        return self.way * z

    def scores(self, margins: npt.NDArray[np.float32]) -> FloatArray:
        """Return margins (n, m) as normal scores, > 0 favours A."""
        return np.stack([curve.scores(margins[:, j]) for j, curve in enumerate(self.curves)], axis=1)

    def agreed(self, signs: SignArray, scores: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        """Return the log-odds of the consensus by its model and by the share of votes, each (n,), as exchanged."""
        return self.consensus.log_odds(signs[:, self.heard], None if scores is None else scores[:, self.heard])


def max_logit(n_gold: int, misfit: float) -> float:
    """Return the bound of the log-odds: odds of at most 1 + n_gold + what the agreement of the voters vouches for.

    What a consensus leaves unexplained may be an error all voters share; its square is the share of such errors.
    """
    return float(np.log(1 + n_gold + max(0.1 / misfit**2, LEAST_ODDS)))
