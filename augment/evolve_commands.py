"""`weakpref evolve`: parse, run the loop, print one line; `--dry-run` says what it would do."""

from __future__ import annotations

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from augment import commands
from augment.evolve import Evolved, Plan, plan
from augment.evolve import evolve as run
from augment.evolve_options import CONTROLS, LOSSES, METHODS, EvolveOptions
from augment.evolve_run import CONFIG
from augment.learning_status import FORMS, Thresholds
from augment.reward_anchor import ANCHORS
from augment.rm_ensemble import SOFT_LABELS
from labeling import read_votes, split_by_group
from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import Pairs
from rm.config import MINILM, RewardConfig
from rm.options import expanded

OWNERS = {
    "preset": "ser", "anchor": "ser", "thresholds": "ser", "loss": "ser",
    "folds": "ser+ws", "seed_votes": "ser+ws", "lfs": "ser+ws", "votes": "ser+ws",
    "members": "ensemble", "soft_label": "ensemble",
}  # fmt: skip
"""The method that an option belongs to."""

TEST_SHARE = (
    "Or a share of PAIRS, by group, to hold out for that; unlabelled pairs of those groups are set aside, not labelled."
)
FEW_TEST_PAIRS = 50
"""Fewer labelled test pairs than these are warned of."""


def _help(name: str) -> str:
    """Return what a field of EvolveOptions says of itself."""
    return str(next(field for field in fields(EvolveOptions) if field.name == name).metadata["help"])


def evolve(
    pairs: Annotated[str, typer.Argument(help="Preference pairs, some or all labelled: file, folder, hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    config: RewardConfig,
    method: Annotated[str, typer.Option(help=_help("method"))] = "ser+ws",
    preset: Annotated[str, typer.Option(help=_help("preset"))] = "paper",
    seed_share: Annotated[float | None, typer.Option(help="Share of the labels that stay visible, below 1.")] = None,
    gold: Annotated[int | None, typer.Option(help="Number of labels that stay visible, instead.")] = None,
    iterations: Annotated[int, typer.Option(help=_help("iterations"))] = 3,
    control: Annotated[list[str] | None, typer.Option(help=_help("controls") + " May be repeated.")] = None,
    test: Annotated[str | None, typer.Option(help="Labelled pairs of other prompts to measure on.")] = None,
    test_share: Annotated[float, typer.Option(help=TEST_SHARE)] = 0.0,
    lfs: Annotated[Path | None, typer.Option(help="ser+ws: your Python file of voters, besides the built-in.")] = None,
    votes: Annotated[Path | None, typer.Option(help="ser+ws: votes.parquet of judges on the same pairs.")] = None,
    anchor: Annotated[str, typer.Option(help=_help("anchor"))] = "pool",
    tau_high: Annotated[float, typer.Option(help="SER: a response is good above it.")] = 0.55,
    tau_low: Annotated[float, typer.Option(help="SER: a response is bad below it.")] = 0.45,
    tau_delta: Annotated[float, typer.Option(help="SER: least difference of pairs that differ much.")] = 0.3,
    enough: Annotated[float, typer.Option(help="SER: fewest pairs for a status; below 1: a share of the pool.")] = 600,
    loss: Annotated[str, typer.Option(help=_help("loss"))] = "preset",
    folds: Annotated[int, typer.Option(help=_help("folds"))] = 3,
    seed_votes: Annotated[bool, typer.Option("--seed-votes", help=_help("seed_votes"))] = False,
    members: Annotated[int, typer.Option(help=_help("members"))] = 3,
    soft_label: Annotated[str, typer.Option(help=_help("soft_label"))] = "mean",
    watch_share: Annotated[float, typer.Option(help=_help("watch_share"))] = 0.2,
    processes: Annotated[int, typer.Option(help=_help("processes"))] = 1,
    seed: Annotated[int, typer.Option(help=_help("seed"), min=0)] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUT from its last finished step.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be trained on what, and stop.")] = False,
    layout: Annotated[str | None, typer.Option(help="Layout of the file, where its columns fit two.")] = None,
    drop_bad_rows: Annotated[bool, typer.Option("--drop-bad-rows", help="Leave unusable rows out, counted.")] = False,
) -> None:
    """Let a reward model label pairs and learn from its labels: PAIRS -> a folder with a ledger and reward models."""
    options = EvolveOptions(
        config=config,
        method=one_of("method", method, METHODS),
        preset=one_of("preset", preset, FORMS),
        gold=_visible(seed_share, gold),
        iterations=iterations,
        anchor=one_of("anchor", anchor, ANCHORS),
        thresholds=Thresholds(tau_high, tau_low, tau_delta, enough),
        loss=one_of("loss", loss, LOSSES),
        folds=folds,
        seed_votes=seed_votes,
        members=members,
        soft_label=one_of("soft-label", soft_label, SOFT_LABELS),
        watch_share=watch_share,
        controls=tuple(one_of("control", name, CONTROLS) for name in control or ()),
        processes=processes,
        seed=seed,
    )
    _refuse_others(options, lfs, votes)
    reading = commands.Reading(layout, drop_bad_rows)
    known, held_out, aside = _held_out(reading(pairs), reading(test) if test else None, test_share, seed)
    said = read_votes(votes)[0] if votes else None
    voters = commands.Voting(lfs).voters()
    if dry_run:
        print(in_words(plan(known, options, test=held_out, voters=voters, votes=said), aside))
        return
    if resume and not (out / CONFIG).is_file():
        warnings.warn(f"there is no run in {out} to resume: it begins anew", WeakprefWarning, stacklevel=2)
    console = Console(stderr=True)
    if aside:
        console.print(f"{_set_aside(aside)}: neither labelled nor trained on", highlight=False, soft_wrap=True)
    print(outcome(run(
        known, out, options, test=held_out, voters=voters, votes=said, resume=resume, console=console
    )))  # fmt: skip


command = expanded(evolve, defaults={"model": MINILM}, without=("mix", "seed"))
"""The command: how reward models are trained is said by the options of `weakpref train`, but for the shares of several
sets, of which there is one, and the seed, which is the run's."""


def _visible(seed_share: float | None, gold: int | None) -> float | None:
    """Return the share or the number of labels that stay visible. Raises DataError for both, and what is no share."""
    if seed_share is None:
        return gold
    if gold is not None:
        raise DataError("--seed-share and --gold both say how many labels stay visible; pass one of them")
    if not 0 < seed_share < 1:
        raise DataError(
            f"--seed-share is {seed_share:g}, expected a share above 0 and below 1, 0.15 for instance; for a number of "
            "labels pass --gold"
        )
    return seed_share


def _refuse_others(options: EvolveOptions, lfs: Path | None, votes: Path | None) -> None:
    """Raise DataError for an option of another method than the one that runs: it would do nothing."""
    plain = EvolveOptions(config=options.config)
    given = [name for name in OWNERS if getattr(options, name, None) != getattr(plain, name, None)]
    given += [name for name, path in (("lfs", lfs), ("votes", votes)) if path is not None]
    if options.method == "ser+ws" and options.watch_share != plain.watch_share:
        raise DataError("--watch-share is an option of --method ser and ensemble: ser+ws cross-fits; leave it out")
    if options.preset == "as_released" and options.thresholds.enough != plain.thresholds.enough:
        raise DataError("--enough is an option of --preset paper: as released, one pair is enough; leave it out")
    for name in given:
        if OWNERS[name] != options.method:
            flag = "--tau-high, --tau-low, --tau-delta or --enough" if name == "thresholds" else f"--{name}"
            owner = f"--method {OWNERS[name]}, not {options.method}"
            raise DataError(f"{flag.replace('_', '-')} is an option of {owner}; leave it out")


def one_of(name: str, value: str, allowed: tuple[Any, ...]) -> Any:
    """Return a value that is allowed; raises DataError for another."""
    if value not in allowed:
        raise DataError(f"--{name} is {value!r}, expected one of {', '.join(allowed)}")
    return value


def in_words(p: Plan, aside: int = 0) -> str:
    """Return a plan as text, one line a step, and how many unlabelled pairs are set aside with those to test on."""
    return "\n".join(
        [
            f"{p.seed:,} pairs of the seed train, {p.watched:,} are watched, {p.pool:,} are to be labelled "
            f"({p.hidden:,} with a hidden label to measure against), {p.test:,} to test on"
            + (f", {_set_aside(aside)}" if aside else ""),
            *p.steps_each,
            f"at most {p.trainings} trainings, {p.steps:,} optimizer steps together",
        ]
    )


def outcome(found: Evolved) -> str:
    """Return in one line what a loop came to."""
    row = found.rows[found.best]
    tested = "" if row["test_accuracy"] is None else (
        f", on {row['test_n']:,} test pairs accuracy {row['test_accuracy']:.3f} "
        f"(seed alone {found.rows[0]['test_accuracy']:.3f}), log-loss {row['test_log_loss']:.3f}"
    )  # fmt: skip
    heard = sorted({name for each in found.rows for name in each["alarms"]})
    alarm = f"; alarms: {', '.join(heard)}" if heard else ""
    names = ", ".join(model.name for model in found.models)
    several = f"the mean of {len(found.models)} reward models ({names})" if found.members > 1 else "the reward model"
    where = found.model.parent if found.members > 1 else found.model
    return f"{where}: {several} of iteration {found.best}, stopped: {found.stopped}{tested}{alarm}"


def _set_aside(n: int) -> str:
    return f"{n:,} unlabelled pairs set aside with the test's groups"


def _held_out(pairs: Pairs, test: Pairs | None, share: float, seed: int) -> tuple[Pairs, Pairs | None, int]:
    """Return the pairs of a loop, the labelled ones to test on, and how many unlabelled pairs were held out with those.

    They share groups with the test, so they must not be trained on. Warns of a test of few labels.
    """
    if test is not None and share:
        raise DataError("--test and --test-share both say what to measure on; pass one of them")
    if test is None and share:
        pairs, test = split_by_group(pairs, share, seed)
    if test is None:
        return pairs, None, 0
    labelled = test.take(~np.isnan(test.gold))
    if not len(labelled):
        raise DataError("no test pair is labelled, so there is nothing to measure on; label some, or leave it out")
    if len(labelled) < FEW_TEST_PAIRS:
        warnings.warn(
            f"only {len(labelled)} test pairs are labelled, expected {FEW_TEST_PAIRS} or more: figures on so few hang "
            "on chance; label more, or hold out a larger share",
            WeakprefWarning,
            stacklevel=3,
        )
    return pairs, labelled, len(test) - len(labelled) if share else 0
