"""Voters applied to pairs: the vote matrix."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from labeling.casting import Cast, OnError, cast
from labeling.errors import DataError, VoterError, WeakprefWarning
from labeling.pairs import Pairs, check_pairs
from labeling.returned import shown
from labeling.snorkel_voter import SnorkelVoter, is_snorkel
from labeling.voters import SelfLabelling, Voter
from labeling.votes import Vote, VoteMatrix
from labeling.workers import cpu_count, pack, spread

BATCH = 50_000
"""Most rows a columnar voter gets at once."""
PROBE_S = 0.3
"""How long row-wise voters are timed before processes are started for them."""
WORTHWHILE_S = 3.0
"""Least work left for which starting processes pays."""

Advance = Callable[[int], None]


def apply(
    voters: Iterable[Any],
    pairs: Pairs,
    *,
    on_error: OnError = "raise",
    workers: int | None = None,
    progress: bool | None = None,
) -> VoteMatrix:
    """Have every voter vote on every pair.

    Voters are what `@labeling_function` and `@scoring_function` make, built-in heuristics, anything that is a `Voter`,
    and Snorkel's own labeling functions. Columnar ones run here, row-wise ones in `workers` processes (None: as many as
    cores if the work is worth it; 1: here); the result is the same. A bar is shown on a terminal unless `progress` says
    otherwise. Raises VoterError, naming voter, row and pair_id, where a voter fails; with `on_error="abstain"` it
    abstains there, which is counted in the result's `errors` and warned of.
    """
    panel = _panel(voters)
    _check(panel, pairs, on_error, workers)
    n, m = len(pairs), len(panel)
    votes = np.full((n, m), Vote.ABSTAIN, dtype=np.int8)
    margins = np.full((n, m), np.nan, dtype=np.float32)
    errors, reasons = np.zeros(m, dtype=np.int64), [""] * m
    with _bar(progress, n * m) as advance:
        for columns, casts in _parts(panel, pairs.voter_table(), on_error, workers):
            start = 0
            for part in casts:
                votes[start : start + len(part), columns] = part.votes
                margins[start : start + len(part), columns] = part.margins
                errors[columns] += part.errors
                for j, reason in zip(columns, part.reasons, strict=True):
                    reasons[j] = reasons[j] or reason
                start += len(part)
                advance(len(part) * len(columns))
    counts = {voter.name: int(count) for voter, count in zip(panel, errors, strict=True) if count}
    if counts:
        _warn(counts, next(filter(None, reasons)), n)
    names = tuple(voter.name for voter in panel)
    learned = tuple(voter.name for voter in panel if isinstance(voter, SelfLabelling) and voter.self_label)
    return VoteMatrix(votes, margins, names, pairs.pair_ids, pairs.groups, counts, learned)


def _panel(voters: Iterable[Any]) -> list[Voter]:
    if isinstance(voters, Voter) or callable(voters) or not isinstance(voters, Iterable):
        raise VoterError(f"voters is {shown(voters)}; expected a list of voters: put it in brackets")
    panel = [_voter(voter, i) for i, voter in enumerate(voters)]
    if not panel:
        raise VoterError("no voters were given; expected one or more, e.g. heuristics() and your own functions")
    return panel


def _voter(voter: Any, position: int) -> Voter:
    if is_snorkel(voter):
        return SnorkelVoter(voter)
    if isinstance(voter, Voter) and not isinstance(voter, type):
        return voter
    what = "the plain function " + getattr(voter, "__name__", "") if callable(voter) else shown(voter)
    raise VoterError(f"voters[{position}] is {what}; decorate it with @labeling_function or @scoring_function")


def _check(panel: Sequence[Voter], pairs: Pairs, on_error: str, workers: int | None) -> None:
    check_pairs(pairs)
    if on_error not in ("raise", "abstain"):
        raise DataError(f'on_error is {on_error!r}; expected "raise" or "abstain"')
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise DataError(f"workers is {workers!r}; expected a whole number of processes from 1 up, or None")
    names, m = tuple(voter.name for voter in panel), len(panel)
    empty = np.zeros((0, m))
    VoteMatrix(empty.astype(np.int8), empty.astype(np.float32), names, np.zeros(0, dtype=np.str_))  # names are unique


def _parts(
    panel: Sequence[Voter], table: pa.Table, on_error: OnError, workers: int | None
) -> Iterator[tuple[list[int], Iterator[Cast]]]:
    columnar = [j for j, voter in enumerate(panel) if voter.columnar]
    by_row = [j for j, voter in enumerate(panel) if not voter.columnar]
    if columnar:
        yield columnar, _here([panel[j] for j in columnar], table, 0, on_error, BATCH)
    if by_row:
        yield by_row, _row_wise([panel[j] for j in by_row], table, on_error, workers)


def _here(voters: Sequence[Voter], table: pa.Table, start: int, on_error: OnError, size: int) -> Iterator[Cast]:
    for i in range(start, table.num_rows, size):
        yield cast(voters, table.slice(i, size), i, on_error)


def _row_wise(voters: Sequence[Voter], table: pa.Table, on_error: OnError, workers: int | None) -> Iterator[Cast]:
    start, payload = 0, b""
    if workers is None:
        begin, size = time.perf_counter(), 1
        while start < table.num_rows and time.perf_counter() - begin < PROBE_S:
            yield (probe := cast(voters, table.slice(start, size), start, on_error))
            start, size = start + len(probe), 2 * size
        left_s = (time.perf_counter() - begin) * (table.num_rows - start) / max(start, 1)
        workers = cpu_count() if left_s > WORTHWHILE_S else 1
        if workers > 1:
            try:
                payload = pack(voters)
            except VoterError as error:
                warnings.warn(f"{error}. Voting in this process", WeakprefWarning, stacklevel=3)
                workers = 1
    if workers == 1 or start == table.num_rows:
        yield from _here(voters, table, start, on_error, 1000)
    else:
        yield from spread(payload or pack(voters), table, start, on_error, workers)


@contextmanager
def _bar(progress: bool | None, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (console.is_terminal if progress is None else progress):
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Votes", total=total)
        yield lambda count: bar.advance(task, count)


def _warn(counts: dict[str, int], reason: str, n: int) -> None:
    each = ", ".join(f"{name} on {count:,}" for name, count in counts.items())
    text = f"voters failed and were made to abstain: {each} of {n:,} pairs; the first: {reason}"
    warnings.warn(text, WeakprefWarning, stacklevel=3)
