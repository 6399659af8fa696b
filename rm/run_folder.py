"""The folder beside a model in training: which run it belongs to, and where that goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labeling.errors import DataError
from rm.config import RewardConfig
from rm.sources import input_hashes

RUN = "run.json"
"""Beside the checkpoints: the config and data they belong to."""
STATE = "trainer_state.json"
"""What transformers writes last into a checkpoint."""


def checkpoint_folder(out: str | Path) -> Path:
    """Return where a model in training has its checkpoints."""
    target = Path(out)
    return target.with_name(f"{target.name}.checkpoints")


def described(
    sources: Sequence[str | Path], config: RewardConfig, held_out: str | Path | None = None
) -> dict[str, Any]:
    """Return what a run is known by, as JSON gives it back."""
    inputs = input_hashes(sources)
    if held_out is not None:
        inputs["held_out"] = " ".join(input_hashes([held_out]).values())
    run = {"config": dataclasses.asdict(config), "inputs": inputs, "processes": int(os.environ.get("WORLD_SIZE", "1"))}
    plain: dict[str, Any] = json.loads(json.dumps(run))
    return plain


def check_asked(data: object, config: object, held_out: object) -> None:
    """Raise DataError where what is to be trained on, or how, is not what `train` takes."""
    given = list(data) if isinstance(data, list | tuple) else [data]
    if not given:
        raise DataError("data is empty, expected folders or files that augment.export wrote")
    asked = [("data", value) for value in given] + ([] if held_out is None else [("held_out", held_out)])
    for name, value in asked:
        if not isinstance(value, str | Path):
            raise DataError(
                f"{name} is a {type(value).__name__}, expected the folder that augment.export wrote: "
                "export(folder, pairs, p_a), and pass the folder"
            )
    if not isinstance(config, RewardConfig):
        raise DataError(f"config is {config!r}, expected RewardConfig('minilm') for instance")


def check_watched(config: RewardConfig, held_out: str | Path | None) -> None:
    """Raise DataError where pairs are held out in two ways, or none are for what needs them."""
    if held_out is not None and config.eval_share:
        raise DataError(f"eval_share is {config.eval_share} and held_out is {held_out}, expected one of them")
    idle = [name for name in ("eval_steps", "patience") if getattr(config, name) is not None]
    if idle and held_out is None and not config.eval_share:
        raise DataError(f"{' and '.join(idle)} without held-out pairs do nothing; pass eval_share, 0.05, or held_out")


def check_out(target: Path, run: Mapping[str, Any], resume: bool) -> None:
    """Raise DataError where the model is there already, or another run is under way to it, or this one unasked for."""
    checkpoints = checkpoint_folder(target)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise DataError(f"{target} already exists; delete it or pass another out")
    if not (checkpoints / RUN).is_file():
        return
    if not resume:
        raise DataError(
            f"{checkpoints} holds an unfinished run; pass resume=True (--resume) to continue it, or delete it"
        )
    begun = json.loads((checkpoints / RUN).read_text(encoding="utf-8"))
    changed = [key for key in run["config"] if begun["config"].get(key) != run["config"][key]]
    changed += ["data"] if begun["inputs"] != run["inputs"] else []
    changed += ["processes"] if "processes" in run and begun.get("processes") != run["processes"] else []
    if changed:
        raise DataError(
            f"{checkpoints} belongs to another run ({', '.join(changed)} differ); resume with the config and data it "
            "began with, or delete it"
        )


def last_checkpoint(checkpoints: Path) -> str | None:
    """Return the last checkpoint that is whole: transformers writes its state last, into the folder itself."""
    whole = [path for path in checkpoints.glob("checkpoint-*") if _is_json(path / STATE)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def stopped(checkpoint: str) -> bool:
    """Return whether training was over when the checkpoint was written."""
    state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
