"""`weakpref score` on the command line."""

from __future__ import annotations

import enum
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
