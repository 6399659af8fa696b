"""Answers of a language model kept in a file, so that a question asked before costs nothing.

One SQLite file; a row per sample of a prompt, or per prompt and choices, found by a hash of all it depends on. What is
missing is asked in chunks, each stored as it is finished: killed at any moment, a run loses at most one chunk. Prompts
that start alike are asked together, whatever stands between them, so that an engine can reuse the start.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np

from labeling.budget import Watch, unwatched
from labeling.errors import BudgetError, DataError, WeakprefWarning
from labeling.llm import Completion, Conversation, Engine, FloatArray, Sampling, check_engine, turns

TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum TEXT NOT NULL)"
Ask = Callable[[Sequence[int], range], list[list[str]]]
"""Asks the engine for some samples (a range of their places) of some rows; returns a value a row and sample."""
SQLITE = b"SQLite format 3\0"
"""How a database file begins."""
WAIT_S = 60.0
"""How long to wait for another process that is writing."""


class CachedEngine:
    """An engine that asks another one only what the file at `path` does not hold; two processes may share the file.

    A damaged row is named in a WeakprefWarning and asked again. A damaged database is set aside under another name,
    also warned of; the rows that can still be read are kept. A file that is no database is left alone, and refused.
    """

    def __init__(
        self,
        engine: Engine,
        path: str | Path | None,
        *,
        chunk: int = 64,
        divisible: bool = False,
        read_only: bool = False,
        watch: Watch = unwatched,
    ) -> None:
        """Open or make the file; `chunk` prompts are asked and stored at a time.

        Without a path answers are kept for the length of a call. A chunk that a `BudgetedEngine` refuses ends the run,
        unless it is `divisible`: then as much of it is asked as the budget allows, which is right where an answer does
        not depend on what is asked beside it, to the last bit. `read_only`: nothing is made, stored or repaired.
        `watch` is told of every chunk; answers found in the file count as done.

        Raises DataError if there is no such folder, the file is no cache, `engine` no engine, or chunk below 1.
        """
        check_engine(engine)
        if chunk < 1:
            raise DataError(f"chunk: expected at least 1 prompt at a time, found {chunk}")
        self.engine, self.path, self.chunk = engine, None if path is None else Path(path), chunk
        self.divisible, self.read_only, self.watch = divisible, read_only, watch
        self.hits = 0
        """Answers found in the file so far."""
        self.misses = 0
        """Answers asked of the engine so far."""
        self._rescued: dict[str, str] | None = None
        """What can be read of a file that is not there or damaged, and is to stay so."""
        if self.path is not None and not read_only:
            open_or_rebuild(self.path)
        elif self.path is not None:
            self._rescued = _rescued(self.path)

    @property
    def model(self) -> str:
        """Name and revision of the engine's model."""
        return self.engine.model

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model, and its server."""
        return self.engine.source

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its answer together; None where that is not known."""
        return self.engine.context

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order; only samples not in the file are drawn."""
        numbers = range(sampling.first, sampling.first + sampling.n)
        how = {name: value for name, value in vars(sampling).items() if name not in ("n", "first")}
        keys = [[self._key(prompt, how, number) for number in numbers] for prompt in prompts]

        def ask(rows: Sequence[int], columns: range) -> list[list[str]]:
            part = replace(sampling, n=len(columns), first=sampling.first + columns.start)
            answers = self.engine.generate([prompts[row] for row in rows], part)
            return [[_dumped(astuple(completion)) for completion in completions] for completions in answers]

        values = self._answers(prompts, keys, ask)
        return [[_completion(json.loads(value)) for value in row] for row in values]

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices; only prompts not in the file are asked."""
        keys = [[self._key(prompt, {"choices": list(choices)}, 0)] for prompt in prompts]

        def ask(rows: Sequence[int], _: range) -> list[list[str]]:
            return [[_dumped(row)] for row in self.engine.choose([prompts[row] for row in rows], choices).tolist()]

        values = [json.loads(row[0]) for row in self._answers(prompts, keys, ask)]
        return np.array(values, dtype=float).reshape(len(prompts), len(choices))

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is; never stored, for no model runs."""
        return self.engine.count_tokens(prompts)

    def _key(self, prompt: Conversation, how: dict[str, Any], number: int) -> str:
        text = json.dumps([self.source, turns(prompt), how, number], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _answers(self, prompts: Sequence[Conversation], keys: Sequence[Sequence[str]], ask: Ask) -> list[list[str]]:
        """Return the value of each key.

        Chunks are cut by place among all prompts in the order of their texts, so a resumed run asks as the first would.
        """
        known: dict[str, str] = {}
        order = sorted(range(len(prompts)), key=lambda row: turns(prompts[row]))
        n = len(keys[0]) if keys else 0
        self.watch(wanted=n * len(keys))
        with self._file() as file:
            for start in range(0, len(order), self.chunk):
                rows = order[start : start + self.chunk]
                for (column, length), same in _runs(self._missing(file, keys, rows, known)).items():
                    try:
                        known |= self._asked(file, keys, same, range(column, column + length), ask)
                    except BudgetError as error:
                        raise self._with_progress(error, file, keys) from None
                self.watch(done=n * len(rows))
        return [[known[key] for key in row] for row in keys]

    def _asked(
        self, file: sqlite3.Connection, keys: Sequence[Sequence[str]], rows: Sequence[int], columns: range, ask: Ask
    ) -> dict[str, str]:
        """Ask some samples of some prompts in one call and store them; halves where a budget lets no more through."""
        try:
            answers = ask(rows, columns)
        except BudgetError:
            if not self.divisible or len(rows) == 1:
                raise
            halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
            first, second = (self._asked(file, keys, half, columns, ask) for half in halves)
            return first | second
        found: dict[str, str] = {}
        for row, values in zip(rows, answers, strict=True):
            found |= dict(zip((keys[row][column] for column in columns), values, strict=True))
        return found if self.read_only else _stored(file, found)

    def _with_progress(
        self, error: BudgetError, file: sqlite3.Connection, keys: Sequence[Sequence[str]]
    ) -> BudgetError:
        if self.path is None:
            return error
        wanted = {key for row in keys for key in row}
        held = sum(file.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone() is not None for key in wanted)
        return BudgetError(f"{error}; {held:,} of {len(wanted):,} answers lie in {self.path}")

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        with _connected(self.path if self._rescued is None else None) as file:
            _stored(file, self._rescued or {})
            yield file

    def _missing(
        self, file: sqlite3.Connection, keys: Sequence[Sequence[str]], rows: Sequence[int], known: dict[str, str]
    ) -> list[tuple[int, int]]:
        """Add to `known` what the file holds of these rows; return the places of other keys, each key once."""
        wanted: dict[str, tuple[int, int]] = {}
        places = [(row, column, key) for row in rows for column, key in enumerate(keys[row])]
        for row, column, key in places:
            if key not in known and key not in wanted:
                value = _read(file, key, self.path, mend=not self.read_only)
                if value is None:
                    wanted[key] = (row, column)
                else:
                    known[key] = value
                    self.hits += 1
        self.misses += len(wanted)
        return list(wanted.values())


def open_or_rebuild(path: Path) -> None:
    """Make the file, or check it; a damaged one is renamed, warned of, and its readable rows are copied.

    Raises DataError if the folder does not exist, or the file cannot be written or is some other database.
    """
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no such folder; make it, or keep the cache elsewhere")
    _check_kind(path)
    verdict = _verdict(path, make=True)
    if verdict != "ok":
        _rebuild(path, verdict)


def _check_kind(path: Path) -> None:
    """Raise DataError for a file that is no database: it is somebody's, not a damaged cache."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected a file for the cache of answers; name another")
    if not path.exists():
        return
    with open(path, "rb") as file:
        begins = file.read(len(SQLITE))
    if begins != SQLITE[: len(begins)]:
        raise DataError(f"{path} is no cache of answers (no SQLite file); nothing was touched: name another file")


def _verdict(path: Path, *, make: bool) -> str:
    """Return "ok", or what is damaged. Raises DataError if the file cannot be used, or is some other database."""
    try:
        with _connected(path) as file:
            if make:
                file.execute("PRAGMA journal_mode=WAL")
                file.execute(TABLE)
            file.execute("SELECT key, value, checksum FROM answers LIMIT 0")
            return str(file.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:  # locked, read-only, full: nothing is wrong with what is in it
        raise DataError(
            f"{path}: cannot serve as a cache of answers ({error}); name a file that can be written"
        ) from error
    except sqlite3.DatabaseError as error:
        return str(error)


def _rescued(path: Path) -> dict[str, str] | None:
    """Return None for a whole file, else what can be read of it: nothing is made, set aside or repaired."""
    _check_kind(path)
    if not path.exists():
        return {}
    verdict = _verdict(path, make=False)
    if verdict == "ok":
        return None
    found = dict(_readable(path))
    warnings.warn(
        f"{path}: the cache is damaged ({verdict}); {len(found)} answers could be read from it, a run sets it aside "
        "and asks the others again",
        WeakprefWarning,
        stacklevel=3,
    )
    return found


def _rebuild(path: Path, verdict: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for end in ("", "-wal", "-shm"):
        if Path(f"{path}{end}").exists():
            Path(f"{path}{end}").rename(f"{aside}{end}")
    open_or_rebuild(path)
    with _connected(path) as file:
        saved = _stored(file, dict(_readable(aside)))
    warnings.warn(
        f"{path}: the cache is damaged ({verdict}); it is set aside as {aside.name}, {len(saved)} answers could be "
        "read from it, the others are asked again",
        WeakprefWarning,
        stacklevel=4,
    )


def _readable(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the rows of a damaged file up to where no more can be read."""
    with closing(sqlite3.connect(path)) as file:
        file.text_factory = _text
        try:
            file.execute("PRAGMA writable_schema=ON")  # reads on where the file is shorter than it says
            for key, value, checksum in file.execute("SELECT key, value, checksum FROM answers NOT INDEXED"):
                if checksum == _checksum(key, value):
                    yield key, value
        except sqlite3.DatabaseError:
            return


@contextmanager
def _connected(path: Path | None) -> Iterator[sqlite3.Connection]:
    """Open the file, or without a path one in memory that is gone afterwards."""
    with closing(sqlite3.connect(":memory:" if path is None else path, timeout=WAIT_S)) as file:
        file.text_factory = _text
        file.execute("PRAGMA synchronous=NORMAL")
        if path is None:
            file.execute(TABLE)
        yield file


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")  # a flipped bit is for the checksum to find


def _read(file: sqlite3.Connection, key: str, path: Path | None, *, mend: bool) -> str | None:
    row = file.execute("SELECT value, checksum FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None or row[1] == _checksum(key, row[0]):
        return None if row is None else str(row[0])
    warnings.warn(
        f"{path}: answer {key[:12]} is damaged (its checksum differs); asked again", WeakprefWarning, stacklevel=5
    )
    if mend:
        with file:
            file.execute("DELETE FROM answers WHERE key = ? AND checksum = ?", (key, row[1]))
    return None


def _stored(file: sqlite3.Connection, values: dict[str, str]) -> dict[str, str]:
    """Store the values and return what the file holds now: of two processes, the first one's answer stands."""
    with file:
        file.executemany(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
            [(key, value, _checksum(key, value)) for key, value in values.items()],
        )
    ask = "SELECT value FROM answers WHERE key = ?"
    return {key: str(file.execute(ask, (key,)).fetchone()[0]) for key in values}


def _runs(places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Group (row, column) places as {(first column, length): rows}, so that neighbours are asked in one call.

    >>> _runs([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])
    {(0, 2): [0, 1], (1, 1): [2]}
    """
    runs: list[list[int]] = []
    for row, column in sorted(places):
        if runs and runs[-1][0] == row and runs[-1][1] + runs[-1][2] == column:
            runs[-1][2] += 1
        else:
            runs.append([row, column, 1])
    found: dict[tuple[int, int], list[int]] = {}
    for row, column, length in runs:
        found.setdefault((column, length), []).append(row)
    return found


def _checksum(key: str, value: Any) -> str:
    return hashlib.sha256(f"{key} {value}".encode()).hexdigest()[:16]


def _dumped(values: Sequence[Any]) -> str:
    return json.dumps([None if isinstance(value, float) and math.isnan(value) else value for value in values])


def _completion(values: Sequence[Any]) -> Completion:
    text, n_tokens, log_prob, finish_reason = values
    return Completion(text, n_tokens, math.nan if log_prob is None else log_prob, finish_reason)
