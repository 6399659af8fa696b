"""What may be loaded: weights in safetensors, and no code that comes with a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from labeling.errors import DataError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SAFE = {"trust_remote_code": False, "use_safetensors": True}
"""How every model is loaded, here and where this library hands one to another."""


def check_checkpoint(path: str | Path) -> None:
    """Raise DataError if the weights in a folder are pickled, which runs what is in them; other paths pass."""
    folder = Path(path)
    pickled = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern)) if _holds_weights(file)]
    if pickled and not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{folder} has its weights in {pickled[0]}, a pickle, which can run any code when it is read: expected "
            "*.safetensors; where you trust the file, load it there with transformers' from_pretrained and write it "
            "again with save_pretrained, which writes safetensors"
        )


def check_own_code(path: str | Path, *, known_is_fine: bool) -> None:
    """Raise DataError if the model in a folder comes with code of its own, which is never run here.

    known_is_fine lets a model pass whose architecture transformers itself has: right for a base model, but not for a
    reward model, to which others who do run its code would give other rewards.
    """
    for name in ("config.json", "tokenizer_config.json"):
        record = read_record(Path(path) / name)
        known = name == "config.json" and record.get("model_type") in CONFIG_MAPPING
        if record.get("auto_map") and not (known_is_fine and known):
            raise DataError(
                f"{path} comes with code of its own (auto_map in {name}), which is never run here: expected a model "
                "of an architecture that transformers has; load it where you trust the code, save the weights as such "
                "a model, and remove auto_map"
            )


def read_record(path: Path) -> dict[str, Any]:
    """Return a JSON object's file, empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the model again") from None
    return value if isinstance(value, dict) else {}


def _holds_weights(file: Path) -> bool:
    return not file.name.startswith(("training_args", "optimizer", "scheduler", "rng_state"))
