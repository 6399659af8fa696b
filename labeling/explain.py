"""Why a posterior is what it is: what each voter adds to that of a pair, and what a model learned of its voters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.errors import VotesError
from labeling.votes import Vote, VoteMatrix, check_votes

FloatArray = npt.NDArray[np.float64]

TINY = 1e-12
"""Probabilities are cut to [TINY, 1 - TINY], so that the log-odds of a certain posterior are finite: +-27.6."""
SHOWN = 0.005
"""A voter that abstains and adds less than this is only named when an explanation is printed."""


class HasPosterior(Protocol):
    """A fitted label model, whichever."""

    def posterior(self, votes: VoteMatrix) -> FloatArray:
        """Return P(A preferred), shape (n,), each row by itself."""
        ...


class HasLearned(Protocol):
    """A label model that says what it learned of its m voters, as `LabelModel` does."""

    @property
    def names_(self) -> tuple[str, ...]:
        """The voters."""
        ...

    @property
    def accuracy_(self) -> FloatArray:
        """P(right | it votes), shape (m,); NaN for a voter that never votes."""
        ...

    @property
    def weights_(self) -> FloatArray:
        """Log-odds a full vote adds, shape (m,)."""
        ...

    @property
    def dependence_(self) -> FloatArray:
        """Agreement of two voters beyond what the preference explains, shape (m, m), in [-1, 1]; 1 = copies."""
        ...


@dataclass(frozen=True)
class Contribution:
    """One voter's part in the posterior of a pair."""

    voter: str
    vote: Vote
    margin: float
    """Signed strength, > 0 favours A; NaN where the voter gives none."""
    contribution: float
    """Log-odds of the posterior minus those had this voter abstained; > 0 favours A."""


@dataclass(frozen=True)
class Explanation:
    """What made the posterior of one pair; printed, a table.

    The contributions need not add up to the log-odds: of two voters that copy each other either alone can be missed.
    """

    pair_id: str
    p_a: float
    """P(A preferred), in [0, 1]."""
    contributions: tuple[Contribution, ...]
    """One per voter, the largest in size first."""

    def __iter__(self) -> Iterator[Contribution]:
        return iter(self.contributions)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row a voter: vote, margin and contribution, indexed by voter."""
        rows = [(c.vote.name, c.margin, c.contribution) for c in self]
        voters = pd.Index([c.voter for c in self], name="voter")
        return pd.DataFrame(rows, columns=["vote", "margin", "contribution"], index=voters)

    def __str__(self) -> str:
        head = f"pair {self.pair_id or '(no id)'}: P(A preferred) = {self.p_a:.3f}, log-odds {log_odds(self.p_a):+.2f}"
        silent = [c.voter for c in self if c.vote == Vote.ABSTAIN and abs(c.contribution) < SHOWN]
        spoke = [c for c in self if c.voter not in silent]
        width = max([5, *(len(c.voter) for c in spoke)])
        lines = [head, f"{'voter':<{width}}  vote     margin     adds"]
        lines += [
            f"{c.voter:<{width}}  {_VOTES[c.vote]:<7}{_figure(c.margin):>8}  {c.contribution:+7.2f}" for c in spoke
        ]
        return "\n".join(lines + ([f"silent: {', '.join(silent)}"] if silent else []))


_VOTES = {Vote.A: "A", Vote.B: "B", Vote.ABSTAIN: "abstain"}


def explain(model: HasPosterior, votes: VoteMatrix, i: int | str) -> Explanation:
    """Say what each of the m voters adds to the posterior of row i, or of the pair with that id.

    That is the log-odds with its vote minus those without.

    Any fitted label model will do: it is asked for the posterior of the row and of m variants of it, each with one
    voter abstaining (vote -1, margin NaN). Raises VotesError for a row that does not exist.
    """
    check_votes(votes)
    row, m = _row(votes, i), len(votes.names)
    if not 0 <= row < len(votes):
        raise VotesError(f"there is no row {row}: expected a row of the votes, from 0 to {len(votes) - 1}; pass one")
    p_a = model.posterior(_without_each(votes, row))
    logits = log_odds(p_a)
    parts = [
        Contribution(votes.names[j], Vote(votes.votes[row, j]), float(votes.margins[row, j]), float(logits[0] - logit))
        for j, logit in zip(range(m), logits[1:], strict=True)
    ]
    parts.sort(key=lambda part: (-abs(part.contribution), part.vote == Vote.ABSTAIN, part.voter))
    return Explanation(str(votes.pair_ids[row]), float(p_a[0]), tuple(parts))


def _row(votes: VoteMatrix, i: int | str) -> int:
    if not isinstance(i, str):
        return index(i)
    found = np.flatnonzero(votes.pair_ids == i)
    if not len(found) and i.isdecimal() and not any(name.isdecimal() for name in votes.pair_ids.tolist()):
        return int(i)
    if not len(found):
        raise VotesError(f"no row of the votes is of the pair {i}; pass one of votes.pair_ids, or the number of a row")
    return int(found[0])


def voter_table(model: HasLearned) -> pd.DataFrame:
    """Return what was learned, one row a voter: accuracy, weight, and the voter it is most alike.

    accuracy: P(right | it votes); weight: log-odds a full vote of it alone adds, > 0 for what it votes; nearest: the
    voter of the largest dependence with it (empty for a single voter), and that, in [-1, 1]. All are NaN, or empty, for
    a voter that never votes.
    """
    several, rows = len(model.names_) > 1, np.arange(len(model.names_))
    others = np.nan_to_num(model.dependence_.astype(np.float64))
    np.fill_diagonal(others, -np.inf)
    nearest, silent = others.argmax(axis=1), np.isnan(model.accuracy_)
    dependence = model.dependence_[rows, nearest] if several else np.full(len(rows), np.nan)
    return pd.DataFrame(
        {
            "accuracy": model.accuracy_,
            "weight": np.where(silent, np.nan, model.weights_),
            "nearest": [
                "" if quiet or not several else model.names_[k] for k, quiet in zip(nearest, silent, strict=True)
            ],
            "dependence": np.where(silent, np.nan, dependence),
        },
        index=pd.Index(model.names_, name="voter"),
    )


def log_odds(p_a: npt.ArrayLike) -> FloatArray:
    """Return log(p / (1 - p)) of probabilities cut to [TINY, 1 - TINY], in [-27.6, 27.6]."""
    p = np.clip(np.asarray(p_a, dtype=np.float64), TINY, 1 - TINY)
    logits: FloatArray = np.log(p) - np.log1p(-p)
    return logits


def _without_each(votes: VoteMatrix, row: int) -> VoteMatrix:
    """Return m + 1 rows: the row itself, and for each voter the row with that voter abstaining."""
    m = len(votes.names)
    repeated = votes.take(np.full(m + 1, row))
    muted = np.eye(m + 1, m, k=-1, dtype=bool)
    return VoteMatrix(
        np.where(muted, np.int8(Vote.ABSTAIN), repeated.votes),
        np.where(muted, np.float32(np.nan), repeated.margins),
        votes.names,
        repeated.pair_ids,
        repeated.groups,
    )


def _figure(margin: float) -> str:
    return "-" if math.isnan(margin) else f"{margin:+.3g}"
