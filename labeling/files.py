"""Files in, files out: a temporary name, renamed last, and a manifest beside every output."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.errors import DataError

MOST_BYTES = 1 << 20
"""Read of a text file to see what it holds."""
OTHER_ENDINGS = (".csv", ".gz", ".json", ".jsonl", ".tsv", ".txt", ".xlsx")
"""Of files that are no Parquet."""
PACKAGES = ("numpy", "pandas", "pyarrow", "scikit-learn", "snorkel", "torch", "transformers")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (file or folder to be made); rename it to `path` if the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(3)}"  # processes of two machines may share a folder and a number
    temporary = target.with_name(f".{target.name}.{mark}.part")
    old = target.with_name(f".{target.name}.{mark}.old.part")
    try:
        yield temporary
        if temporary.is_dir() and target.exists():
            os.replace(target, old)  # deleting a folder takes a while, in which a kill would leave half of it
        os.replace(temporary, target)
    finally:
        _remove(temporary)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_no_pairs(path: str | Path) -> None:
    """Raise DataError where what is to be written is a folder, or a file of pairs, which would be lost."""
    target = Path(path)
    if target.is_dir():
        raise DataError(f"{target} is a folder, expected the name of a file to write; pass another")
    found = _columns(target) if target.is_file() else set()
    if {"response_a", "response_b"} <= found or {"chosen", "rejected"} <= found:
        raise DataError(f"{target} holds preference pairs, which would be lost; write to another file")


def _columns(file: Path) -> set[str]:
    """Return the columns of a Parquet file, or the names in quotes, or between commas, at the start of a text file."""
    try:
        return set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError):
        with file.open("rb") as start:
            text = start.read(MOST_BYTES).decode("utf-8", "replace")
        return {*re.findall(r'"([a-z_]+)"\s*:', text), *text.split("\n", 1)[0].strip().replace('"', "").split(",")}


def check_report(folder: str | Path, command: str) -> None:
    """Raise DataError where a report is to be written to a file, or to a folder whose manifest is not of this command.

    Its manifest would be lost: a reward model, for one, is known by it.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file, expected a folder to write the report to; pass another")
    path = target / "manifest.json"
    if path.is_file() and not is_command(path, command):
        raise DataError(f"{path} is not of a report of {command} and would be lost; write the report to another folder")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return a manifest, empty where the file is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_command(path: str | Path, command: str) -> bool:
    """Return whether a file is the manifest of what a command wrote."""
    return read_manifest(path).get("command") == command


def check_parquet(path: str | Path) -> None:
    """Raise DataError where a Parquet file would get the name of another kind of file."""
    if Path(path).suffix.lower() in OTHER_ENDINGS:
        raise DataError(f"{path} would be a Parquet file; expected a name that ends in .parquet")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_hash(path: str | Path) -> str:
    """Return what stands for an input in a manifest: a file's SHA-256, a model folder's weights', or else the name.

    Weights in several safetensors files have the SHA-256 of the files' names and SHA-256, one file a line, sorted.
    """
    whole = Path(path)
    one, index = whole / "model.safetensors", whole / "model.safetensors.index.json"
    if whole.is_file() or one.is_file():
        return sha256(whole if whole.is_file() else one)
    if not index.is_file():
        return whole.name
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    lines = "".join(f"{name} {sha256(whole / name)}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the installed versions of weakpref and of what its outputs depend on."""
    found = {}
    for name in ("weakpref", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def manifest(command: str, *, inputs: Mapping[str, str], seed: int | None, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made an output: command, input hashes, seed, counts, versions. It holds no time and no path."""
    return {
        "command": command,
        "inputs": dict(inputs),
        "seed": seed,
        "counts": dict(counts),
        "versions": versions(),
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys and a final newline; NaN becomes null."""
    with replacing(path) as part:
        part.write_text(
            json.dumps(_without_nan(value), indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
        )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
