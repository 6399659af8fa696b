"""How well a reward model tells which response is preferred, on pairs whose prompts it was not trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError, GroupLeakError, WeakprefWarning
from labeling.figures import Figures, measure
from labeling.pairs import Pairs, check_pairs, prompt_id
from rm.length_bias import BINS, LengthBias, always_longer, length_bias, length_bins
from rm.model import check_path, score
from rm.provenance import STOPPING_PROMPTS, TRAIN_PROMPTS, hashes
from rm.temperature import probability, temperature_of

FloatArray = npt.NDArray[np.float64]

CALIBRATION_PROMPTS = "calibration_prompts.txt"
"""Hashes of the prompts a temperature was fitted on, beside the model."""
MOST_VALUES = 30
"""Values of a column that are measured one by one: the most frequent; the others are measured together."""
BY_LENGTH = "preferred response is"
"""The column of the bins of length difference."""


@dataclass(frozen=True)
class Slice:
    """Figures on the pairs that share a value of a column."""

    column: str
    value: str
    figures: Figures


@dataclass(frozen=True)
class Evaluation(Figures):
    """A reward model measured against gold labels: the figures of its calibrated probability, and what explains them.

    As text it is a few Markdown tables.
    """

    temperature: float
    """What margins were divided by: that of `rm.calibrate`, 1 where the model was not calibrated."""
    uncalibrated: Figures
    """The same figures at temperature 1."""
    length: LengthBias
    rivals: Mapping[str, Figures]
    """Figures on the same pairs of 'always longer' and, where its posterior was passed, the label model."""
    slices: tuple[Slice, ...]
    """Figures by length difference, by source, and by the columns passed. Of those by length difference, which depends
    on the label itself, only the accuracy says something."""
    p_a: FloatArray = field(repr=False)
    """P(A preferred) = sigmoid((r_a - r_b) / temperature), one a pair passed, NaN where the pair has no gold label."""

    def record(self) -> dict[str, Any]:
        """Return everything but `p_a`, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "p_a"}

    def __str__(self) -> str:
        from rm.evaluation_report import markdown

        return markdown(self)


def evaluate(
    model: str | Path,
    pairs: Pairs,
    *,
    posterior: npt.ArrayLike | None = None,
    by: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a saved reward model on the pairs that have a gold label; seed is the bootstrap's.

    `posterior` is a label model's P(A preferred), shape (n,), to be measured beside; `by` names columns of n values to
    measure the pairs by. Raises DataError where there is no gold label or a column is not of n values, GroupLeakError
    where a pair's prompt was trained on. Groups wider than a prompt are not known here: split with split_by_group.
    """
    known = with_gold(pairs)
    check_unseen(model, known)
    warn_of_use(model, known)
    rewards = np.full((len(pairs), 2), np.nan)
    rewards[~np.isnan(pairs.gold)] = score(model, known)
    return evaluate_rewards(rewards, pairs, temperature=temperature_of(model), posterior=posterior, by=by, seed=seed)


def evaluate_rewards(
    rewards: npt.ArrayLike,
    pairs: Pairs,
    *,
    temperature: float = 1.0,
    posterior: npt.ArrayLike | None = None,
    by: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure rewards (n, 2) of responses A and B that are there already; else as `evaluate`, which see."""
    known = with_gold(pairs)
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.shape != (len(pairs), 2):
        raise DataError(
            f"rewards have shape {rewards.shape}, expected ({len(pairs)}, 2): those of responses A and B of each pair"
        )
    if not temperature > 0:
        raise DataError(f"temperature is {temperature}, expected a number above 0")
    labelled = ~np.isnan(pairs.gold)
    judged = rewards[labelled]
    p_a = probability(judged, temperature)
    everywhere = np.full(len(pairs), np.nan)
    everywhere[labelled] = p_a
    return Evaluation(
        **vars(measure(p_a, known.gold, known.groups, seed)),
        temperature=temperature,
        uncalibrated=measure(probability(judged), known.gold, known.groups, seed),
        length=length_bias(judged[:, 0] - judged[:, 1], known, seed),
        rivals=_rivals(known, _column("posterior", posterior, pairs), labelled, seed),
        slices=tuple(_slices(p_a, known, _columns(by or {}, pairs, labelled), seed)),
        p_a=everywhere,
    )


def with_gold(pairs: Pairs) -> Pairs:
    """Return the pairs that have a gold label; raises DataError where none has."""
    check_pairs(pairs)
    labelled = ~np.isnan(pairs.gold)
    if not labelled.any():
        raise DataError(
            f"none of {len(pairs)} pairs has a gold label, so there is nothing to measure against; "
            "pass pairs with a gold column"
        )
    return pairs if labelled.all() else pairs.take(labelled)


def check_unseen(model: str | Path, pairs: Pairs, purpose: str = "evaluate on") -> None:
    """Raise GroupLeakError if a pair's prompt is among those the model in this directory was trained on."""
    check_path(model)
    check_pairs(pairs)
    leaked = {prompt_id(prompt) for prompt in pairs.table["prompt"].to_pylist()} & trained_prompts(model)
    if leaked:
        raise GroupLeakError(
            f"{len(leaked)} of the prompts to {purpose} were trained on; the first has the hash {min(leaked)}: leave "
            f"out the pairs whose prompt_id stands in {Path(model) / TRAIN_PROMPTS}, or split with split_by_group "
            "before training"
        )


def trained_prompts(model: str | Path) -> set[str]:
    """Return the hashes of the prompts a model was trained on; none for a model from elsewhere: nobody can know."""
    return hashes(Path(model) / TRAIN_PROMPTS)


def warn_of_use(model: str | Path, pairs: Pairs) -> None:
    """Warn where prompts of the pairs decided when to stop training the model in this directory, or its temperature."""
    warn_of_stopping(model, pairs, "all figures come out a little too good; evaluate on other prompts", 4)
    if n := _n_used(Path(model) / CALIBRATION_PROMPTS, pairs):
        warnings.warn(
            f"the temperature of {model} was fitted on the prompts of {n:,} of these {len(pairs):,} pairs: log-loss, "
            "Brier and ECE come out a little too good; evaluate on other prompts than `weakpref calibrate` was given",
            WeakprefWarning,
            stacklevel=3,
        )


def warn_of_stopping(model: str | Path, pairs: Pairs, consequence: str, stacklevel: int = 3) -> None:
    """Warn where prompts of the pairs decided when to stop training the model in this directory."""
    if n := _n_used(Path(model) / STOPPING_PROMPTS, pairs):
        warnings.warn(
            f"the prompts of {n:,} of these {len(pairs):,} pairs decided when the training of {model} stopped (they "
            f"stand in {STOPPING_PROMPTS}): {consequence}",
            WeakprefWarning,
            stacklevel=stacklevel,
        )


def _n_used(record: Path, pairs: Pairs) -> int:
    used = hashes(record)
    return sum(prompt_id(prompt) in used for prompt in pairs.table["prompt"].to_pylist()) if used else 0


def _rivals(
    known: Pairs, posterior: FloatArray | None, labelled: npt.NDArray[np.bool_], seed: int
) -> dict[str, Figures]:
    rivals = {"always longer": measure(always_longer(known), known.gold, known.groups, seed)}
    if posterior is not None:
        rivals["label model"] = measure(posterior[labelled], known.gold, known.groups, seed)
    return rivals


def _slices(p_a: FloatArray, known: Pairs, columns: Mapping[str, npt.NDArray[np.str_]], seed: int) -> list[Slice]:
    found = []
    for column, values in columns.items():
        names, counts = np.unique(values[values != ""], return_counts=True)
        frequent = names[np.lexsort((names, -counts))][:MOST_VALUES].tolist()
        ordered = [name for name in BINS if name in frequent] if column == BY_LENGTH else frequent
        parts = [(name, values == name) for name in ordered]
        if len(names) > MOST_VALUES:
            parts.append((f"{len(names) - MOST_VALUES} others", (values != "") & ~np.isin(values, frequent)))
        for name, mask in parts:
            found.append(Slice(column, name, measure(p_a[mask], known.gold[mask], known.groups[mask], seed)))
    return found


def _columns(
    by: Mapping[str, Sequence[str]], pairs: Pairs, labelled: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.str_]]:
    columns = {BY_LENGTH: length_bins(pairs), "source": np.asarray(pairs.table["source"].to_pylist(), dtype=np.str_)}
    for name, values in by.items():
        if len(values) != len(pairs):
            raise DataError(f"column {name} has {len(values)} values, expected {len(pairs)}: one a pair")
        columns[name] = np.asarray(["" if value is None else str(value) for value in values], dtype=np.str_)
    return {name: values[labelled] for name, values in columns.items()}


def _column(name: str, values: npt.ArrayLike | None, pairs: Pairs) -> FloatArray | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(pairs),):
        raise DataError(f"{name} has shape {array.shape}, expected ({len(pairs)},): P(A preferred), one a pair")
    return array
