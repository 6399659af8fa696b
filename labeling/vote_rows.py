"""Rows of votes that stand for many, with margins as scores: what is learned from without gold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labeling.sample import even_draws

FloatArray = npt.NDArray[np.float64]
SignArray = npt.NDArray[np.int8]


@dataclass(frozen=True)
class VoteRows:
    """Distinct or drawn rows of m voters."""

    signs: SignArray
    """Shape (k, m): +1 = A, -1 = B, 0 = abstain."""
    scores: FloatArray
    """Shape (k, m): margins as normal scores, > 0 favours A; 0 where there is none."""
    counts: FloatArray
    """Shape (k,): how often each row was seen."""

    @property
    def strengths(self) -> FloatArray:
        """Size of the score of each vote, shape (k, m); 0 where there is no vote or no margin."""
        return strengths(self.signs, self.scores)

    @property
    def leanings(self) -> FloatArray:
        """Scores, and votes as +-1 where there is no margin, shape (k, m)."""
        return leanings(self.signs, self.scores)

    @property
    def graded(self) -> FloatArray:
        """Votes and scores as numbers in [-1, 1], shape (k, m)."""
        return grade(self.signs, self.scores)

    def turned(self) -> VoteRows:
        """Return the rows with responses exchanged so that the first vote is for A."""
        first = self.signs[np.arange(len(self.signs)), (self.signs != 0).argmax(axis=1)]
        turn = (first < 0)[:, None]
        return replace(
            self, signs=np.where(turn, -self.signs, self.signs), scores=np.where(turn, -self.scores, self.scores)
        )

    def part(self, size: int) -> VoteRows:
        """Return `size` draws at even distances from the rows as they are ordered, or all rows if there are no more."""
        if len(self.counts) <= size:
            return self
        chosen, hits = even_draws(self.counts, size)
        return VoteRows(self.signs[chosen], self.scores[chosen], hits)


def strengths(signs: SignArray, scores: FloatArray) -> FloatArray:
    """Return the size of the score of each vote, (n, m); 0 where there is no vote or no margin."""
    return np.where(signs != 0, np.abs(scores), 0.0)


def leanings(signs: SignArray, scores: FloatArray) -> FloatArray:
    """Return scores (n, m), and votes as +-1 where there is no margin."""
    return np.where(scores != 0, scores, signs)


def grade(signs: SignArray, scores: FloatArray) -> FloatArray:
    """Return scores as numbers in [-1, 1], and votes as +-1 where there is no margin; both of one shape.

    tanh(0.8 z) is, but for 0.02, the share of margins smaller than one of score z, with its sign.
    """
    return np.where(scores != 0, np.tanh(0.8 * scores), signs)
