"""Votes of several runs on the same pairs, side by side: labeling functions, judges, reward models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeling.arrays import as_labels
from labeling.errors import VotesError
from labeling.votes import Vote, VoteMatrix, check_votes

FloatArray = npt.NDArray[np.float64]
Voted = tuple[VoteMatrix, FloatArray | None]
"""Votes and the gold labels of their rows (n,), as `read_votes` returns them."""


def join_votes(parts: Sequence[Voted | VoteMatrix]) -> Voted:
    """Return the votes of all voters on all pairs of some vote matrices, matched by pair_id, and the gold there is.

    A matrix alone counts as one without gold. Pairs stand in the order in which they first occur; a voter abstains
    where its matrix lacks a pair. Raises VotesError for fewer than two matrices, a voter in two of them, a pair twice
    in one, or a pair whose gold or group differs between two.
    """
    known = [_voted(part) for part in parts]
    if len(parts) < 2:
        raise VotesError(f"there are votes of {len(parts)} files to join, expected two or more")
    names = [name for votes, _ in known for name in votes.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise VotesError(
            f"more than one file holds votes of {', '.join(twice)}; expected each voter once: give judges a --name, or "
            "leave a file out"
        )
    place: dict[str, int] = {}
    for votes, _ in known:
        for pair in votes.pair_ids.tolist():
            place.setdefault(pair, len(place))
    n, m = len(place), len(names)
    said, margins = np.full((n, m), Vote.ABSTAIN, dtype=np.int8), np.full((n, m), np.nan, dtype=np.float32)
    gold, groups, first = np.full(n, np.nan), np.full(n, "", dtype=object), 0
    for votes, labels in known:
        rows = np.array([place[pair] for pair in votes.pair_ids.tolist()], dtype=np.int64)
        if len(np.unique(rows)) < len(rows):
            raise VotesError(f"the votes of {votes.names[0]} and others hold a pair twice; expected each pair once")
        columns = slice(first, first := first + len(votes.names))
        said[rows, columns], margins[rows, columns] = votes.votes, votes.margins
        if labels is not None:
            _put(gold, rows, labels, ~np.isnan(labels), ~np.isnan(gold[rows]), "gold label", votes)
        if votes.groups is not None:
            given = votes.groups.astype(object)
            _put(groups, rows, given, given != "", groups[rows] != "", "group", votes)
    whole = VoteMatrix(
        said,
        margins,
        tuple(names),
        np.asarray(list(place), dtype=np.str_),
        groups.astype(np.str_) if (groups != "").all() else None,
        {name: count for votes, _ in known for name, count in votes.errors.items()},
        tuple(name for votes, _ in known for name in votes.self_labels),
    )
    return whole, None if all(labels is None for _, labels in known) else gold


def _voted(part: Voted | VoteMatrix) -> Voted:
    """Return votes and gold, checked; raises VotesError."""
    if isinstance(part, VoteMatrix):
        part = part, None
    if not (isinstance(part, tuple) and len(part) == 2):
        check_votes(part)
    votes, gold = part
    check_votes(votes)
    if votes.anonymous:
        raise VotesError(f"the votes of {', '.join(votes.names)} have no pair ids to match by; pass pair_ids to of")
    labels = None if gold is None else as_labels(gold)
    if labels is not None and labels.shape != (len(votes),):
        raise VotesError(f"gold has shape {labels.shape}, expected ({len(votes)},): one a row of votes")
    return votes, labels


def _put(
    whole: npt.NDArray[np.generic],
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.generic],
    given: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    what: str,
    votes: VoteMatrix,
) -> None:
    """Put the `given` of some values (k,) into their `rows` (k,); raise VotesError where another is `known` there."""
    other = np.flatnonzero(given & known & (whole[rows] != values))
    if len(other):
        raise VotesError(
            f"pair {votes.pair_ids[other[0]]} has the {what} {whole[rows[other[0]]]} in one file of votes and "
            f"{values[other[0]]} in another ({len(other):,} such pairs); expected the same pairs: make them anew"
        )
    whole[rows[given]] = values[given]
