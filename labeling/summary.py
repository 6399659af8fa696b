"""How voters behave: coverage, overlap, conflict, and accuracy on gold with its interval."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.errors import VotesError
from labeling.pairs import Pairs, check_pairs, check_same_pairs
from labeling.votes import Vote, VoteMatrix, check_votes

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


class Summary(pd.DataFrame):
    """A DataFrame that prints in one block: figures rounded, the interval beside the accuracy; else like any other."""

    def __str__(self) -> str:
        return _printed(self).to_string()

    __repr__ = __str__


def summary(votes: VoteMatrix, pairs: Pairs | None = None) -> Summary:
    """Return one row a voter; shares are of all n pairs, as Snorkel's LFAnalysis counts them.

    coverage_share: it votes; overlap_share: so does another; conflict_share: another votes otherwise; margin_share: it
    gives a margin; n_votes; polarity: which votes it gives; n_gold: its votes on pairs whose gold label is no tie, of
    which accuracy is right, with the Wilson 95 % interval from accuracy_low to accuracy_high (NaN without gold);
    errors: pairs it failed on. Raises VotesError if the votes belong to other pairs.
    """
    check_votes(votes)
    if pairs is not None:
        check_pairs(pairs)
        if votes.anonymous:
            raise VotesError(
                "the votes have no pair ids, so nothing says they are of these pairs; "
                "VoteMatrix.of(votes, names, pair_ids=pairs.pair_ids) does"
            )
        check_same_pairs(len(votes), votes.pair_ids, pairs, "votes", "apply the voters to these pairs")
    gold = np.full(len(votes), np.nan) if pairs is None else pairs.gold
    voted = votes.votes != Vote.ABSTAIN
    several = voted.sum(axis=1) > 1
    torn = (votes.votes == Vote.A).any(axis=1) & (votes.votes == Vote.B).any(axis=1)
    judged = voted & ((gold >= 0) & (gold != 0.5))[:, None]
    right = judged & (votes.votes == np.where(gold > 0.5, Vote.A, Vote.B)[:, None])
    n_gold, n_right = judged.sum(axis=0), right.sum(axis=0)
    intervals = [wilson(int(k), int(n)) for k, n in zip(n_right, n_gold, strict=True)]
    return Summary(
        {
            "coverage_share": _share(voted),
            "overlap_share": _share(voted & several[:, None]),
            "conflict_share": _share(voted & torn[:, None]),
            "n_votes": voted.sum(axis=0),
            "polarity": [_polarity(column) for column in votes.votes.T],
            "n_gold": n_gold,
            "accuracy": [k / n if n else math.nan for k, n in zip(n_right, n_gold, strict=True)],
            "accuracy_low": [low for low, _ in intervals],
            "accuracy_high": [high for _, high in intervals],
            "margin_share": _share(~np.isnan(votes.margins)),
            "errors": [votes.errors.get(name, 0) for name in votes.names],
        },
        index=pd.Index(votes.names, name="voter"),
    )


def wilson(k: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a share of k in n (Wilson 1927, JASA 22:209), NaN where n = 0.

    >>> low, high = wilson(8, 10)
    >>> print(f"{low:.4f} {high:.4f}")
    0.4902 0.9433
    """
    if n == 0:
        return math.nan, math.nan
    p, w = k / n, z * z / n
    centre = (p + w / 2) / (1 + w)
    half = z / (1 + w) * math.sqrt(p * (1 - p) / n + w / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _share(marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    n, m = marked.shape
    return marked.sum(axis=0) / n if n else np.full(m, np.nan)


def _polarity(votes: npt.NDArray[np.int8]) -> str:
    return ", ".join(vote.name for vote in (Vote.A, Vote.B) if vote in votes)


def _printed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as texts, for reading."""

    def figures(name: str) -> list[str]:
        return ["-" if math.isnan(x) else f"{x:.3f}" for x in table[name]]

    low, high = figures("accuracy_low"), figures("accuracy_high")
    return pd.DataFrame(
        {
            "coverage": figures("coverage_share"),
            "overlap": figures("overlap_share"),
            "conflict": figures("conflict_share"),
            "votes": table["n_votes"],
            "gives": table["polarity"],
            "gold": table["n_gold"],
            "accuracy": figures("accuracy"),
            "95 % interval": [f"{a} to {b}" if a != "-" else "-" for a, b in zip(low, high, strict=True)],
            "margins": figures("margin_share"),
            "errors": table["errors"],
        }
    )
