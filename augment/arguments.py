"""Arguments that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PairsFile = Annotated[
    str, typer.Argument(help="Preference pairs: Parquet, folder of Parquet, JSON, JSONL(.gz), CSV, hub id.")
]
PromptsFile = Annotated[str, typer.Argument(help="File with a column prompt: texts or conversations.")]
VotesFile = Annotated[Path, typer.Argument(help="votes.parquet of `weakpref label`.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write; an earlier output there is replaced.")]
Layout = Annotated[str | None, typer.Option(help="Layout of the file, where its columns fit two.")]
Drop = Annotated[bool, typer.Option("--drop-bad-rows", help="Leave unusable rows out, counted, instead of stopping.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
