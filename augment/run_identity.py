"""What a run in a folder is known by, so that none but it goes on there: models by contents, settings by name."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def known_as(model: str | Path) -> str:
    """Return what a model is known by: the hash of a folder's contents, wherever it lies; else its name."""
    from labeling.transformers_engine import weights_revision

    return weights_revision(model) if Path(model).is_dir() else str(model)


def changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return (there, here) of each setting that differs, by name; those within others as outer.inner.

    >>> changed({"pairs": 1, "options": {"seed": 0, "gold": 5}}, {"pairs": 2, "options": {"seed": 0, "gold": 6}})
    {'pairs': (1, 2), 'options.gold': (5, 6)}
    """
    ours, theirs = _flat(here), _flat(there)
    return {name: (theirs.get(name), ours.get(name)) for name in ours | theirs if ours.get(name) != theirs.get(name)}


def discard(folder: Path) -> None:
    """Delete a folder, if there is one; it loses its name first, so that a kill leaves no half of it to go on with."""
    aside = folder.with_name(f".{folder.name}.old.part")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.replace(aside)
        shutil.rmtree(aside)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": each for key, each in inner.items()}
    return found
