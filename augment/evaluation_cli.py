"""The commands that measure reward models."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from augment import evaluating
from augment.arguments import Drop, Layout, Out, PairsFile, Seed
from augment.commands import Reading
from labeling.errors import DataError

Model = Annotated[Path, typer.Argument(help="Reward model directory.")]


class Benchmark(enum.StrEnum):
    """Benchmarks of reward models."""

    AUTO = "auto"
    REWARDBENCH = "rewardbench"
    REWARDBENCH_2 = "rewardbench2"
    RM_BENCH = "rm-bench"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (evaluate, calibrate, average):
        app.command()(command)


def evaluate(
    model: Model,
    pairs: PairsFile,
    out: Out,
    against: Annotated[
        Path | None, typer.Option(help="Another reward model: write how the two differ on PAIRS, as .json.")
    ] = None,
    posterior: Annotated[
        Path | None, typer.Option(help="posterior.parquet of `weakpref fit` on PAIRS, to be measured beside.")
    ] = None,
    benchmark: Annotated[
        Benchmark | None,
        typer.Option(help="PAIRS is a benchmark's file, scored by its own rules."),
    ] = None,
    by: Annotated[str, typer.Option(help="Columns of PAIRS to measure by, with commas between.")] = "",
    seed: Seed = 0,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Evaluate a reward model on labelled PAIRS with prompts it never saw -> a folder, or report.json alone."""
    reading = Reading(layout, drop_bad_rows)
    if against is not None and benchmark is not None:
        raise DataError("--against and --benchmark were both given, expected one: run the two after each other")
    alone = against is not None or benchmark is not None
    idle = {"--posterior": alone and posterior is not None, "--by": alone and by}
    idle |= {"--layout": benchmark is not None and layout is not None}
    idle |= {"--drop-bad-rows": benchmark is not None and drop_bad_rows}
    for name in (name for name, given in idle.items() if given):
        with_which = "--against" if against is not None else "--benchmark"
        raise DataError(f"{name} does nothing with {with_which}; leave it out")
    if against is not None:
        print(evaluating.compare(model, against, pairs, out, reading, seed=seed))
        return
    if benchmark is not None:
        print(evaluating.benchmark(model, pairs, out, benchmark.value, seed=seed))
        return
    columns = [name.strip() for name in by.split(",") if name.strip()]
    print(evaluating.evaluate(model, pairs, out, reading, evaluating.Beside(posterior, columns), seed=seed))


def calibrate(
    model: Model,
    pairs: PairsFile,
    seed: Seed = 0,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Fit the temperature of a reward model on gold PAIRS it was not trained on, and keep it in its config.json."""
    print(evaluating.calibrate(model, pairs, Reading(layout, drop_bad_rows), seed=seed))


def average(
    models: Annotated[list[Path], typer.Argument(help="Reward model directories, of one base.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write; it must not exist yet.")],
) -> None:
    """Average the weights of reward models of one base (WARM) -> a reward model directory."""
    print(evaluating.average(models, out))
