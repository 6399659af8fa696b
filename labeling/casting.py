"""Votes cast on a chunk of pairs: every voter run on every row, failures located, or counted as abstains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeling.errors import BudgetError, EngineError, VoterError
from labeling.returned import Margins, Votes, as_votes, shown
from labeling.voters import Ballot, RowVoter, Voter, rows
from labeling.votes import Vote

OnError = Literal["raise", "abstain"]
UNANSWERED = (EngineError, BudgetError)
"""Failures of a language model, not of a pair: no row is to blame, and asking again to find one costs."""


@dataclass(frozen=True)
class Cast:
    """What m voters said of n pairs that follow each other."""

    votes: npt.NDArray[np.int8]
    """Shape (n, m)."""
    margins: npt.NDArray[np.float32]
    """Shape (n, m)."""
    errors: npt.NDArray[np.int64]
    """Shape (m,): on how many pairs each voter failed."""
    reasons: list[str]
    """The m voters' first failures, '' where there was none."""

    def __len__(self) -> int:
        return len(self.votes)


def cast(voters: Sequence[Voter], table: pa.Table, start: int, on_error: OnError) -> Cast:
    """Run m voters on n rows of `Pairs.voter_table()`, the first of which is row number `start` of all pairs.

    Raises VoterError, naming voter, row and pair_id, where one fails, unless `on_error="abstain"`; EngineError and
    BudgetError of a judge pass either way.
    """
    n, m = table.num_rows, len(voters)
    result = Cast(
        np.full((n, m), Vote.ABSTAIN, dtype=np.int8),
        np.full((n, m), np.nan, dtype=np.float32),
        np.zeros(m, dtype=np.int64),
        [""] * m,
    )
    by_row = [j for j, voter in enumerate(voters) if isinstance(voter, RowVoter) and not voter.columnar]
    if by_row:
        _cast_rows(voters, by_row, table, start, on_error, result)
    for j in sorted(set(range(m)) - set(by_row)):
        _cast_column(voters[j], j, table, start, on_error, result)
    return result


def _cast_rows(
    voters: Sequence[Voter], columns: Sequence[int], table: pa.Table, start: int, on_error: OnError, result: Cast
) -> None:
    # Rows outside, voters inside: the failure that is raised is the same however the rows are cut into chunks.
    by_row = [(j, voter) for j in columns if isinstance(voter := voters[j], RowVoter)]
    for i, pair in enumerate(rows(table)):
        for j, voter in by_row:
            try:
                result.votes[i, j], result.margins[i, j] = voter.vote_one(pair)
            except Exception as error:
                message = f"voter {voter.name!r}, row {start + i:,} (pair_id {pair.pair_id}): {_what(error)}"
                _note(message, error, j, on_error, result)


def _cast_column(voter: Voter, j: int, table: pa.Table, start: int, on_error: OnError, result: Cast) -> None:
    try:
        ballot = _vote(voter, table)
    except UNANSWERED:
        raise
    except Exception as error:
        _note(_located(voter, table, start, error), error, j, on_error, result)
        ballot = _salvaged(voter, table)
        result.errors[j] -= 1  # _note counted the chunk as one
    result.votes[:, j], result.margins[:, j] = ballot.votes, ballot.margins
    result.errors[j] += ballot.errors


def _note(message: str, error: Exception, j: int, on_error: OnError, result: Cast) -> None:
    if on_error == "raise":
        way_out = (
            'correct the function, or pass on_error="abstain" (command line: --abstain-on-error) to abstain on such '
            "pairs and count them"
        )
        raise VoterError(f"{message}; {way_out}") from (None if isinstance(error, VoterError) else error)
    result.errors[j] += 1
    result.reasons[j] = result.reasons[j] or message


def _vote(voter: Voter, table: pa.Table) -> Ballot:
    ballot = voter.vote(table)
    if not isinstance(ballot, Ballot):
        raise VoterError(f"vote() returned {shown(ballot)}; expected a Ballot")
    _check(ballot.votes, "votes", np.dtype(np.int8), table.num_rows)
    _check(ballot.margins, "margins", np.dtype(np.float32), table.num_rows)
    as_votes(ballot.votes, table.num_rows)
    if np.isinf(ballot.margins).any():
        raise VoterError("gave an infinite margin; expected finite numbers, or NaN for none")
    return ballot


def _check(array: Votes | Margins, name: str, dtype: np.dtype[np.int8] | np.dtype[np.float32], n: int) -> None:
    if array.shape != (n,) or array.dtype != dtype:
        found = f"{array.dtype} {array.shape}"
        raise VoterError(f"{name} of its ballot are {found}; expected {dtype} ({n},)")


def _what(error: Exception) -> str:
    return str(error) if isinstance(error, VoterError) else f"raised {type(error).__name__}: {error}"


def _located(voter: Voter, table: pa.Table, start: int, error: Exception) -> str:
    """Say which row a columnar voter fails on, by halving the chunk: it judges each row by itself."""
    n = table.num_rows
    first, size = 0, n
    while size > 1:
        half = size // 2
        if _fails(voter, table.slice(first, half)):
            size = half
        elif _fails(voter, table.slice(first + half, size - half)):
            first, size = first + half, size - half
        else:
            break
    where = f"row {start + first:,} (pair_id {table['pair_id'][first].as_py()})"
    if size > 1:
        where = f"rows {start + first:,} to {start + first + size - 1:,} only when together, from pair_id " + (
            f"{table['pair_id'][first].as_py()} on"
        )
    batch = "" if n == 1 else f", batch of rows {start:,} to {start + n - 1:,}"
    return f"voter {voter.name!r}{batch}, failing first on {where}: {_what(error)}"


def _fails(voter: Voter, table: pa.Table) -> bool:
    try:
        _vote(voter, table)
    except UNANSWERED:
        raise
    except Exception:
        return True
    return False


def _salvaged(voter: Voter, table: pa.Table) -> Ballot:
    """Vote on the halves of a chunk a voter failed on, down to the rows that fail: these abstain."""
    n = table.num_rows
    if n == 1:
        return Ballot(np.array([Vote.ABSTAIN], dtype=np.int8), np.array([np.nan], dtype=np.float32), errors=1)
    halves = []
    for half in (table.slice(0, n // 2), table.slice(n // 2)):
        try:
            halves.append(_vote(voter, half))
        except UNANSWERED:
            raise
        except Exception:
            halves.append(_salvaged(voter, half))
    left, right = halves
    return Ballot(
        np.concatenate([left.votes, right.votes]),
        np.concatenate([left.margins, right.margins]),
        left.errors + right.errors,
    )
