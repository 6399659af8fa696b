"""What a reward model was trained on: its prompts, by their hashes, and its labels by origin, those of its base too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TRAIN_PROMPTS = "train_prompts.txt"
"""Hashes of the prompts a model, or the one it started from, was trained on, beside it."""
STOPPING_PROMPTS = "stopping_prompts.txt"
"""Hashes of the held-out prompts that decided when training stopped and which weights were kept."""
MANIFEST = "manifest.json"
ORIGINS = "origins"
BASE_ORIGINS = "base_origins"
"""Origins of the labels that the model a training started from was trained on."""
UNKNOWN = "unknown"
MADE = ("weak", "self")
"""Origins of labels that a label model or a reward model made."""


def hashes(record: Path) -> set[str]:
    """Return the prompt hashes in a file, one a line; none where there is no such file."""
    return set(record.read_text(encoding="utf-8").split()) if record.is_file() else set()


def write_hashes(file: Path, prompts: Sequence[str]) -> None:
    """Write hashes of prompts, one a line."""
    file.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")


def label_origins(table: pa.Table) -> dict[str, int]:
    """Return how many training pairs have a label of each origin: gold, weak, self, or unknown where none is named."""
    counts = pc.value_counts(pc.fill_null(table["origin"], UNKNOWN).combine_chunks())
    return {str(entry["values"]): int(entry["counts"]) for entry in sorted(counts.to_pylist(), key=str)}


def origins_of(models: Sequence[str | Path]) -> dict[str, int]:
    """Return how many pairs models, and those they started from, were trained on with a label of each origin."""
    total: Counter[str] = Counter()
    for model in models:
        record = _manifest(Path(model) / MANIFEST)
        for found in (record.get(ORIGINS), record.get(BASE_ORIGINS)):
            if isinstance(found, dict):
                total.update({str(name): int(count) for name, count in found.items()})
    return dict(sorted(total.items()))


def _manifest(file: Path) -> dict[str, Any]:
    """Return what a manifest says; nothing where there is none, or it is of something else."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def trained_on_made_labels(model: str | Path) -> bool | None:
    """Return whether labels that a model made were among those a reward model was trained on; None: nobody can know."""
    origins = origins_of([model])
    if not origins:
        return None
    return True if any(origins.get(name) for name in MADE) else None if origins.get(UNKNOWN) else False
