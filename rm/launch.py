"""Training on several GPUs: accelerate's settings that come with the package, and the command line that uses them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labeling.errors import DataError, WeakprefError

FOLDER = Path(__file__).parent / "presets"
PRESETS = ("single", "ddp", "fsdp2")


def preset(name: str) -> Path:
    """Return the file of accelerate's settings for one process, data parallel (ddp) or fully sharded (fsdp2) training.

    >>> preset("ddp").name
    'ddp.yaml'
    """
    if name not in PRESETS:
        raise DataError(f"preset is {name!r}, expected one of {', '.join(PRESETS)}")
    return FOLDER / f"{name}.yaml"


def command(name: str, launch: Sequence[str], train: Sequence[str]) -> list[str]:
    """Return `accelerate launch` with a preset, more options of accelerate's own, and the arguments of `rm.train`.

    >>> command("ddp", ["--num_processes", "4"], ["augmented", "--out", "rm0"])[5:]
    ['--num_processes', '4', '-m', 'rm.train', 'augmented', '--out', 'rm0']
    """
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(preset(name))]
    return [*accelerate, *launch, "-m", "rm.train", *train]


def launch(name: str, options: Sequence[str], train: Sequence[str]) -> None:
    """Run `rm.train` in as many processes as the preset and `options` say; raises WeakprefError where it fails."""
    code = subprocess.run(command(name, options, train), check=False).returncode
    if code:
        raise WeakprefError(f"training in several processes ended with exit code {code}; what went wrong stands above")
