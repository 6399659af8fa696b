"""Self-improvement as a loop: a reward model labels pairs, learns from its labels, and a ledger says what that did."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from augment.evolve_ground import check_names, lay_out
from augment.evolve_method import Ground
from augment.evolve_options import EvolveOptions
from augment.evolve_round import Round
from augment.evolve_run import Folder, claim, fingerprint
from augment.evolve_training import members
from augment.run_identity import known_as
from labeling import check_disjoint
from labeling.errors import GoldError, GroupLeakError, VotesError, WeakprefWarning
from labeling.files import write_json
from labeling.pairs import Pairs, check_pairs, prompt_id
from labeling.split import joined_groups
from labeling.votes import VoteMatrix
from rm.alone import alone
from rm.config import RewardConfig, resolve
from rm.provenance import TRAIN_PROMPTS, hashes

CONVERGED, NO_BETTER, ALL_DONE = "converged", "no better on held-out labels", "all iterations done"


@dataclass(frozen=True)
class Evolved:
    """A finished loop."""

    path: Path
    """The run's folder."""
    rows: list[dict[str, Any]]
    """The ledger: one row an iteration."""
    best: int
    """The iteration whose reward model to use: best on held-out labels if the method stops by them, else the last."""
    stopped: str
    """Why the loop ended."""

    members: int = 1
    """Reward models of an iteration: an ensemble has several."""

    @property
    def models(self) -> list[Path]:
        """Directories of the reward models of that iteration; its figures are of their mean (`rm.Ensemble`)."""
        return members(self.path / f"iteration-{self.best}", self.members)

    @property
    def model(self) -> Path:
        """Directory of the first of them."""
        return self.models[0]


@dataclass(frozen=True)
class Plan:
    """What a loop would do."""

    seed: int
    """Pairs whose label trains."""
    watched: int
    """Pairs whose label is watched and trains nothing."""
    pool: int
    """Pairs to label."""
    hidden: int
    """Those of the pool whose true label is known, to measure against."""
    test: int
    """Labelled pairs to test on."""
    trainings: int
    """Most reward models that are trained."""
    steps: int
    """Most optimizer steps of all of them."""
    steps_each: tuple[str, ...]
    """What one iteration after another does, in words."""


def evolve(
    pairs: Pairs,
    out: str | Path,
    options: EvolveOptions,
    *,
    test: Pairs | None = None,
    voters: Iterable[Any] | None = None,
    votes: VoteMatrix | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Evolved:
    """Run a loop of self-improvement in the folder `out` and return what it came to.

    `options.gold` labels of `pairs` stay visible, the seed; the others are hidden and only measured against. `test`
    holds labelled pairs of other prompts, on which every reward model is measured and nothing is decided. For ser+ws
    `voters` vote (default: the built-in heuristics), and `votes` of judges on the same pairs are added. A run that was
    killed goes on from its last finished step if `resume`; the ledger and all labels are the same, byte for byte. One
    that came to no training is begun anew, whatever it was.

    Raises DataError where `out` holds something else, the pairs do not suffice, or nothing can be trained as `options`
    say, GoldError where labels do not, GroupLeakError where a prompt of `test` is among them, or among those that the
    base model was trained on, and what training raises. Warns where the base was trained on prompts of `pairs`.
    """
    _check_test(pairs, test)
    _check_base(options.config, pairs, test)
    _check_training(options.config)
    ground = lay_out(pairs, options, voters, votes)
    if options.method == "ser+ws" and ground.votes is None:
        raise VotesError("ser+ws needs votes on the pairs; pass voters, or votes of judges")
    with alone(out):
        claim(Path(out), stated(pairs, options, test, ground.votes), resume)
        return _evolve(Folder(Path(out), console, _trainings(options)), ground, options, test)


def _evolve(folder: Folder, ground: Ground, options: EvolveOptions, test: Pairs | None) -> Evolved:
    rule = options.rule()
    stopped = ""
    for n in range(options.iterations + 1):
        folder.done = sum(_trainings_of(options, i) for i in range(n))
        Round(n, folder, ground, rule, options, test).run()
        folder.write_ledger()
        stopped = _stop(folder.rows()[: n + 1], rule.stops_early)
        if stopped:
            break
    best = _best(folder.rows(), rule.stops_early)
    found = Evolved(folder.path, folder.rows(), best, stopped or ALL_DONE, rule.members)
    rms = [model.relative_to(folder.path).as_posix() for model in found.models]
    write_json(folder.path / "result.json", {"best": best, "rms": rms, "stopped": found.stopped})
    return found


def plan(
    pairs: Pairs,
    options: EvolveOptions,
    *,
    test: Pairs | None = None,
    voters: Iterable[Any] = (),
    votes: VoteMatrix | None = None,
) -> Plan:
    """Return what `evolve` would do, having trained nothing and let nobody vote."""
    check_names(voter.name for voter in voters)
    _check_test(pairs, test)
    _check_base(options.config, pairs, test)
    _check_training(options.config)
    ground = lay_out(pairs, options, (), votes)
    counts = {name: int(getattr(ground, name).sum()) for name in ("seed", "watched", "pool")}
    c = options.config
    an_epoch = math.ceil((counts["seed"] + counts["pool"]) / options.pairs_a_step)
    most = c.max_steps or math.ceil(c.epochs * an_epoch)
    words = tuple(_in_words(options, n) for n in range(options.iterations + 1))
    trainings = _trainings(options)
    steps = (trainings + _beyond_one(options)) * most
    hidden, tested = ground.hidden, np.array([]) if test is None else test.gold
    known = {"hidden": int((~np.isnan(hidden)).sum()), "test": int((~np.isnan(tested)).sum())}
    return Plan(**counts, **known, trainings=trainings, steps=steps, steps_each=words)


def _check_test(pairs: Pairs, test: Pairs | None) -> None:
    check_pairs(pairs)
    if test is None:
        return
    check_disjoint(pairs, test)
    if np.isnan(test.gold).all():
        raise GoldError(f"none of the {len(test)} test pairs is labelled, so there is nothing to measure on")


def _check_base(config: RewardConfig, pairs: Pairs, test: Pairs | None) -> None:
    """Raise GroupLeakError, or warn, where the model that all trainings start from was trained on these prompts."""
    known = hashes(Path(resolve(config.model)) / TRAIN_PROMPTS)
    if not known:
        return
    for what, some in (("test", test), ("pairs", pairs)):
        seen = () if some is None else [p for p in some.table["prompt"].to_pylist() if prompt_id(p) in known]
        if not seen:
            continue
        if what == "test":
            raise GroupLeakError(
                f"{config.model} was trained on the prompts of {len(seen):,} test pairs, as {prompt_id(seen[0])}: "
                "nothing can be measured on them; pass others, or start from another model"
            )
        warnings.warn(
            f"{config.model}, from which every training starts, was trained on the prompts of {len(seen):,} of "
            f"{len(pairs):,} pairs: it labels, and is watched on, what it has seen, and all figures but those on test "
            "pairs come out too good; start from a model that has not seen them",
            WeakprefWarning,
            stacklevel=3,
        )


def _check_training(config: RewardConfig) -> None:
    """Raise DataError for what the first training would refuse, hours of voting later."""
    from rm.plan import check_training  # torch takes seconds

    check_training(config)


def _in_words(options: EvolveOptions, n: int) -> str:
    if n == 0:
        return f"iteration 0: {_trainings_of(options, 0)} training(s) on the seed"
    rule = options.rule()
    labelled = f"by {rule.folds} models, cross-fitted, and all voters" if rule.folds else f"by {rule.members} model(s)"
    labelled = "by the voters" if rule.folds and n < rule.first_vote else labelled
    return f"iteration {n}: the pool labelled {labelled}; up to {_trainings_of(options, n)} training(s)"


def _trainings_of(options: EvolveOptions, n: int) -> int:
    """Return how many reward models iteration n trains at most."""
    rule = options.rule()
    if n == 0:
        return rule.members
    return rule.members * (1 + len(options.controls)) + (rule.folds if n >= rule.first_vote else 0)


def _trainings(options: EvolveOptions) -> int:
    return sum(_trainings_of(options, n) for n in range(options.iterations + 1))


def _beyond_one(options: EvolveOptions) -> int:
    """Return how many trainings' steps the control equal-steps takes beyond one an iteration: n more in the n-th."""
    if "equal-steps" not in options.controls:
        return 0
    return options.rule().members * sum(range(1, options.iterations + 1))


def _stop(rows: Sequence[dict[str, Any]], early: bool) -> str:
    if rows[-1]["status"] == CONVERGED:
        return CONVERGED
    losses = [row["held_out_log_loss"] for row in rows if row["held_out_log_loss"] is not None]
    worse = len(losses) > 1 and rows[-1]["held_out_log_loss"] == losses[-1] and losses[-1] >= min(losses[:-1])
    return NO_BETTER if early and worse else ""


def _best(rows: Sequence[dict[str, Any]], early: bool) -> int:
    trained = [row for row in rows if row["steps"]]
    judged = [row for row in trained if row["held_out_log_loss"] is not None]
    if early and judged:
        return int(min(judged, key=lambda row: row["held_out_log_loss"])["iteration"])
    return int(trained[-1]["iteration"])


def stated(pairs: Pairs, options: EvolveOptions, test: Pairs | None, votes: VoteMatrix | None) -> dict[str, Any]:
    """Return what a run is known by: the same here, the same results."""
    said = asdict(options)
    said["config"]["model"] = known_as(options.config.model)
    if options.config.bf16 is None:  # what is left to the machine must be the same on the one that goes on
        from rm.arguments import computes_in_bf16  # torch takes seconds

        said["config"]["bf16"] = computes_in_bf16()
    inputs: dict[str, Any] = {"pairs": None, "test": None, "votes": None}
    for name, given in (("pairs", pairs), ("test", test)):
        if given is not None:
            inputs[name] = fingerprint(given.pair_ids, given.gold, joined_groups(given))
    if votes is not None:
        said_of_themselves = {"voters": list(votes.names), "self_labels": list(votes.self_labels)}
        inputs |= {"votes": fingerprint(votes.pair_ids, votes.votes, votes.margins)} | said_of_themselves
    return {"options": said, **inputs}
