"""Noise-aware vote: every vote counts with the log-odds of its voter's accuracy on gold (naive Bayes)."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from labeling.antisymmetric import sigmoid
from labeling.checks import check_voters, gold_lead, needed_gold
from labeling.patterns import row_sums
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


class NoiseAware:
    """Weigh votes by how often each voter is wrong on gold, as if voters erred independently; margins are not read.

    Exchanging the responses of any rows mirrors just those rows' posterior, exactly.
    """

    names_: tuple[str, ...] = ()
    """The voters fitted on, m of them."""
    noise_: FloatArray
    """P(wrong | votes) of each voter, shape (m,), with one pseudo-vote right and one wrong; 1/2 if never checked."""
    weights_: FloatArray
    """Log-odds of being right, shape (m,); negative: the opposite of what this voter says is likelier."""

    def fit(self, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> Self:
        """Count errors on gold (n,), P(A preferred) in [0, 1], NaN where unlabelled.

        Raises GoldError without gold, and for gold of another shape, outside [0, 1] or of one class.
        """
        lead = gold_lead(needed_gold(gold, votes, "NoiseAware"))
        known = np.flatnonzero(~np.isnan(lead))
        signs = votes.take(known).signs.astype(np.float64)
        cast = np.abs(signs).sum(axis=0)
        wrong = cast / 2 - lead[known] @ signs  # exact: leads are multiples of 2^-20
        self.names_ = votes.names
        self.noise_ = (wrong + 1) / (cast + 2)
        self.weights_ = np.log1p(-self.noise_) - np.log(self.noise_)
        return self

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), in (0, 1); 0.5 where nobody votes. Raises VotesError for other voters."""
        check_voters(self.names_, votes)
        says = np.column_stack([self.weights_, -self.weights_, np.zeros(len(self.weights_))])
        return sigmoid(row_sums(votes, says))
