"""What a method of self-improvement is: a rule that labels the pool anew in each iteration, and the models it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from augment.self_labels import SelfLabels
from labeling.pairs import Pairs
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ground:
    """What a loop works on: n pairs, of which some show their label."""

    pairs: Pairs
    """All pairs. Only those of the seed have gold: it trains."""
    watched: BoolArray
    """Shape (n,): pairs whose label trains nothing, and is looked at in every iteration."""
    true: FloatArray
    """Shape (n,): every label there is, NaN where unknown; for measuring and for controls only."""
    votes: VoteMatrix | None = None
    """Votes of labeling functions and judges on the pairs."""

    @cached_property
    def seed(self) -> BoolArray:
        """Pairs whose label trains, shape (n,)."""
        return ~np.isnan(self.pairs.gold)

    @cached_property
    def pool(self) -> BoolArray:
        """Pairs to label, shape (n,)."""
        return ~self.seed & ~self.watched

    @cached_property
    def hidden(self) -> FloatArray:
        """True labels of the pool, shape (n,); NaN elsewhere."""
        return np.where(self.pool, self.true, np.nan)

    @cached_property
    def longer(self) -> FloatArray:
        """Characters of response A less those of B, shape (n,)."""
        a, b = (pc.utf8_length(self.pairs.table[name]).to_numpy() for name in ("response_a", "response_b"))
        return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)


class Method(Protocol):
    """A rule by which reward models, and voters, label the pool."""

    @property
    def members(self) -> int:
        """Reward models trained on the kept pairs in each iteration, 1 or more; together they label the next one."""

    @property
    def folds(self) -> int:
        """Parts for cross-fitting: each is labelled by a model trained without its groups; 0 = `members` label all."""

    @property
    def first_vote(self) -> int:
        """The first iteration in which reward models label: 1, or 2 where voters alone make the first labels."""

    @property
    def stops_early(self) -> bool:
        """Whether a loop ends where the log-loss on labels that trained nothing stops improving."""

    def label(self, n: int, rewards: FloatArray | None, ground: Ground, history: Sequence[SelfLabels]) -> SelfLabels:
        """Return the labels of iteration n >= 1; `history` holds those of iterations 1 to n - 1.

        `rewards` (k, n_pairs, 2) are those of the k models that label, for both responses; None where none does yet.
        """
