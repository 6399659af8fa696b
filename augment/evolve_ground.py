"""What a loop starts from: which labels train, which are watched, which are hidden, and who votes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.evolve_method import Ground
from augment.evolve_options import EvolveOptions
from augment.export import check_answerable
from augment.ser_ws import RM, SEED_RM
from labeling import apply, gold_sample, heuristics, split_by_group
from labeling.errors import DataError, GoldError, VotesError, WeakprefWarning
from labeling.heuristics import Heuristic
from labeling.pairs import Pairs
from labeling.split import joined_groups
from labeling.votes import VoteMatrix

BoolArray = npt.NDArray[np.bool_]


def lay_out(pairs: Pairs, options: EvolveOptions, voters: Iterable[Any] | None, votes: VoteMatrix | None) -> Ground:
    """Return the ground of a loop: `options.gold` labels visible, part of them watched unless the method cross-fits.

    Only ser+ws lets `voters` vote (None: the built-in heuristics, but those among `votes`) and takes `votes` of the
    same pairs, in any order. Groups that share a prompt are joined. Raises GoldError without a visible label that is no
    tie, for ser+ws without one for A and one for B, DataError without a pair to label, for repeated pairs, where ser+ws
    has one group only, and where SER would want more pairs than there are, RowError for a prompt that cannot be
    answered, VotesError for pairs without votes. Warns where the visible labels, or those watched, are of one group, or
    none are to be watched, so that nothing judges the labels of the loop.
    """
    check_answerable(pairs)
    pairs = pairs.with_groups(joined_groups(pairs))
    if len(np.unique(pairs.pair_ids)) < len(pairs):
        raise DataError(
            "some pairs occur more than once; expected each once: read them with on_bad_rows='drop' (--drop-bad-rows)"
        )
    visible = ~np.isnan(pairs.gold)
    if options.gold is not None:
        visible = gold_sample(pairs, options.gold, options.seed)
    if not (visible & (pairs.gold != 0.5)).any():
        raise GoldError("no visible label tells which response is preferred, so there is no seed; keep more labels")
    if visible.all():
        raise DataError(
            f"all {len(pairs)} labels are visible, so no pair is left to label; keep fewer of them: a number, or a "
            "share below 1, as gold (--gold or --seed-share)"
        )
    crossfitted = options.method == "ser+ws"
    if crossfitted:
        _check_crossfitting(pairs, visible, options)
    watched = np.zeros(len(pairs), dtype=np.bool_) if crossfitted else _watched(pairs, visible, options)
    _check_enough(int((~visible).sum()), options)
    hidden = pairs.with_gold(np.where(visible & ~watched, pairs.gold, np.nan))
    controls_need = "oracle" in options.controls and np.isnan(pairs.gold[~visible]).all()
    if controls_need:
        raise GoldError("the control oracle needs true labels of the pool, and there are none; leave it out")
    return Ground(hidden, watched, pairs.gold, _votes(hidden, voters, votes) if crossfitted else None)


def check_names(names: Iterable[str]) -> None:
    """Raise VotesError if a voter has the name of the loop's own reward model."""
    taken = sorted({RM, SEED_RM} & set(names))
    if taken:
        raise VotesError(f"a voter is called {taken[0]}, which is kept for the loop's own reward model; rename it")


def _check_crossfitting(pairs: Pairs, visible: BoolArray, options: EvolveOptions) -> None:
    if options.iterations >= options.rule().first_vote and len(np.unique(pairs.groups)) < 2:
        raise DataError(
            "all pairs are of one group, those that share a prompt joined, so none can be left out of a training; give "
            "a group column whose groups share no prompts, or leave it out"
        )
    gold = pairs.gold[visible]
    if not (gold > 0.5).any() or not (gold < 0.5).any():
        raise GoldError(
            f"all {len(gold)} visible labels prefer the same side, which cannot anchor the votes; keep more labels, or "
            "exchange A and B in some pairs"
        )
    if len(np.unique(pairs.groups[visible])) < 2:
        _warn_unjudged(f"all {len(gold)} are of one group")


def _check_enough(n: int, options: EvolveOptions) -> None:
    """Raise DataError where SER's status wants more pairs than the n of the pool: it could only be converged."""
    if options.method == "ser" and options.preset == "paper" and options.thresholds.least(n) > n:
        raise DataError(
            f"enough is {options.thresholds.enough:g}, but only {n:,} pairs are to be labelled, so SER would be "
            "converged at once; pass fewer, or a share of the pool (enough=0.05; --enough 0.05)"
        )


def _warn_unjudged(
    reason: str,
    beside: str = ", and no iteration is found worse than another",
    way_out: str = "label more pairs, of other groups",
) -> None:
    warnings.warn(
        f"no visible label can judge the labels of this run, for {reason}: no alarm can go off{beside}; {way_out}",
        WeakprefWarning,
        stacklevel=4,
    )


def _watched(pairs: Pairs, visible: BoolArray, options: EvolveOptions) -> BoolArray:
    """Return about `watch_share` of the visible labels, whole groups of them; none, with a warning, of too few or 0."""
    none = np.zeros(len(pairs), dtype=np.bool_)
    if options.watch_share == 0:
        _warn_unjudged("watch_share is 0, so that none is watched", way_out="leave it out (0.2), if that is not meant")
        return none
    try:
        _, watched = split_by_group(pairs.take(visible), options.watch_share, options.seed)
    except DataError:
        _warn_unjudged(f"all {visible.sum()} are of one group")
        return none
    chosen = visible & np.isin(pairs.pair_ids, watched.pair_ids)
    if not (visible & ~chosen & (pairs.gold != 0.5)).any():
        _warn_unjudged("without those there would be none to train on")
        return none
    if len(np.unique(pairs.groups[chosen])) < 2:
        _warn_unjudged(f"the {chosen.sum()} that are watched are of one group", beside="")
    return chosen


def _votes(pairs: Pairs, voters: Iterable[Any] | None, votes: VoteMatrix | None) -> VoteMatrix | None:
    given = None if votes is None else _of(votes, pairs)
    known = () if given is None else given.names
    asked = heuristics() if voters is None else voters
    panel = [voter for voter in asked if not (isinstance(voter, Heuristic) and voter.name in known)]
    said = apply(panel, pairs) if panel else None
    check_names([*known, *(said.names if said else ())])
    if given is None:
        return said
    if said is None:
        return given
    both = sorted(set(given.names) & set(said.names))
    if both:
        raise VotesError(f"votes and voters both hold {', '.join(both)}; expected each voter once: leave one out")
    return replace(
        said,
        votes=np.column_stack([said.votes, given.votes]),
        margins=np.column_stack([said.margins, given.margins]),
        names=(*said.names, *given.names),
        errors={**said.errors, **given.errors},
        self_labels=(*said.self_labels, *given.self_labels),
    )


def _of(votes: VoteMatrix, pairs: Pairs) -> VoteMatrix:
    """Return the votes on these pairs, in their order."""
    row = {name: i for i, name in enumerate(votes.pair_ids.tolist())}
    missing = [name for name in pairs.pair_ids.tolist() if name not in row]
    if missing:
        raise VotesError(
            f"there are no votes on {len(missing)} of {len(pairs)} pairs, the first is {missing[0]}; expected votes on "
            "all of them: make them of this very file"
        )
    return replace(votes.take([row[name] for name in pairs.pair_ids.tolist()]), groups=pairs.groups)
