"""Votes and margins of m voters on n pairs: what labeling functions return and label models merge."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from labeling.arrays import as_rows
from labeling.errors import VotesError
from labeling.files import check_no_pairs, check_parquet, replacing

FloatArray = npt.NDArray[np.float64]

ERRORS = b"weakpref.errors"
SELF_LABELS = b"weakpref.self_labels"


class Vote(enum.IntEnum):
    """What a voter says of a pair; Snorkel's integers."""

    A = 0
    B = 1
    ABSTAIN = -1


@dataclass(frozen=True)
class VoteMatrix:
    """Votes of m voters on n pairs, made by `apply`."""

    votes: npt.NDArray[np.int8]
    """Shape (n, m): 0 = A, 1 = B, -1 = abstain."""
    margins: npt.NDArray[np.float32]
    """Shape (n, m): signed strength, > 0 favours A; NaN where the voter gives none."""
    names: tuple[str, ...]
    """The m voters' names, unique."""
    pair_ids: npt.NDArray[np.str_]
    """Shape (n,): content hashes of the pairs."""
    groups: npt.NDArray[np.str_] | None = None
    """Shape (n,): group of each pair, so that label models cross-fit by group; None = every pair its own."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """How many pairs a voter failed on and therefore abstained (`on_error="abstain"`)."""
    self_labels: tuple[str, ...] = ()
    """The voters that learned from labels of a label model, as they say themselves (`voters.SelfLabelling`)."""

    def __post_init__(self) -> None:
        n, m = len(self.pair_ids), len(self.names)
        if self.votes.dtype.kind not in "iu":
            raise VotesError(
                f"votes are {self.votes.dtype}; expected whole numbers, 0 (A), 1 (B) or -1 (abstain): "
                "if they are, pass votes.astype(int)"
            )
        for name, array in (("votes", self.votes), ("margins", self.margins)):
            if array.shape != (n, m):
                raise VotesError(
                    f"{name} has shape {array.shape}, expected ({n}, {m}): one row a pair id, one column a voter name"
                )
        if len(set(self.names)) != m:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise VotesError(f"voter names must be unique, found twice: {', '.join(twice)}; rename one of them")
        if not all(((rows >= -1) & (rows <= 1)).all() for rows in _chunks(self.votes)):
            raise VotesError("votes must be 0 (A), 1 (B) or -1 (abstain); convert other codes first")
        object.__setattr__(self, "votes", self.votes.astype(np.int8, copy=False))
        if self.margins.strides != (0, 0) and any(np.isinf(rows).any() for rows in _chunks(self.margins)):
            raise VotesError("margins must be finite or NaN; clip infinite log-odds before building the matrix")
        if self.groups is not None and len(self.groups) != n:
            raise VotesError(f"groups has {len(self.groups)} rows, expected {n}: one a pair")

    def __len__(self) -> int:
        return len(self.pair_ids)

    @classmethod
    def of(cls, votes: npt.ArrayLike, names: Sequence[str], pair_ids: npt.ArrayLike | None = None) -> VoteMatrix:
        """Return the matrix of votes (n, m) alone: no margins; 0 = A, 1 = B, -1 = abstain, as in `Vote`.

        Without `pair_ids` (n,), those of `Pairs`, pairs are known by their place alone: such votes cannot be summed up
        beside pairs, joined or exported. It takes no more memory than the votes do.

        >>> len(VoteMatrix.of(np.int8([[0, 1], [1, -1]]), ["x", "y"]))
        2
        """
        array = np.asarray(votes)
        if array.ndim != 2:
            raise VotesError(f"votes has shape {array.shape}, expected (n, m): one row a pair, one column a voter")
        ids = np.broadcast_to(np.str_(""), len(array)) if pair_ids is None else np.asarray(pair_ids, dtype=np.str_)
        return cls(array, np.broadcast_to(np.float32(np.nan), array.shape), tuple(names), ids)

    @property
    def anonymous(self) -> bool:
        """Whether pairs are known by their place alone (`of` without `pair_ids`)."""
        return len(self) > 0 and not self.pair_ids[0]

    @property
    def has_margins(self) -> bool:
        """Whether any voter gives a margin on any pair."""
        if self.margins.strides == (0, 0):
            return self.margins.size > 0 and not bool(np.isnan(self.margins[0, 0]))
        return not all(np.isnan(rows).all() for rows in _chunks(self.margins))

    @property
    def signs(self) -> npt.NDArray[np.int8]:
        """Votes as +1 = A, -1 = B, 0 = abstain, shape (n, m)."""
        return signs_of(self.votes)

    def take(self, rows: npt.ArrayLike | slice) -> VoteMatrix:
        """Return the rows at the given numbers, of a slice, or where a boolean mask (n,) is true."""
        index = as_rows(rows, len(self))
        votes = self.votes[index]
        groups = None if self.groups is None else self.groups[index]
        none = self.margins.strides == (0, 0)
        margins = np.broadcast_to(self.margins[:1, :1], votes.shape) if none else self.margins[index]
        return VoteMatrix(votes, margins, self.names, self.pair_ids[index], groups, self_labels=self.self_labels)

    def select(self, names: Sequence[str]) -> VoteMatrix:
        """Return only the named voters, in the order given."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise VotesError(f"no voter named {', '.join(unknown)}; there are {', '.join(self.names)}")
        columns = [self.names.index(name) for name in names]
        errors = {name: count for name, count in self.errors.items() if name in names}
        return VoteMatrix(
            self.votes[:, columns], self.margins[:, columns], tuple(names), self.pair_ids, self.groups, errors,
            tuple(name for name in self.self_labels if name in names),
        )  # fmt: skip

    def swap(self) -> VoteMatrix:
        """Return what the same voters say of the pairs with their responses exchanged (pair ids are kept)."""
        votes = np.where(self.votes == Vote.ABSTAIN, self.votes, 1 - self.votes).astype(np.int8)
        return replace(self, votes=votes, margins=-self.margins)

    def to_pandas(self) -> pd.DataFrame:
        """Return the votes as a DataFrame (n, m) of Snorkel's integers, columns named, indexed by pair id."""
        return pd.DataFrame(self.votes, columns=list(self.names), index=pd.Index(self.pair_ids, name="pair_id"))

    def to_snorkel(self) -> npt.NDArray[np.int64]:
        """Return the label matrix (n, m) that snorkel's LabelModel and LFAnalysis take: 0, 1, -1 = abstain."""
        return self.votes.astype(np.int64)


def check_votes(votes: object) -> None:
    """Raise VotesError for anything but a `VoteMatrix`."""
    if isinstance(votes, VoteMatrix):
        return
    if isinstance(votes, tuple) and votes and isinstance(votes[0], VoteMatrix):
        raise VotesError("votes is a tuple, as read_votes returns it: votes, gold = read_votes(path)")
    if isinstance(votes, str | Path):
        raise VotesError(f"votes is the path {str(votes)!r}, expected a VoteMatrix: votes, gold = read_votes(path)")
    raise VotesError(
        f"votes is a {type(votes).__name__}, expected the VoteMatrix that apply(voters, pairs) returns; "
        "VoteMatrix.of(array, names) makes one of an array of 0 (A), 1 (B), -1 (abstain)"
    )


def signs_of(votes: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return votes as +1 = A, -1 = B, 0 = abstain."""
    signs: npt.NDArray[np.int8] = (votes == Vote.A).view(np.int8) - (votes == Vote.B).view(np.int8)
    return signs


def _chunks(matrix: npt.NDArray[Any], rows: int = 1 << 16) -> Iterator[npt.NDArray[Any]]:
    return (matrix[start : start + rows] for start in range(0, len(matrix), rows))


def write_votes(path: str | Path, votes: VoteMatrix, gold: npt.ArrayLike | None = None) -> None:
    """Write a vote matrix as Parquet: pair_id, group, gold (n,) if given, v:<voter>, m:<voter>; errors as metadata."""
    columns: dict[str, pa.Array] = {"pair_id": pa.array(votes.pair_ids.tolist(), pa.string())}
    if votes.groups is not None:
        columns["group"] = pa.array(votes.groups.tolist(), pa.string())
    if gold is not None:
        columns["gold"] = pa.array(np.asarray(gold, dtype=np.float64), pa.float64(), from_pandas=True)
    for j, name in enumerate(votes.names):
        columns[f"v:{name}"] = pa.array(votes.votes[:, j], pa.int8())
        if not np.isnan(votes.margins[:, j]).all():
            columns[f"m:{name}"] = pa.array(votes.margins[:, j], pa.float32(), from_pandas=True)
    check_parquet(path)
    check_no_pairs(path)
    errors = json.dumps(dict(votes.errors), sort_keys=True)
    metadata = {ERRORS: errors} | ({SELF_LABELS: json.dumps(votes.self_labels)} if votes.self_labels else {})
    with replacing(path) as part:
        pq.write_table(pa.table(columns, metadata=metadata), part, compression="zstd")


def read_votes(path: str | Path) -> tuple[VoteMatrix, FloatArray | None]:
    """Read what `write_votes` wrote: the vote matrix, and gold (n,) with NaN where unlabelled (None if not stored)."""
    with _opened(path) as file:
        return _parsed(file.read(), path)


def read_votes_in_batches(path: str | Path, rows: int = 1 << 18) -> Iterator[tuple[VoteMatrix, FloatArray | None]]:
    """Yield what `read_votes` returns in batches of at most so many rows, for files larger than memory."""
    with _opened(path) as file:
        for batch in file.iter_batches(rows):
            yield _parsed(pa.Table.from_batches([batch]), path)


@contextmanager
def _opened(path: str | Path) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise VotesError(f"{path} does not exist; make it with `weakpref label PAIRS -o {path}`") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise VotesError(
            f"{path} is not a readable Parquet file ({error}); make it again with `weakpref label`"
        ) from None
    with file:
        yield file


def _parsed(table: pa.Table, path: str | Path) -> tuple[VoteMatrix, FloatArray | None]:
    names = tuple(name[2:] for name in table.column_names if name.startswith("v:"))
    if not names or "pair_id" not in table.column_names:
        raise VotesError(
            f"{path} is no votes file: expected the columns pair_id and v:<voter>, found "
            f"{', '.join(table.column_names) or 'none'}; make it with `weakpref label`"
        )
    n = table.num_rows
    votes = np.full((n, len(names)), Vote.ABSTAIN, dtype=np.int8)
    margins = np.full((n, len(names)), np.nan, dtype=np.float32)
    for j, name in enumerate(names):
        column = table[f"v:{name}"]
        if not pa.types.is_integer(column.type) or not np.isin(column.to_numpy(), (-1, 0, 1)).all():
            raise VotesError(
                f"column v:{name} of {path} ({column.type}, {column.null_count} nulls) holds other values than "
                "0 (A), 1 (B), -1 (abstain); make it with `weakpref label`"
            )
        votes[:, j] = column.to_numpy()
        if f"m:{name}" in table.column_names:
            margins[:, j] = table[f"m:{name}"].to_numpy()
    groups = np.asarray(table["group"].to_pylist(), dtype=np.str_) if "group" in table.column_names else None
    gold = None
    if "gold" in table.column_names:
        if not pa.types.is_floating(table["gold"].type):
            raise VotesError(f"{path} has gold of type {table['gold'].type}, expected double: P(A preferred) in [0, 1]")
        gold = table["gold"].to_numpy().astype(np.float64)
    pair_ids = np.asarray(table["pair_id"].to_pylist(), dtype=np.str_)
    errors = json.loads((table.schema.metadata or {}).get(ERRORS, b"{}"))
    learned = tuple(json.loads((table.schema.metadata or {}).get(SELF_LABELS, b"[]")))
    return VoteMatrix(votes, margins, names, pair_ids, groups, errors, learned), gold
