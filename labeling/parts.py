"""Long work in parts: what is done lies in a folder beside the output until all is there, so a killed run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.errors import DataError
from labeling.files import write_json


def part_folder(out: str | Path) -> Path:
    """Return the folder in which the parts of an output lie."""
    return Path(f"{out}.parts")


def remove_parts(parts: Path) -> None:
    """Delete a folder of parts that are no longer needed.

    It loses its name first: a kill while it is deleted leaves no parts without the name of the run they are of.
    """
    aside = parts.with_name(f".{parts.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(parts, aside)
        shutil.rmtree(aside, ignore_errors=True)


def claim(parts: Path, run: Mapping[str, Any]) -> None:
    """Make the folder of parts ours; raises DataError if it is another run's.

    `run` is what a run is known by, JSON: the same here, the same parts.
    """
    if not is_claimed(parts, run):
        write_json(parts / "run.json", run)


def is_claimed(parts: Path, run: Mapping[str, Any]) -> bool:
    """Return whether the folder of parts is ours already; raises DataError if it is another run's."""
    try:
        found = json.loads((parts / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    differ = [name for name in run if found.get(name) != run[name]]
    if differ:
        raise DataError(
            f"{parts} holds a run with other {' and '.join(differ)}; expected parts of this run: finish that one with "
            "what it began with, or delete the folder"
        )
    return True


def is_part(path: Path, rows: int) -> bool:
    """Return whether a Parquet file is there, readable and of so many rows."""
    try:
        return bool(pq.read_metadata(path).num_rows == rows)
    except (pa.ArrowInvalid, OSError):
        return False


def stamp(run: Mapping[str, Any], key: bytes) -> dict[bytes, bytes]:
    """Return Parquet metadata that say under `key` which run made a file."""
    return {key: json.dumps(run, sort_keys=True).encode()}


def stamped(path: Path, key: bytes) -> Any:
    """Return what `stamp` wrote into a Parquet file, None where it wrote nothing or there is no such file."""
    try:
        found = (pq.read_metadata(path).metadata or {}).get(key)
    except (pa.ArrowInvalid, OSError):
        return None
    return None if found is None else json.loads(found)


def write_among(parts: Path, table: pa.Table, target: str | Path) -> None:
    """Write a whole file among its parts and move it to its place, so that a kill leaves nothing else behind."""
    whole = parts / "whole"
    pq.write_table(table, whole, compression="zstd")
    os.replace(whole, target)
