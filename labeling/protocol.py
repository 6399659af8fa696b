"""What every label model can do: fit on votes and whatever gold there is, and give a posterior."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


class Merger(Protocol):
    """Merges the votes on each pair into P(A preferred); every label model does.

    Exchanging the responses of all pairs (votes exchanged, margins negated, gold 1 - gold) gives exactly 1 - p, and the
    order of rows and of voters changes nothing.
    """

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Learn from the votes and from gold (n,), P(A preferred) in [0, 1], NaN where unlabelled; return self.

        Raises GoldError for gold that does not fit the votes or is too little, VotesError for too few rows or voters.
        """
        ...

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in [0, 1]; raises VotesError for other voters than those fitted."""
        ...
