"""Votes and gold to learn from, whole or in batches: a matrix, an iterable of matrices, or a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.arrays import as_labels
from labeling.checks import checked_gold
from labeling.errors import GoldError
from labeling.pairs import check_range
from labeling.votes import VoteMatrix, check_votes, read_votes_in_batches

FloatArray = npt.NDArray[np.float64]
Votes = VoteMatrix | Iterable[VoteMatrix] | str | Path


def vote_batches(votes: Votes, gold: npt.ArrayLike | None) -> Iterator[tuple[VoteMatrix, FloatArray]]:
    """Yield batches of votes with their gold (NaN = unlabelled); that of a file's own column if `gold` is None.

    Raises GoldError if `gold` has not one label a row.
    """
    if isinstance(votes, VoteMatrix):
        yield votes, checked_gold(gold, votes)
        return
    labels = None if gold is None else as_labels(gold)
    if labels is not None and labels.ndim != 1:
        raise GoldError(f"gold has shape {labels.shape}, expected (n,): one a row of votes, NaN = unlabelled")
    start = 0
    for batch, own in _batches(votes):
        part = own if labels is None else labels[start : start + len(batch)]
        if labels is not None and start + len(batch) > labels.size:
            raise GoldError(f"gold has shape {labels.shape}, expected one label for each of more than {start} rows")
        if part is not None:
            check_range(part, start)
        start += len(batch)
        yield batch, np.full(len(batch), np.nan) if part is None else part
    if labels is not None and labels.shape != (start,):
        raise GoldError(f"gold has shape {labels.shape}, expected ({start},): one a row of votes, NaN = unlabelled")


def _batches(votes: Iterable[VoteMatrix] | str | Path) -> Iterator[tuple[VoteMatrix, FloatArray | None]]:
    if isinstance(votes, str | Path):
        yield from read_votes_in_batches(votes)
        return
    if isinstance(votes, np.ndarray | pd.DataFrame) or (isinstance(votes, tuple) and not _all_matrices(votes)):
        check_votes(votes)
    for batch in votes:
        check_votes(batch)
        yield batch, None


def _all_matrices(votes: tuple[object, ...]) -> bool:
    return all(isinstance(part, VoteMatrix) for part in votes)


def labelled_rows(parts: list[tuple[VoteMatrix, FloatArray]]) -> tuple[VoteMatrix, FloatArray] | None:
    """Return the labelled rows of all batches as one; None without any. Raises GoldError for gold that cannot be."""
    if not parts:
        return None
    matrices = [votes for votes, _ in parts]
    groups = [votes.groups for votes in matrices if votes.groups is not None]
    if groups and len(groups) < len(matrices):
        raise GoldError("some batches of votes have groups and some have none: cross-fitting needs all or none of them")
    whole = VoteMatrix(
        np.concatenate([votes.votes for votes in matrices]),
        np.concatenate([votes.margins for votes in matrices]),
        matrices[0].names,
        np.concatenate([votes.pair_ids for votes in matrices]),
        np.concatenate(groups) if groups else None,
    )
    return whole, checked_gold(np.concatenate([labels for _, labels in parts]), whole)
