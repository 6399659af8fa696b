"""Training on several GPUs: accelerate's settings that come with the package, and the command line that uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
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


def command(name: str, launch: Sequence[str], module: str, words: Sequence[str]) -> list[str]:
    """Return `accelerate launch` with a preset, more options of accelerate's own, a module and its arguments.

    >>> command("ddp", ["--num_processes", "4"], "rm.train", ["augmented", "--out", "rm0"])[5:]
    ['--num_processes', '4', '-m', 'rm.train', 'augmented', '--out', 'rm0']
    """
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(preset(name))]
    return [*accelerate, *launch, "-m", module, *words]


def launch(name: str, options: Sequence[str], module: str, words: Sequence[str], *, quiet: bool = False) -> None:
    """Run a module in as many processes as the preset and `options` say; raises WeakprefError where it fails.

    `quiet` drops what it prints to standard output.

    A module that calls `end_with_launcher` ends when this process does, however it does.
    """
    out = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(command(name, options, module, words), stdin=subprocess.PIPE, stdout=out) as run:
        code = run.wait()
    if code:
        raise WeakprefError(f"training in several processes ended with exit code {code}; what went wrong stands above")


def spread(processes: int, module: str, words: Sequence[str], *, quiet: bool = False) -> None:
    """Run a module data parallel in so many processes of this machine, on a free port."""
    launch("ddp", ["--num_processes", str(processes), "--main_process_port", "0"], module, words, quiet=quiet)


def end_with_launcher() -> None:
    """Have this process end when the one that launched it is gone, killed for instance.

    It would train on otherwise, beside the run that is started next.
    """

    def wait() -> None:
        while os.read(0, 1):  # standard input, which the launcher holds open and writes nothing to
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
