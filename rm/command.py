"""The command that trains, its options made from the fields of RewardConfig: `weakpref train`, `python -m rm.train`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from labeling.errors import WeakprefWarning
from rm.config import MINILM, RewardConfig
from rm.launch import launch
from rm.launch import preset as launch_preset
from rm.options import USAGE_ERROR, expanded

Data = Annotated[
    list[Path], typer.Argument(help="Augmented dataset: the folder `weakpref export` wrote, or a file; one or more.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; it must not exist yet.")]
Resume = Annotated[bool, typer.Option(help="Go on from the last checkpoint of OUT.")]
HeldOut = Annotated[
    Path | None, typer.Option(help="Labelled pairs to measure during training, a folder or file like DATA.")
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder to keep tokens in for later runs (default: beside OUT, until it is done).")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print tokens, truncations and memory of the run, and train nothing.")
]
Preset = Annotated[
    str | None, typer.Option(help="Several processes by accelerate: ddp or fsdp2 (default: this process alone).")
]
Launch = Annotated[str, typer.Option(help="More options for accelerate launch, as one text: '--num_processes 4'.")]


def train(
    data: list[Path],
    out: Path,
    config: RewardConfig,
    resume: bool = False,
    held_out: Path | None = None,
    cache: Path | None = None,
    dry_run: bool = False,
    preset: str | None = None,
    launch_options: str = "",
) -> str:
    """Train a reward model; return what happened in one line, or what would happen in several."""
    if preset is not None:
        launch_preset(preset)  # that there is one
    if dry_run:
        from rm.plan import plan
        from rm.run_folder import check_out, described

        run = described(data, config, held_out)
        del run["processes"]  # how many there will be, `launch_options` and accelerate know
        check_out(out, run, resume)
        return "\n".join(plan(data, config, cache=cache, held_out=held_out).lines())
    if preset is not None:
        words = arguments(data, out, resume, config, held_out, cache)
        launch(preset, shlex.split(launch_options), "rm.launched", words)
    else:
        import rm

        sources: Any = data if len(data) > 1 else data[0]
        rm.train(sources, config, out=out, resume=resume, cache=cache, held_out=held_out)
    return f"{out}: reward model trained from {config.model} on {', '.join(map(str, data))}"


def _warn_of_nothing_to_resume(out: Path) -> None:
    from rm.run_folder import RUN, checkpoint_folder  # torch takes seconds

    if not out.exists() and not (checkpoint_folder(out) / RUN).is_file():
        warnings.warn(f"there is no run to {out} to resume: it begins anew", WeakprefWarning, stacklevel=3)


def as_command(say: Callable[[str], None], by_hand: bool = False) -> Callable[..., None]:
    """Return the function that typer makes a command of; `say` is called with the line that tells what happened.

    `by_hand`: it is typed, and not what another process launches, which may ask to resume what never began.
    """

    def command(
        data: Data,
        out: Out,
        config: RewardConfig,
        resume: Resume = False,
        held_out: HeldOut = None,
        cache: Cache = None,
        dry_run: DryRun = False,
        preset: Preset = None,
        launch: Launch = "",
    ) -> None:
        """Train a reward model: augmented dataset -> a directory that TRL and transformers load."""
        if resume and by_hand:
            _warn_of_nothing_to_resume(out)
        line = train(data, out, config, resume, held_out, cache, dry_run, preset, launch)
        launched = preset is not None and not dry_run  # processes that were launched say it
        if not launched and os.environ.get("RANK", "0") == "0":
            say(line)

    command.__name__ = "train"
    return expanded(command, defaults={"model": MINILM})


def arguments(
    data: Sequence[Path],
    out: Path,
    resume: bool,
    config: RewardConfig,
    held_out: Path | None = None,
    cache: Path | None = None,
) -> list[str]:
    """Return the command line that stands for a config: its fields where they differ from their defaults.

    >>> arguments([Path("augmented")], Path("rm0"), True, RewardConfig("minilm", lora_r=8, bf16=False))
    ['augmented', '--out', 'rm0', '--resume', '--model', 'minilm', '--lora-r', '8', '--no-bf16']
    """
    words = [*map(str, data), "--out", str(out), *(["--resume"] if resume else [])]
    words += [] if held_out is None else ["--held-out", str(held_out)]
    words += [] if cache is None else ["--cache", str(cache)]
    for option in dataclasses.fields(RewardConfig):
        value, name = getattr(config, option.name), option.name.replace("_", "-")
        if value == option.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after printing one line that says what is wrong."""
    from labeling.errors import WeakprefError

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(as_command(print))
    try:
        code = app(args=None if argv is None else list(argv), prog_name="python -m rm.train", standalone_mode=False)
    except WeakprefError as error:
        print(f"rm.train: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except USAGE_ERROR as error:
        print(f"rm.train: error: {error.format_message()}", file=sys.stderr)
        return 2
    return int(code or 0)
