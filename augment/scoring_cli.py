"""`weakpref score` and `weakpref verify` on the command line."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from augment import commands, scoring
from augment.arguments import Drop, Layout, Out


class Engine(enum.StrEnum):
    """What runs the reward model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


def score(
    model: Annotated[str, typer.Argument(help="Reward model: a directory, or a hub id.")],
    pairs: Annotated[
        str, typer.Argument(help="Preference pairs (any layout), or candidates.parquet of `weakpref generate`.")
    ],
    out: Out,
    engine: Annotated[Engine, typer.Option(help="What runs the model.")] = Engine.TRANSFORMERS,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: two or three digits are right.")] = False,
    tokens: Annotated[int, typer.Option(help="Tokens of one forward pass: less memory with fewer.")] = 16384,
    processes: Annotated[int, typer.Option(help="Processes that share the work, a GPU each where there are any.")] = 1,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Score pairs: reward model and PAIRS -> rewards.parquet (pair_id, r_a, r_b: raw rewards).

    Candidates get a column reward instead, for `weakpref pair --score reward`. A run that was killed goes on with what
    is left. On several machines: `torchrun --no-python ... weakpref score ...`, with OUT in a folder they share.
    """
    from rm.shares import Scoring

    how = Scoring(engine.value, bf16, tokens, processes)
    print(scoring.score(model, pairs, out, commands.Reading(layout, drop_bad_rows), how))


def verify(
    model: Annotated[Path, typer.Argument(help="Reward model directory.")],
    pairs: Annotated[
        str | None, typer.Option(help="Real preference pairs to score (default: a few built-in conversations).")
    ] = None,
    limit: Annotated[int, typer.Option(help="Score the first so many pairs.")] = 32,
    vllm_python: Annotated[
        str | None, typer.Option(help="Python of another environment that has vLLM, where this one has none.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write the table to as well.")] = None,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Check that a reward model scores alike wherever it is loaded, and say which consumer would differ, and why.

    transformers, its pipeline, TRL, OpenRLHF, rewardbench and vLLM, as far as they can be asked here, against this
    library. The exit code is 1 if one differs by more than 1e-4.
    """
    agrees, text = scoring.verify(model, pairs, commands.Reading(layout, drop_bad_rows), limit, vllm_python, out)
    print(text)
    if not agrees:
        raise typer.Exit(1)
