"""The command that trains, its options made from the fields of RewardConfig: `weakpref train`, `python -m rm.train`."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from labeling.errors import DataError
from rm.config import RewardConfig
from rm.launch import launch

USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for arguments it cannot use; it exports only this subclass."""

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
    resume: bool = False,
    preset: str | None = None,
    launch_options: str = "",
    held_out: Path | None = None,
    cache: Path | None = None,
    dry_run: bool = False,
    **options: Any,
) -> str:
    """Train a reward model; return what happened in one line, or what would happen in several."""
    config = RewardConfig(**{name: _numbers(name, value) for name, value in options.items()})
    if dry_run:
        from rm.plan import plan

        return "\n".join(plan(data, config).lines())
    if preset is not None:
        launch(preset, shlex.split(launch_options), arguments(data, out, resume, config, held_out, cache))
    else:
        import rm

        sources: Any = data if len(data) > 1 else data[0]
        rm.train(sources, config, out=out, resume=resume, cache=cache, held_out=held_out)
    return f"{out}: reward model trained from {config.model} on {', '.join(map(str, data))}"


def as_command(say: Callable[[str], None]) -> Callable[..., None]:
    """Return the function that typer makes a command of; `say` is called with the line that tells what happened."""

    def command(**given: Any) -> None:
        line = train(launch_options=given.pop("launch"), **given)
        launched = given["preset"] is not None and not given["dry_run"]  # processes that were launched say it
        if not launched and os.environ.get("RANK", "0") == "0":
            say(line)

    parameters = [
        inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, annotation=Data),
        inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Out),
        *(_parameter(option) for option in dataclasses.fields(RewardConfig)),
        inspect.Parameter("resume", inspect.Parameter.KEYWORD_ONLY, annotation=Resume, default=False),
        inspect.Parameter("held_out", inspect.Parameter.KEYWORD_ONLY, annotation=HeldOut, default=None),
        inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, annotation=Cache, default=None),
        inspect.Parameter("dry_run", inspect.Parameter.KEYWORD_ONLY, annotation=DryRun, default=False),
        inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, annotation=Preset, default=None),
        inspect.Parameter("launch", inspect.Parameter.KEYWORD_ONLY, annotation=Launch, default=""),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__ = "train"
    command.__doc__ = "Train a reward model: augmented dataset -> a directory that TRL and transformers load."
    return command


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


def _parameter(option: dataclasses.Field[Any]) -> inspect.Parameter:
    kind = typing.get_type_hints(RewardConfig)[option.name]
    if any(typing.get_origin(part) is tuple for part in (kind, *typing.get_args(kind))):
        kind = str | None  # typer has no options of any number of values
    text = str(option.metadata["help"]).replace("[", "\\[")  # or the help takes [minilm] for markup
    default = "minilm" if option.name == "model" else option.default
    panel = str(option.metadata["section"])
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(help=text, rich_help_panel=panel)],
    )


def _numbers(name: str, value: Any) -> Any:
    """Turn "0.7,0.3" into (0.7, 0.3) where a field holds several numbers."""
    kind = typing.get_type_hints(RewardConfig)[name]
    if value is None or not any(typing.get_origin(part) is tuple for part in (kind, *typing.get_args(kind))):
        return value
    try:
        return tuple(float(part) for part in str(value).split(","))
    except ValueError:
        raise DataError(f"{name} is {value!r}, expected numbers with commas between, 0.7,0.3 for instance") from None
