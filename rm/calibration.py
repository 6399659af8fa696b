"""One temperature for a reward model, fitted on held-out gold pairs and kept in its config."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from labeling.errors import DataError, GoldError
from labeling.figures import Figures, measure
from labeling.files import replacing, write_json
from labeling.folds import group_folds
from labeling.pairs import Pairs, prompt_id
from rm.card import CARD, write_card
from rm.evaluation import CALIBRATION_PROMPTS, check_unseen, warn_of_stopping, with_gold
from rm.model import score
from rm.provenance import MANIFEST
from rm.temperature import KEY, probability, sigmoid, temperature_of

FloatArray = npt.NDArray[np.float64]

FOLDS = 10
SMALLEST, LARGEST = 0.02, 100.0
"""Bounds of the temperature, as multiples of the median size of the margins."""


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature and what it does on gold pairs."""

    temperature: float
    """Above 0; margins are divided by it. Above 1: the model was too sure of itself."""
    n_groups: int
    before: Figures
    """At temperature 1."""
    after: Figures | None
    """Each pair at the temperature fitted on the other groups (10 folds at most), the largest allowed where those do
    not tell gold better than chance; None where there is one group."""


def calibrate(model: str | Path, pairs: Pairs, *, seed: int = 0) -> TemperatureFit:
    """Fit the temperature of a saved reward model on gold pairs, and write it into its config.json.

    Weights and raw rewards stay as they are, and so does every other entry of the config, so that other libraries load
    and score the model as before; `rm.evaluate`, `rm.RewardVoter` and `rm.Ensemble` read the temperature. A centre is
    not fitted: it cancels in every margin. Warns of prompts by which training was stopped. Raises DataError where
    `model` is no directory, GroupLeakError where the model was trained on a pair's prompt, GoldError where there is no
    gold or the rewards do not tell it.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise DataError(f"{model} is no directory with a config.json; download the reward model first to calibrate it")
    known = with_gold(pairs)
    check_unseen(model, known, "calibrate on")
    warn_of_stopping(model, known, "the temperature comes out a little too small; calibrate on other prompts")
    found = fit_temperature(score(model, known), known, seed)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[KEY] = {"temperature": found.temperature, "gold": asdict(found.before) | {"n_groups": found.n_groups}}
    config[KEY]["cross_fitted"] = None if found.after is None else asdict(found.after)
    prompts = sorted({prompt_id(prompt) for prompt in known.table["prompt"].to_pylist()})
    with replacing(folder / CALIBRATION_PROMPTS) as part:
        part.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    write_json(folder / "config.json", config)
    if (folder / CARD).is_file() and (folder / MANIFEST).is_file():
        write_card(folder)
    return found


def fit_temperature(rewards: FloatArray, pairs: Pairs, seed: int = 0) -> TemperatureFit:
    """Fit the temperature of rewards (n, 2) of pairs that all have gold, and cross-fit it by group.

    Raises GoldError where all pairs together do not tell a temperature. Where only the pairs outside a fold do not, the
    fold is judged at the largest temperature allowed: next to chance, as somebody with those pairs alone would have to.
    """
    margins, gold, groups = rewards[:, 0] - rewards[:, 1], pairs.gold, pairs.groups
    temperature = likeliest_temperature(margins, gold)
    folds, after = group_folds(groups, FOLDS), None
    if folds.max() > 0:
        p_a = np.empty(len(gold))
        for fold in range(int(folds.max()) + 1):
            inside = folds == fold
            try:
                found = likeliest_temperature(margins[~inside], gold[~inside])
            except GoldError:
                found = LARGEST * _size(margins)
            p_a[inside] = probability(rewards[inside], found)
        after = measure(p_a, gold, groups, seed)
    before = measure(probability(rewards), gold, groups, seed)
    return TemperatureFit(temperature, len(np.unique(groups)), before, after)


def posterior(model: str | Path, pairs: Pairs) -> FloatArray:
    """Return P(A preferred) of each pair, shape (n,), under a saved reward model at its temperature."""
    return probability(score(model, pairs), temperature_of(model))


def likeliest_temperature(margins: FloatArray, gold: FloatArray) -> float:
    """Return the T > 0 that minimises the log-loss of sigmoid(margin / T), gold (n,) in [0, 1], ties and soft ones too.

    Two more pairs are imagined, of the median margin, one judged right and one wrong (Laplace's rule of succession):
    few gold pairs that the margins never get wrong would have them infinitely sure otherwise. The log-loss is convex in
    1 / T (Guo et al. 2017, arXiv 1706.04599), so its slope has one root at most. T is bounded by `SMALLEST` and
    `LARGEST` times the median size of a margin. Raises GoldError where the margins do not tell gold better than chance:
    no T helps.

    >>> round(likeliest_temperature(np.full(4, 2.0), np.array([1.0, 1.0, 1.0, 0.0])), 3)  # 2 / log 2
    2.885
    """
    size = _size(margins)

    def slope(sharpness: float) -> float:
        imagined = size * float(2 * sigmoid(np.array(size * sharpness)) - 1)
        return float((margins * (sigmoid(margins * sharpness) - gold)).sum()) + imagined

    if not size or slope(1 / (LARGEST * size)) >= 0:
        raise GoldError(
            f"the rewards of {len(gold)} gold pairs do not tell which response is preferred better than chance, so "
            "that no temperature makes them a probability; pass more gold pairs, or train the model further"
        )
    sharpest = 1 / (SMALLEST * size)
    if slope(sharpest) <= 0:
        return SMALLEST * size
    return float(1 / brentq(slope, 1 / (LARGEST * size), sharpest))


def _size(margins: FloatArray) -> float:
    """Return the median size of the margins that are not 0; 0 where all are."""
    return float(np.median(np.abs(margins[margins != 0]))) if margins.any() else 0.0
