"""What a reward model was trained on, as its manifest says: labels by origin."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

MANIFEST = "manifest.json"
ORIGINS = "origins"
UNKNOWN = "unknown"
MADE = ("weak", "self")
"""Origins of labels that a label model or a reward model made."""


def label_origins(table: pa.Table) -> dict[str, int]:
    """Return how many training pairs have a label of each origin: gold, weak, self, or unknown where none is named."""
    counts = pc.value_counts(pc.fill_null(table["origin"], UNKNOWN).combine_chunks())
    return {str(entry["values"]): int(entry["counts"]) for entry in sorted(counts.to_pylist(), key=str)}


def trained_on_made_labels(model: str | Path) -> bool | None:
    """Return whether labels that a model made were among those a reward model was trained on; None: nobody can know."""
    record = Path(model) / MANIFEST
    origins = json.loads(record.read_text(encoding="utf-8")).get(ORIGINS) if record.is_file() else None
    if not origins:
        return None
    return True if any(origins.get(name) for name in MADE) else None if origins.get(UNKNOWN) else False
