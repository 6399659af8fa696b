"""The command line: each command parses, calls one function, writes one output and its manifest, prints one line."""

from __future__ import annotations

import enum
import importlib.metadata
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from augment import commands, evaluation_cli, evolve_commands, merging, model_cli, policy_cli, scoring_cli, splitting
from augment.arguments import Drop, Layout, Out, PairsFile, Seed, VotesFile
from labeling.errors import BudgetError, WeakprefError, WeakprefWarning
from rm import command
from rm.options import USAGE_ERROR

app = typer.Typer(
    name="weakpref",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"weakpref {importlib.metadata.version('weakpref')}")
        raise typer.Exit


@app.callback()
def weakpref(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Turn a few human preference labels into many calibrated ones, and train reward models on them."""


class Preset(enum.StrEnum):
    """Built-in heuristics that vote."""

    DEFAULT = "default"
    PAPER = "paper"
    AS_RELEASED = "as_released"
    NONE = "none"


app.command()(model_cli.generate)
app.command("new-prompts")(model_cli.new_prompts)
app.command()(model_cli.pair)


@app.command()
def split(
    pairs: PairsFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; an earlier split there is replaced.")],
    test_share: Annotated[float, typer.Option(help="Share of the pairs to test with, in whole groups.")] = 0.2,
    gold: Annotated[
        str | None,
        typer.Option(help="Labels to leave in train.parquet: a number of pairs, or a share below 1 (default: all)."),
    ] = None,
    seed: Seed = 0,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Split pairs by group and prompt: PAIRS -> a folder with train.parquet and test.parquet."""
    reading = commands.Reading(layout, drop_bad_rows)
    kept = None if gold is None else commands.parse_gold(gold)
    _say(splitting.split(pairs, out, reading, test_share, kept, seed))


@app.command()
def label(
    pairs: PairsFile,
    out: Out,
    lfs: Annotated[Path | None, typer.Option(help="Your Python file: every voter in it votes.")] = None,
    preset: Annotated[Preset, typer.Option(help="Built-in heuristics.")] = Preset.DEFAULT,
    abstain_on_error: Annotated[bool, typer.Option(help="Count a pair an LF fails on as its abstention.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes for row functions (default: all cores).")] = None,
    rm: Annotated[
        list[Path] | None, typer.Option(help="Reward model directory that votes too; may be given several times.")
    ] = None,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Let labeling functions vote: PAIRS -> votes.parquet (votes, margins, gold and group of each pair)."""
    reading = commands.Reading(layout, drop_bad_rows)
    voting = commands.Voting(lfs, preset.value, "abstain" if abstain_on_error else "raise", workers, rm or ())
    _say(commands.label(pairs, out, reading, voting))


app.command()(model_cli.judge)


@app.command()
def join(
    votes: Annotated[list[Path], typer.Argument(help="Files of votes on the same pairs, of `label` or `judge`.")],
    out: Out,
) -> None:
    """Put votes of several runs side by side in one file, matched by pair; who has no vote on a pair abstains."""
    _say(merging.join(votes, out))


@app.command()
def fit(
    votes: VotesFile,
    out: Out,
    model: Annotated[str, typer.Option(help=f"Label model: {', '.join(commands.MODELS)}.")] = "label",
    report: Annotated[
        Path | None, typer.Option(help="Folder for what `label` learned: the model, its voters, plots.")
    ] = None,
    self_labels: Annotated[
        str, typer.Option(help="Voters trained on labels of a label model, with commas between: only gold trusts them.")
    ] = "",
) -> None:
    """Merge votes: votes.parquet -> posterior.parquet (pair_id, p_a), anchored on gold where the model reads it."""
    names = [name.strip() for name in self_labels.split(",") if name.strip()]
    _say(merging.fit(votes, out, model, report, names))


@app.command()
def compare(
    votes: VotesFile,
    models: Annotated[str, typer.Option(help="Label models, with commas between.")] = ",".join(commands.MODELS),
    folds: Annotated[
        int, typer.Option(help="Parts of the gold pairs, each judged by models fitted on the others.")
    ] = 5,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write the table to as well.")] = None,
) -> None:
    """Compare label models on the gold pairs of votes.parquet, cross-fitted by group, the best first."""
    _say(merging.compare(votes, out, [name.strip() for name in models.split(",")], folds, Console()))


@app.command()
def explain(
    votes: VotesFile,
    model_file: Annotated[Path, typer.Option(help="model.json of `weakpref fit --report`.")],
    pair: Annotated[str, typer.Option(help="Its pair_id, or the number of its row.")],
) -> None:
    """Explain the posterior of one pair: what each voter adds to it, in log-odds."""
    _say(merging.explain(votes, model_file, pair))


@app.command()
def export(
    pairs: PairsFile,
    out: Out,
    posterior: Annotated[
        Path | None, typer.Argument(help="posterior.parquet of `weakpref fit`; without it the pairs with gold alone.")
    ] = None,
    votes: Annotated[Path | None, typer.Option(help="votes.parquet, to carry what each voter said.")] = None,
    keep_ties: Annotated[bool, typer.Option(help="Give ties the weight of other pairs instead of 0.")] = False,
    seed: Seed = 0,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Write the augmented dataset: PAIRS and posterior.parquet -> a folder that other trainers read unchanged.

    Without a posterior it holds the pairs with gold alone, to train on beside others or by itself.
    """
    reading = commands.Reading(layout, drop_bad_rows)
    _say(commands.export(pairs, posterior, out, reading, votes=votes, keep_ties=keep_ties, seed=seed))


app.command()(command.as_command(lambda line: _say(line), by_hand=True))


app.command()(scoring_cli.score)
app.command()(scoring_cli.verify)


@app.command()
def demo(
    data: Annotated[str | None, typer.Option(help="Labelled pairs: a file, or a hub id (default: quickstart).")] = None,
    gold: Annotated[str, typer.Option(help="Labels to keep: a number of pairs, or a share below 1.")] = "150",
    out: Out = Path("demo"),
    lfs: Annotated[Path | None, typer.Option(help="Your Python file of voters, besides the built-in ones.")] = None,
    seed: Seed = 0,
    layout: Layout = None,
) -> None:
    """Show what weak supervision buys on your data: hide all labels but a few, vote, merge, export, train, compare."""
    from augment.demo import DemoOptions, run_demo

    options = DemoOptions(data=data, gold=commands.parse_gold(gold), out=out, lfs=lfs, seed=seed, layout=layout)
    run_demo(options, Console())


evaluation_cli.register(app)
policy_cli.register(app)
app.command("evolve")(evolve_commands.command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after printing one line that says what is wrong and the way out.

    3 if a run stopped before it would have exceeded its limits: the same command goes on from there.
    """
    # Read when torch is loaded: threads that wait for others sleep, or a busy machine is slowed down many times.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with warnings.catch_warnings():
        warnings.simplefilter("always", WeakprefWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code = app(args=None if argv is None else list(argv), prog_name="weakpref", standalone_mode=False)
        except BudgetError as error:
            command = shlex.join(sys.argv[1:] if argv is None else argv)
            print(f"weakpref: {error}; raise the limit or go on as it is: weakpref {command}", file=sys.stderr)
            return 3
        except WeakprefError as error:
            print(f"weakpref: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"weakpref: error: {error}; check the path", file=sys.stderr)
            return 2
        except USAGE_ERROR as error:
            if error.format_message():  # empty after the help that no arguments at all bring up
                print(f"weakpref: error: {error.format_message()} See weakpref --help.", file=sys.stderr)
            return 2
        except typer.Exit as stop:
            return int(stop.exit_code)
    return int(code or 0)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, WeakprefWarning):
        print(f"weakpref: note: {message}", file=sys.stderr)


def _say(line: str) -> None:
    print(line)
