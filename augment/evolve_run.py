"""The folder of a loop: one step after another, each written whole or not at all, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.console import Console

from augment.run_identity import changed, discard
from labeling.errors import DataError
from labeling.files import replacing, write_json

LEDGER = "ledger.jsonl"
CONFIG = "config.json"
FIRST = "iteration-0"


@dataclass
class Folder:
    """A run's folder, and how far the run is."""

    path: Path
    console: Console | None
    """Where every training is announced; None = nowhere."""
    planned: int
    """Most trainings the run may need."""
    done: int = field(default=0)

    def iteration(self, n: int) -> Path:
        """Return the folder of iteration n."""
        return self.path / f"iteration-{n}"

    def once(self, path: Path, make: Callable[[], object]) -> Path:
        """Have `make` write `path` unless it is there; what is there is whole, since all is renamed into place."""
        if not path.exists():
            make()
        return path

    def training(self, path: Path, what: str, make: Callable[[], object]) -> Path:
        """Do the same for a training, and announce it with the state of the whole run."""
        self.done += 1
        if not path.exists() and self.console is not None:
            self.console.print(f"[{self.done}/{self.planned}] {what}", markup=False, highlight=False, soft_wrap=True)
        if path.exists():  # killed just before they were deleted
            from rm.run_folder import checkpoint_folder

            shutil.rmtree(checkpoint_folder(path), ignore_errors=True)
        return self.once(path, make)

    def rows(self) -> list[dict[str, Any]]:
        """Return the ledger's rows of the iterations that are finished, in order."""
        found: list[dict[str, Any]] = []
        while (figures := self.iteration(len(found)) / "figures.json").is_file():
            found.append(json.loads(figures.read_text(encoding="utf-8")))
        return found

    def write_ledger(self) -> None:
        """Write one row an iteration as JSON lines."""
        lines = [json.dumps(row, sort_keys=True, allow_nan=False) for row in self.rows()]
        with replacing(self.path / LEDGER) as part:
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def claim(out: Path, run: Mapping[str, Any], resume: bool) -> None:
    """Make a folder this run's, or raise DataError where it is another's, or this one's and `resume` is not asked for.

    What a killed process left half-written is removed. A run that has trained nothing yet does not hold its folder:
    it is replaced, or gone on with if it is this one and `resume` is asked for.
    """
    stated = json.loads(json.dumps(run, sort_keys=True))
    config = out / CONFIG
    if not config.is_file():
        if out.exists() and (not out.is_dir() or any(path.name[0] != "." for path in out.iterdir())):
            raise DataError(f"{out} exists and is no run of evolve (no {CONFIG}); choose another folder")
        return write_json(config, stated)
    found = json.loads(config.read_text(encoding="utf-8"))
    if stated and not set(stated) & set(found):  # any model has a config.json
        raise DataError(f"{out} holds something else than a run of evolve; choose another folder")
    differ = [name.rpartition(".")[2] for name in changed(found, stated)]
    if (differ or not resume) and _trained_nothing(out):
        discard(out / FIRST)
        return write_json(config, stated)
    if differ:
        raise DataError(
            f"{out} holds a run with other {', '.join(differ)}; expected the same to go on with it: choose another "
            "folder, or delete this one"
        )
    if not resume:
        raise DataError(f"{out} holds this run already, finished or not; pass resume to go on with it, or delete it")
    for path in sorted(out.rglob(".*.part"), reverse=True):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return None


def _trained_nothing(out: Path) -> bool:
    """Return whether a run has made no more than the data of its first training: no model, and no checkpoint of one."""
    others = [path for path in out.iterdir() if path.name[0] != "." and path.name not in (CONFIG, FIRST)]
    made = [path for path in (out / FIRST).glob("*") if path.name[0] != "."]
    begun = [path for path in made if path.name != "kept" and path.suffix not in (".checkpoints", ".logs")]
    return not others and not begun and not any((out / FIRST).glob("*.checkpoints/checkpoint-*"))


def fingerprint(*arrays: npt.NDArray[Any]) -> str:
    """Return a hash of what some arrays hold, whatever file that came from."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update("\n".join(array.tolist()).encode() if array.dtype.kind == "U" else array.tobytes())
    return digest.hexdigest()


def steps_of(models: Sequence[Path]) -> int:
    """Return how many optimizer steps these reward models were trained for, together."""
    return sum(int(_counts(model)["steps"]) for model in models)


def unused(models: Sequence[Path]) -> dict[str, int]:
    """Return what the first of these trainings did not see, or not whole: too long a conversation, pairs held out."""
    counts = _counts(models[0]) if models else {}
    found = {name: int(counts.get(name, 0)) for name in ("long_conversations", "dropped_long_pairs", "held_out")}
    return found | {"eval_pairs": found.pop("held_out")}


def _counts(model: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads((model / "manifest.json").read_text(encoding="utf-8"))["counts"]
    return counts
