"""Majority vote: the share of the voters that prefer A, the baseline of every label model."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.votes import VoteMatrix, check_votes

FloatArray = npt.NDArray[np.float64]


class MajorityVote:
    """Count votes, learn nothing: posterior = votes for A / votes cast; 0.5 where nobody votes or the votes are even.

    >>> votes = VoteMatrix(np.int8([[0, 0, 1], [-1, 1, -1]]), np.full((2, 3), np.nan, np.float32),
    ...                    ("x", "y", "z"), np.array(["p", "q"]))
    >>> MajorityVote().fit(votes).posterior(votes).round(2).tolist()
    [0.67, 0.0]
    """

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002 - nothing to learn
        """Return self: there is nothing to learn."""
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return the share of votes for A among the votes cast, shape (n,), in [0, 1]."""
        check_votes(votes)
        signs = votes.signs.astype(np.float64)
        cast = np.abs(signs).sum(axis=1)
        lead = np.divide(signs.sum(axis=1), cast, out=np.zeros(len(votes)), where=cast > 0)
        larger = 0.5 + np.abs(lead) / 2  # mirrored below, so that swapping the responses gives exactly 1 - p
        share: FloatArray = np.where(lead >= 0, larger, 1 - larger)
        return share
