"""`weakpref split`: pairs to train on and pairs to test with, and perhaps only some labels left in the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from augment.commands import Reading
from labeling import gold_sample, split_by_group
from labeling.errors import DataError
from labeling.files import input_hash, is_command, manifest, replacing, sha256, write_json
from labeling.pairs import Pairs

FILES, MANIFEST = ("train.parquet", "test.parquet"), "manifest.json"


def split(path: str, out: Path, reading: Reading, test_share: float, gold: float | None, seed: int) -> str:
    """Write train.parquet, test.parquet and manifest.json into a folder; return what happened in one line.

    With `gold` only so many labels of the training pairs stay (a number, or a share below 1); the others are hidden.

    Raises DataError where the folder holds anything but an earlier split.
    """
    if out.exists() and not _is_split(out):
        raise DataError(f"{out} exists and holds something else than a split; choose another folder")
    if out.resolve() in Path(path).resolve().parents:
        raise DataError(f"{path} is part of {out}, which would be replaced; choose another folder")
    train, test = split_by_group(reading(path), test_share, seed)
    if gold is not None:
        train = train.with_gold(np.where(gold_sample(train, gold, seed), train.gold, np.nan))
    parts = dict(zip(FILES, (train, test), strict=True))
    counts = {name: {"pairs": len(pairs), "gold": _labelled(pairs)} for name, pairs in parts.items()}
    with replacing(out) as folder:
        folder.mkdir()
        for name, pairs in parts.items():
            pairs.write(folder / name)
        record = manifest("split", inputs={"pairs": input_hash(path)}, seed=seed, counts=counts)
        record["outputs"] = {name: sha256(folder / name) for name in FILES}
        write_json(folder / MANIFEST, record)
    said = (f"{len(pairs)} in {name}, {_labelled(pairs)} with gold" for name, pairs in parts.items())
    return f"{out}: {'; '.join(said)}; no prompt and no group in both"


def _is_split(out: Path) -> bool:
    """Return whether a folder is empty or holds an earlier split alone."""
    found = {file.name for file in out.iterdir()} if out.is_dir() else {"a file"}
    if not found or found - {*FILES, MANIFEST}:
        return not found
    return is_command(out / MANIFEST, "split")


def _labelled(pairs: Pairs) -> int:
    return int((~np.isnan(pairs.gold)).sum())
