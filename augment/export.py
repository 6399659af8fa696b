"""Export: labelled pairs as the universal Parquet layout, with a dataset card and a manifest."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from augment.card import card
from augment.columns import SCHEMA, FloatArray, Labelled, columns, orient
from labeling.arrays import check_order
from labeling.errors import DataError, RowError, VotesError, WeakprefWarning
from labeling.files import manifest, read_manifest, replacing, sha256, write_json
from labeling.pairs import Pairs, check_pairs
from labeling.votes import VoteMatrix, check_votes

GROUP_ROWS = 1_000
"""Rows of a Parquet row group: with texts of at most a million characters its columns stay below Arrow's 2 GB."""


@dataclass(frozen=True)
class ExportOptions:
    """How an export is labelled, ordered and cut."""

    origin: str = "weak"
    """What labelled the pairs without gold: weak (voters merged by a label model) or self (a reward model)."""
    iteration: int = 1
    """Round of labelling the pairs without gold belong to, 1 or more, unless `iterations` says; gold pairs are 0."""
    keep_ties: bool = False
    """Give ties (p = 0.5) the weight of other pairs instead of 0."""
    seed: int = 0
    """Seed of the row order."""
    shard_rows: int = 100_000
    """Most rows of one file."""
    source_note: str = ""
    """Markdown for the dataset card: where the texts come from and under which licence."""

    def __post_init__(self) -> None:
        if self.origin not in ("weak", "self"):
            raise DataError(f"origin is {self.origin!r}, expected 'weak' or 'self'; pairs with gold get 'gold' anyway")
        if self.iteration < 1:
            raise DataError(f"iteration is {self.iteration}, expected 1 or more; 0 is kept for pairs with gold")
        if self.shard_rows < 1:
            raise DataError(f"shard_rows is {self.shard_rows}, expected 1 or more")
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}, expected 0 or more")


def export(
    out: str | Path,
    pairs: Pairs,
    p_a: npt.ArrayLike,
    votes: VoteMatrix | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    iterations: npt.ArrayLike | None = None,
    options: ExportOptions | None = None,
) -> Path:
    """Write labelled pairs as a folder that `datasets`, TRL, OpenRLHF and others load; return the folder.

    A pair's gold label, where it has one, goes before p_a (n,), which is in [0, 1] and may be NaN for those pairs only.
    The response that is preferred with the higher probability becomes `chosen`. Weights (n,) are >= 0, default 1;
    ties get 0 unless `options.keep_ties`. Iterations (n,) say in which round each label was made, 1 or more, where not
    all are of `options.iteration`. The folder holds data/train-*.parquet, README.md and manifest.json; an
    earlier export there is replaced, anything else is left alone. The bytes depend on the pairs, labels, votes
    and options, not on the order of the rows. Warns where all pairs have gold and p_a says something else.

    Raises:
        DataError: p_a, weights or iterations of a wrong shape or range, no weight at all, or `out` is something else.
        RowError: duplicate pairs, or a prompt that ends in the assistant's turn.
        VotesError: votes of other pairs.
    """
    options = options or ExportOptions()
    _check_target(Path(out))
    check_pairs(pairs)
    _check_distinct(pairs)
    _check_votes(votes, pairs)
    p, w = _probabilities(p_a, pairs), _weights(weights, len(pairs))
    labels = orient(pairs, p, w, _iterations(iterations, pairs, options), options.keep_ties)
    if not labels.weight.any():
        raise DataError(
            f"nothing to export: all {len(pairs)} pairs have weight 0 (ties, p = 0.5, count 0); "
            "keep ties with ExportOptions(keep_ties=True) (--keep-ties), or let more voters vote"
        )
    rows = Labelled(pairs, labels, votes)
    order = np.argsort(pairs.pair_ids, kind="stable")
    inputs = _digests(pairs, p, w, votes, order)
    if iterations is not None:
        inputs["iterations"] = hashlib.sha256(labels.iteration[order].tobytes()).hexdigest()
    with replacing(Path(out).resolve()) as part:
        (part / "data").mkdir(parents=True)
        _write_shards(part / "data", rows, np.random.default_rng(options.seed).permutation(order), options)
        counts = _counts(rows, options)
        (part / "README.md").write_text(card(rows, counts, asdict(options)), encoding="utf-8", newline="\n")
        files = {str(path.relative_to(part).as_posix()): sha256(path) for path in sorted(part.rglob("*.*"))}
        record = manifest("export", inputs=inputs, seed=options.seed, counts=counts)
        write_json(part / "manifest.json", record | {"options": asdict(options), "files": files})
    return Path(out)


def _check_target(out: Path) -> None:
    way_out = "nothing was deleted: choose another folder, or move this one away"
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file, expected a folder to write to; choose another name")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    ours = _exported(out / "manifest.json")
    if found and not ours:
        raise DataError(f"{out} exists and is no earlier export (no manifest.json of one); {way_out}")
    foreign = sorted(found - ours)
    if foreign:
        raise DataError(f"{out} holds an earlier export and other files, as {foreign[0]}; {way_out}")


def _exported(path: Path) -> set[str]:
    """Return the files of an earlier export by its manifest, that one too; none where it is no such manifest."""
    record = read_manifest(path)
    return {*record.get("files", ()), path.name} if record.get("command") == "export" else set()


def _check_distinct(pairs: Pairs) -> None:
    ids, counts = np.unique(pairs.pair_ids, return_counts=True)
    if (counts > 1).any():
        raise RowError(
            f"{(counts > 1).sum()} pairs occur more than once, as pair {ids[counts.argmax()]} ({counts.max()} times); "
            "expected unique pairs: read them with on_bad_rows='drop' (--drop-bad-rows)"
        )
    check_answerable(pairs)


def check_answerable(pairs: Pairs) -> None:
    """Raise RowError for a prompt without a turn, or one that ends in the assistant's."""
    roles = pl.Series(pairs.table["prompt"]).list.last().struct.field("role")
    bad = (roles.is_null() | (roles == "assistant")).to_numpy()
    if bad.any():
        first = int(bad.argmax())
        found = "no turn" if roles[first] is None else "the assistant's turn last"
        raise RowError(
            f"{bad.sum()} prompts cannot be answered: expected at least one turn and the user's last, found {found} in "
            f"pair {pairs.pair_ids[first]}; drop these pairs, or move the assistant's turn into both responses"
        )


def _check_votes(votes: VoteMatrix | None, pairs: Pairs) -> None:
    way_out = "make them of the same pairs in the same order: apply(voters, pairs), then take() the same rows of both"
    if votes is None:
        return
    check_votes(votes)
    if len(votes) != len(pairs):
        raise VotesError(f"votes has {len(votes)} rows, expected {len(pairs)}, one a pair; {way_out}")
    other = votes.pair_ids != pairs.pair_ids
    if other.any():
        row = int(other.argmax())
        raise VotesError(
            f"votes are of other pairs in {other.sum()} rows: row {row} is pair {votes.pair_ids[row]}, "
            f"expected {pairs.pair_ids[row]}; {way_out}"
        )


def _probabilities(p_a: npt.ArrayLike, pairs: Pairs) -> FloatArray:
    p = _numbers("p_a", p_a, len(pairs))
    missing = np.isnan(p) & np.isnan(pairs.gold)
    outside = (p < 0) | (p > 1)
    for what, bad in (("is NaN", missing), ("is outside [0, 1]", outside)):
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"p_a {what} in {bad.sum()} rows, as {p[row]:g} in row {row} (pair {pairs.pair_ids[row]}); expected "
                "P(A preferred) in [0, 1] wherever a pair has no gold (0.5 = unknown), as from model.posterior(votes)"
            )
    known = ~np.isnan(p)
    if known.any() and not np.isnan(pairs.gold).any() and (p != pairs.gold)[known].any():
        warnings.warn(
            f"all {len(pairs)} pairs have gold, which goes before p_a: no label of p_a is written; hide the labels "
            "that are held back with pairs.with_gold(gold)",
            WeakprefWarning,
            stacklevel=3,
        )
    return p


def _weights(weights: npt.ArrayLike | None, n: int) -> FloatArray:
    w = np.ones(n) if weights is None else _numbers("weights", weights, n)
    bad = ~(np.isfinite(w) & (w >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"weights must be finite and >= 0, found {w[row]:g} in row {row}; use 0 to leave a pair out")
    return w


def _iterations(iterations: npt.ArrayLike | None, pairs: Pairs, options: ExportOptions) -> npt.NDArray[np.int32]:
    n = len(pairs)
    rounds = np.full(n, options.iteration) if iterations is None else _numbers("iterations", iterations, n)
    most = np.iinfo(np.int32).max
    bad = np.isnan(pairs.gold) & ~((rounds >= 1) & (rounds <= most) & (rounds == np.floor(rounds)))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"iterations has {rounds[row]:g} in row {row} (pair {pairs.pair_ids[row]}); expected whole numbers of 1 to "
            f"{most:,} for pairs without gold; 0 is kept for pairs with gold"
        )
    return np.where(np.isnan(pairs.gold), rounds, 0).astype(np.int32)


def _numbers(name: str, values: npt.ArrayLike, n: int) -> FloatArray:
    check_order(values, name)
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise DataError(f"{name} has shape {array.shape}, expected ({n},): one number a pair")
    return array


def _digests(
    pairs: Pairs, p: FloatArray, w: FloatArray, votes: VoteMatrix | None, order: npt.NDArray[np.int64]
) -> dict[str, str]:
    arrays: dict[str, npt.NDArray[Any]] = {"pairs": pairs.pair_ids, "gold": pairs.gold, "p_a": p, "weights": w}
    if votes is not None:
        arrays |= {"votes": votes.votes, "margins": votes.margins}
    return {name: hashlib.sha256(array[order].tobytes()).hexdigest() for name, array in arrays.items()}


def _counts(rows: Labelled, options: ExportOptions) -> dict[str, Any]:
    labels, n = rows.labels, len(rows)
    n_gold = int(labels.is_gold.sum())
    return {
        "pairs": n,
        "origin": {"gold": n_gold, options.origin: n - n_gold},
        "ties": int((labels.p_chosen == 0.5).sum()),
        "weight_zero": int((labels.weight == 0).sum()),
        "flipped": int(labels.flipped.sum()),
        "voters": 0 if rows.votes is None else len(rows.votes.names),
        "shards": _n_shards(n, options),
    }


def _n_shards(n: int, options: ExportOptions) -> int:
    return -(-n // options.shard_rows)


def _write_shards(folder: Path, rows: Labelled, order: npt.NDArray[np.int64], options: ExportOptions) -> None:
    from datasets import Features  # slow to import

    schema = Features.from_arrow_schema(SCHEMA).arrow_schema  # with the metadata Dataset.to_parquet writes
    shards = np.array_split(order, _n_shards(len(order), options))
    for i, shard in enumerate(shards):
        path = folder / f"train-{i:05d}-of-{len(shards):05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, len(shard), GROUP_ROWS):
                group = columns(rows.take(shard[start : start + GROUP_ROWS]), options.origin)
                writer.write_batch(group)
