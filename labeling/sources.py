"""Where tables come from: Parquet files and folders, JSONL, CSV, data frames, `datasets`, the Hugging Face hub."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from labeling import hub
from labeling.errors import DataError
from labeling.files import is_command
from labeling.layouts import COLUMNS
from labeling.readers import reader, with_conversations
from labeling.rows import BadRow
from labeling.values import from_values, one_line

FILES = "a file .parquet, .jsonl, .jsonl.gz, .json or .csv, or a folder of Parquet files"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Source:
    """A table as it was found, before its layout is known."""

    table: pa.Table
    label: str
    """How messages name it."""
    stem: str
    """What the pairs' `source` is where their own columns name none."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows with text that no Arrow column can hold."""


def open_source(source: object) -> Source:
    """Return the table behind a path, hub id, pandas DataFrame, pyarrow Table or `datasets.Dataset`."""
    if isinstance(source, Path) or (isinstance(source, str) and (Path(source).exists() or not _is_hub_id(source))):
        found = _from_path(Path(source))
    elif isinstance(source, str):
        found = Source(hub.load(source), source, source)
    elif isinstance(source, pa.Table):
        found = Source(source, "pyarrow Table", "")
    elif isinstance(source, pd.DataFrame):
        found = _from_pandas(source)
    else:
        found = _from_dataset(source)
    _check_shape(found)
    table, bad = with_conversations(found.table, found.label)
    return replace(found, table=table, bad=[*found.bad, *bad])


def _check_shape(found: Source) -> None:
    names = found.table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{found.label}: column {', '.join(twice)} stands there more than once; rename one of them")
    if not found.table.num_rows:
        raise DataError(f"{found.label} holds no rows, expected at least one preference pair; check what wrote it")


def _is_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and reader(name) is None


def _from_path(path: Path) -> Source:
    if not path.exists():
        raise DataError(f"{path} does not exist; expected {FILES}, or a hub id (owner/name)")
    if path.is_dir():
        return _parquet_folder(path)
    read = reader(path.name)
    if read is None:
        raise DataError(f"{path} is of no known kind, expected {FILES}; rename or convert it")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes), expected preference pairs; write or copy it again")
    try:
        table, bad = read(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}); copy or write it again") from error
    return Source(table, str(path), path.name.split(".")[0], bad)


def _parquet_folder(folder: Path) -> Source:
    """Read the training shards of a folder, or else all its Parquet files; `data/` within it counts as the folder.

    Raises DataError for what `weakpref split` wrote, whose test pairs are not to be read with the others.
    """
    if is_command(folder / "manifest.json", "split"):
        raise DataError(
            f"{folder} holds a split; expected one part of it: {folder / 'train.parquet'} or {folder / 'test.parquet'}"
        )
    patterns = ("data/train-*.parquet", "train-*.parquet", "*.parquet", "data/*.parquet")
    found = (sorted(p for p in folder.glob(pattern) if not p.name.startswith(".")) for pattern in patterns)
    shards = next((paths for paths in found if paths), None)
    if shards is None:
        raise DataError(f"{folder} holds no Parquet file, expected *.parquet or data/train-*.parquet; check the path")
    tables = [_from_path(shard).table for shard in shards]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{folder}: the {len(shards)} shards differ in their columns ({one_line(error)}); write them alike"
        ) from None
    return Source(table, str(folder), folder.resolve().name)


def _from_pandas(frame: pd.DataFrame) -> Source:
    if not frame.columns.is_unique or not all(isinstance(name, str) for name in frame.columns):
        raise DataError(f"DataFrame: column names must be texts, each once; found {list(frame.columns)}; rename them")
    values: dict[str, Any] = {}
    for name in frame.columns:
        series = frame[name]
        if name not in COLUMNS:
            values[name] = None  # only its name matters
            continue
        values[name] = series.tolist() if series.dtype == object else pa.array(series, from_pandas=True)
    table, bad = from_values(values, len(frame), "DataFrame")
    return Source(table, "DataFrame", "", bad)


def _from_dataset(source: object) -> Source:
    import datasets

    if isinstance(source, datasets.DatasetDict):
        raise DataError(f"a DatasetDict holds several splits ({', '.join(source)}); pass one, as in dataset['train']")
    if not isinstance(source, datasets.Dataset):
        raise DataError(
            f"cannot read pairs from a {type(source).__name__}; expected a path, a hub id, a pandas DataFrame, "
            "a pyarrow Table or a datasets.Dataset (a polars DataFrame: pass frame.to_arrow())"
        )
    return Source(source.with_format("arrow")[:], "datasets.Dataset", "")
