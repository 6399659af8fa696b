"""What `weakpref evaluate`, `calibrate` and `average` do: read files, call one public function, say what came out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augment.commands import Reading, check_out, posterior_of, write_manifest
from labeling import read_pairs
from labeling.errors import DataError, RowError, WeakprefWarning
from labeling.files import check_report, input_hash, read_manifest, write_json
from labeling.layouts import is_text
from labeling.pairs import Pairs
from labeling.sources import open_source

if TYPE_CHECKING:
    from rm import Evaluation

MOST_VALUES = 1000
"""A column of more values is no column to measure by."""
HEEDLESS = ("majority", "snorkel")
"""Label models that learn nothing from gold."""
ALWAYS = ("origin",)
"""Columns measured by wherever a file has them."""


@dataclass(frozen=True)
class Beside:
    """What a reward model is measured beside, and by what."""

    posterior: Path | None = None
    """posterior.parquet of `weakpref fit` on the same pairs."""
    by: Sequence[str] = ()
    """Columns of the file of pairs."""


def evaluate(model: Path, path: str, out: Path, reading: Reading, beside: Beside, *, seed: int) -> str:
    """Write a report on a reward model against the gold labels of unseen prompts; return what happened.

    `out` is a folder for report.json, report.md and plots, or a .json file for the figures alone.
    """
    import rm

    _check_report(out, path)
    pairs = reading(path)
    posterior = None if beside.posterior is None else _unseen(beside.posterior, pairs)
    by = columns_of(path, pairs, reading, beside.by)
    result = rm.evaluate(model, pairs, posterior=posterior, by=by, seed=seed)
    _write(out, result, pairs, _inputs(model, path, beside), seed)
    return f"{result}\n\n{out}: " + (
        f"accuracy {result.accuracy:.3f} [{result.accuracy_low:.3f}, {result.accuracy_high:.3f}], "
        f"log-loss {result.log_loss:.3f}, ECE {result.ece:.3f} on {result.n} pairs"
    )


def compare(first: Path, second: Path, path: str, out: Path, reading: Reading, *, seed: int) -> str:
    """Write how two reward models differ on the same pairs, as JSON; return it in words."""
    import rm

    if out.suffix != ".json":
        raise DataError(f"{out}: a comparison is one JSON file; expected a name that ends in .json")
    check_out(out, path, parquet=False)
    result = rm.compare(first, second, reading(path), seed=seed)
    write_json(out, asdict(result))
    inputs = {"pairs": Path(path), "model": first, "against": second}
    write_manifest(out, "evaluate", inputs, seed, {"pairs": result.n, "groups": result.n_groups})
    return (
        f"{out}: {first.name} minus {second.name} on {result.n:,} pairs in {result.n_groups:,} groups: "
        f"accuracy {result.accuracy:+.3f} [{result.accuracy_low:+.3f}, {result.accuracy_high:+.3f}], "
        f"p = {result.p_accuracy:.2g}; log-loss {result.log_loss:+.3f} [{result.log_loss_low:+.3f}, "
        f"{result.log_loss_high:+.3f}], p = {result.p_log_loss:.2g}; they disagree on {result.disagreement_share:.1%}"
    )


def benchmark(model: Path, path: str, out: Path, name: str, *, seed: int) -> str:
    """Write a reward model's scores on a benchmark's file, as JSON; return them as tables."""
    from rm.benchmarks import run_benchmark

    if out.suffix != ".json":
        raise DataError(f"{out}: a benchmark's scores are one JSON file; expected a name that ends in .json")
    check_out(out, path, parquet=False)
    result = run_benchmark(model, path, name, seed=seed)
    write_json(out, asdict(result))
    inputs = {"pairs": Path(path), "model": model}
    write_manifest(out, "evaluate", inputs, seed, {"benchmark": result.benchmark, "items": result.average.n})
    return f"{result}\n\n{out}: {result.benchmark} {result.average.score:.3f} on {result.average.n:,} items"


def calibrate(model: Path, path: str, reading: Reading, *, seed: int) -> str:
    """Fit and keep the temperature of a reward model; return what happened in one line."""
    import rm

    found = rm.calibrate(model, reading(path), seed=seed)
    line = (
        f"{model}: temperature {found.temperature:.3f} from {found.before.n:,} gold pairs in {found.n_groups:,} groups"
    )
    if found.after is None:
        return f"{line}; one group only, so nothing can be said of what it does on others"
    return (
        f"{line}; on groups it was not fitted on, log-loss {found.before.log_loss:.3f} -> {found.after.log_loss:.3f}, "
        f"ECE {found.before.ece:.3f} -> {found.after.ece:.3f}"
    )


def average(models: Sequence[Path], out: Path) -> str:
    """Average reward models; return what happened in one line."""
    import rm

    rm.average(models, out)
    return f"{out}: mean weights of {len(models)} reward models; not calibrated"


def _unseen(path: Path, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Return the posterior of pairs (n,), that of gold pairs by label models that saw no gold of their group.

    Warns where a label model that learns from gold was fitted on some and not cross-fitted.
    """
    p_a = posterior_of(path, pairs)
    named = "held_out" in pq.read_schema(path).names
    held_out = posterior_of(path, pairs, "held_out") if named else np.full(len(pairs), np.nan)
    counts = read_manifest(path.with_name(f"{path.name}.manifest.json")).get("counts") or {}
    learned = counts.get("gold", 0) > 0 and counts.get("model") not in HEEDLESS
    if learned and counts.get("calibration") is None:
        warnings.warn(
            f"the label model of {path} was fitted on {counts['gold']} gold labels and not cross-fitted: where these "
            "pairs are among them, it looks too good beside the reward model; fit `--model label` on more groups",
            WeakprefWarning,
            stacklevel=3,
        )
    return np.where(np.isnan(held_out), p_a, held_out)


def columns_of(path: str, pairs: Pairs, reading: Reading, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the values that columns of a file have for its pairs, '' where null; those of `ALWAYS` if they are there.

    The rows of each value are read by themselves, so that layouts, dropped rows and duplicates need no second rule.
    Raises DataError for a column that is not there, or has more than `MOST_VALUES` values.
    """
    found = open_source(path)
    there = found.table.column_names
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(there)}")
    always = [name for name in ALWAYS if name in there and name not in names and _is_telling(found.table[name])]
    return {name: _values(found.table, name, pairs, reading) for name in (*names, *always)}


def _is_telling(column: pa.ChunkedArray) -> bool:
    """Return whether a column that nobody asked for is one of text to measure by."""
    return is_text(column.type) and len(pc.unique(column)) <= MOST_VALUES


def _values(table: pa.Table, name: str, pairs: Pairs, reading: Reading) -> list[str]:
    column = table[name]
    if pa.types.is_nested(column.type):
        raise DataError(f"column {name} is {column.type}, expected one value a pair: text or numbers")
    distinct = [value for value in pc.unique(column).to_pylist() if value is not None and value == value]  # no NaN
    if len(distinct) > MOST_VALUES:
        raise DataError(f"column {name} has {len(distinct):,} values, expected at most {MOST_VALUES}: choose another")
    value_of: dict[str, str] = {}
    for value in distinct:
        with warnings.catch_warnings():  # told of when the whole file was read
            warnings.simplefilter("ignore", WeakprefWarning)
            try:
                part = read_pairs(table.filter(pc.equal(column, value)), layout=reading.layout, on_bad_rows="drop")
            except RowError:  # no row of this value can be used
                continue
        for pair in part.pair_ids.tolist():
            value_of.setdefault(pair, str(value))
    return [value_of.get(pair, "") for pair in pairs.pair_ids.tolist()]


def _check_report(out: Path, path: str) -> None:
    if out.suffix == ".json":
        check_out(out, path, parquet=False)
    elif out.is_file():
        raise DataError(f"{out} is a file, expected a folder for the report or a name that ends in .json")
    else:
        check_report(out, "evaluate")


def _inputs(model: Path, path: str, beside: Beside) -> dict[str, Path]:
    posterior = {"posterior": beside.posterior} if beside.posterior else {}
    return {"pairs": Path(path), "model": model, **posterior}


def _write(out: Path, result: Evaluation, pairs: Pairs, inputs: dict[str, Path], seed: int) -> None:
    from rm.evaluation_report import write_evaluation

    if out.suffix == ".json":
        write_json(out, result.record())
        write_manifest(out, "evaluate", inputs, seed, {"pairs": result.n, "ties": result.n_ties})
        return
    hashes = {name: input_hash(path) for name, path in inputs.items()}
    write_evaluation(out, result, pairs, hashes, seed)
