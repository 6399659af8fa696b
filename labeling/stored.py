"""Fitted models as JSON: frozen dataclasses, arrays and plain values, written and read back to the last bit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeling.errors import VotesError
from labeling.files import versions, write_json
from labeling.values import one_line

FORMAT = 1
"""Version of the layout of the file."""


def store(path: str | Path, values: Mapping[str, Any], types: Sequence[type]) -> None:
    """Write named values, made of dataclasses of the given types, arrays, tuples and plain values.

    Raises VotesError where something else than a saved model would be lost.
    """
    if os.path.lexists(path) and not _is_stored(Path(path)):
        raise VotesError(f"{path} exists and is no saved label model; pass another path, or move it away")
    known = {kind.__name__ for kind in types}
    plain = {name: _plain(value, known) for name, value in values.items()}
    write_json(path, {"format": FORMAT, "versions": versions(), "model": plain})


def stored_values(path: str | Path, names: Sequence[str], types: Sequence[type]) -> dict[str, Any]:
    """Return what `store` wrote; raises VotesError for anything else."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise VotesError(
                f"{path} has format {record['format']}, expected {FORMAT}; fit the model again and save it"
            )
        kinds = {kind.__name__: kind for kind in types}
        return {name: _restored(record["model"][name], kinds) for name in names}
    except FileNotFoundError:
        raise VotesError(f"{path} does not exist; write it with LabelModel.save") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, VotesError):
            raise
        raise VotesError(f"{path} is no saved label model ({one_line(error)}); write it with LabelModel.save") from None


def _is_stored(path: Path) -> bool:
    """Return whether a path holds what `store` wrote, in any format; its beginning says so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(rb'\{\s*"format": *"?\w+"?,\s*"model": *\{', file.read(200)) is not None


def _plain(value: Any, known: set[str]) -> Any:
    if isinstance(value, np.ndarray):
        return {
            "array": value.dtype.kind + str(value.dtype.itemsize),
            "shape": value.shape,
            "values": value.ravel().tolist(),
        }
    if is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ not in known:
            raise TypeError(f"{type(value).__name__} is not among the types that can be stored")
        return {"type": type(value).__name__} | {f.name: _plain(getattr(value, f.name), known) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item, known) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _restored(value: Any, kinds: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_restored(item, kinds) for item in value)
    if isinstance(value, dict) and "array" in value:
        kind = np.str_ if value["array"].startswith("U") else np.dtype(value["array"])
        return np.array(value["values"], dtype=kind).reshape(value["shape"])
    if isinstance(value, dict):
        parts = {name: _restored(part, kinds) for name, part in value.items() if name != "type"}
        return kinds[value["type"]](**parts)
    return value
