"""Verdicts of a judge on pairs: the votes and margins, what they were made of, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from labeling.pairs import Pairs, check_same_pairs
from labeling.returned import Votes
from labeling.voters import Ballot
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What asking a judge took."""

    n_prompts: int
    """Closed questions asked and samples drawn, where a sample counts once."""
    prompt_tokens: int
    """Tokens of the distinct prompts, chat template included."""
    sampled_tokens: int
    """Tokens the model wrote."""
    seconds: float


@dataclass(frozen=True)
class Verdicts:
    """What one judge says of n pairs."""

    name: str
    votes: Votes
    """Shape (n,): 0 = A, 1 = B, -1 = abstain."""
    margins: FloatArray
    """Shape (n,): > 0 favours A; log-odds, or a difference of scores; NaN where the judge gives none."""
    abstained: Mapping[str, int]
    """Why it abstained, and how often; the counts add up to the abstentions."""
    cost: Cost
    shown_first: FloatArray
    """Shape (n,): log-odds of response A when it is shown first; NaN where orders were not asked."""
    shown_second: FloatArray
    """Shape (n,): log-odds of response A when it is shown second; NaN where orders were not asked."""
    scores: FloatArray
    """Shape (n, 2): scores of A and B in [0, 5]; NaN where the judge gives none."""
    n_samples: int = 0
    """Texts drawn that a score was looked for in."""
    n_unparsed: int = 0
    """Those of them that ended in no score; they were dropped."""
    sample_agreement: float = math.nan
    """Share of pairs of samples drawn for one prompt (for a pair in one order, or for a response) that say the same;
    NaN where none has two."""
    n_cut: int = 0
    """Pairs shown with a text cut in the middle."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else is to be known of the judge: its model, criterion and so on, for the record."""
    pair_ids: npt.NDArray[np.str_] | None = None
    """Shape (n,): the pairs that were judged; None where that is not known."""

    def __len__(self) -> int:
        return len(self.votes)

    @property
    def position_bias(self) -> float:
        """Mean log-odds by which being shown first is favoured; the margins are free of it. NaN without both orders."""
        half = (self.shown_first - self.shown_second) / 2
        return float(half[~np.isnan(half)].mean()) if (~np.isnan(half)).any() else float("nan")

    @property
    def flipped(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): whether the better response changes with the order."""
        flips: npt.NDArray[np.bool_] = self.shown_first * self.shown_second < 0
        return flips

    def ballot(self) -> Ballot:
        """Return votes and margins as a voter gives them."""
        return Ballot(self.votes, self.margins.astype(np.float32))

    def check_same(self, pairs: Pairs) -> None:
        """Raise VotesError unless these are the pairs that were judged, in their order; without ids, as many."""
        check_same_pairs(len(self), self.pair_ids, pairs, "verdicts", "judge these pairs")

    def matrix(self, pairs: Pairs) -> VoteMatrix:
        """Return the votes as a matrix of one voter, of the very pairs they are on; raises VotesError for others."""
        self.check_same(pairs)
        ballot = self.ballot()
        return VoteMatrix(ballot.votes[:, None], ballot.margins[:, None], (self.name,), pairs.pair_ids, pairs.groups)


def agreement(samples: FloatArray) -> float:
    """Return the share of pairs of samples of one row that say the same; samples (n, k) are NaN where there is none.

    NaN where no row has two. Unlike the share that agrees with a majority, it does not grow as samples get fewer.

    >>> agreement(np.array([[1, 1, -1], [1, math.nan, 1]]))
    0.5
    """
    first, second = np.triu_indices(samples.shape[1], k=1)
    met = ~np.isnan(samples[:, first]) & ~np.isnan(samples[:, second])
    return float((samples[:, first] == samples[:, second])[met].mean()) if met.any() else math.nan
