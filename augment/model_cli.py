"""The commands that ask a language model: `judge`, `generate`, `new-prompts`; and `pair`, for what is generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from augment import generation_commands, judging
from augment.arguments import Drop, Layout, Out, PairsFile, PromptsFile, Seed
from augment.commands import Reading
from augment.models import PACKAGED, ModelOptions
from augment.pair_candidates import Pairing
from augment.spending import SpendingOptions
from labeling.errors import DataError
from labeling.llm import Sampling
from rm.options import expanded


@expanded
def judge(
    pairs: PairsFile,
    out: Out,
    model: ModelOptions,
    asking: judging.Asking,
    spending: SpendingOptions,
    reporting: judging.Reporting,
    packaged: Annotated[str | None, typer.Option("--judge", help="smollm2: the same as --model smollm2.")] = None,
    limit: Annotated[int | None, typer.Option(help="Judge only the first so many pairs.")] = None,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Let a language model vote: PAIRS -> votes.parquet (votes, margins, gold and group of each pair)."""
    if packaged is not None:
        if model.model is not None:
            raise DataError("--judge and --model both name a model; pass exactly one")
        if packaged != PACKAGED:
            raise DataError(f"judge is {packaged!r}; expected {PACKAGED}; name other models by --model")
        model = replace(model, model=packaged)
    reading = Reading(layout, drop_bad_rows)
    print(judging.judge(pairs, out, reading, model, spending, asking, reporting, limit=limit))


@expanded
def generate(
    prompts: PromptsFile,
    out: Out,
    model: ModelOptions,
    prompting: generation_commands.Prompting,
    spending: SpendingOptions,
    n: Annotated[int, typer.Option("-n", help="Responses to each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="0: the likeliest response.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that make up this share.")] = 0.9,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a response.")] = 256,
    seed: Seed = 0,
) -> None:
    """Let a language model respond: PROMPTS -> candidates.parquet (several responses to each prompt)."""
    sampling = Sampling(n, temperature, top_p, max_tokens, seed=seed)
    print(generation_commands.generate(prompts, out, model, spending, sampling, prompting))


@expanded
def new_prompts(
    seeds: PromptsFile,
    out: Out,
    model: ModelOptions,
    growing: generation_commands.Growing,
    spending: SpendingOptions,
) -> None:
    """Let a language model write prompts like some there are: SEEDS -> prompts.parquet, for `weakpref generate`."""
    print(generation_commands.grow(seeds, out, model, spending, growing))


@expanded
def pair(
    candidates: Annotated[list[Path], typer.Argument(help="candidates.parquet of `weakpref generate`, one or more.")],
    out: Out,
    how: Pairing,
    score: Annotated[
        str | None, typer.Option(help="Column of scores; best-worst and length-controlled need it.")
    ] = None,
) -> None:
    """Make pairs of candidates that answer the same prompt: candidates.parquet -> pairs.parquet, without labels."""
    print(generation_commands.pair(candidates, out, how, score))
