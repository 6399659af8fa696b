"""The temperature of a reward model: the likeliest one, kept where only this library looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from transformers import AutoModelForSequenceClassification

from labeling.errors import DataError, GoldError, GroupLeakError, WeakprefWarning
from labeling.metrics import log_loss
from labeling.pairs import Pairs, prompt_id
from rm import calibrate, compare, evaluate, posterior, score
from rm.calibration import fit_temperature, likeliest_temperature
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.provenance import STOPPING_PROMPTS, TRAIN_PROMPTS
from rm.temperature import probability, settings_of, sigmoid, temperature_of

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
AsPairs = Callable[..., Pairs]


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    return tmp_path / "rm"


@pytest.fixture
def pairs(folder: Path, conversations: Rows, as_pairs: AsPairs) -> Pairs:
    """40 pairs whose gold follows the model's own margins in three of four cases, one of ten a tie."""
    rows = conversations(40)
    margins = np.diff(-score(folder, as_pairs(rows)))[:, 0]
    gold = np.where(np.arange(40) % 4 > 0, margins > 0, margins <= 0).astype(float)
    return as_pairs(rows, np.where(np.arange(40) % 10 == 9, 0.5, gold).tolist())


def draw(temperature: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 3, n)
    return margins, (rng.random(n) < sigmoid(margins / temperature)).astype(float)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    assert likeliest_temperature(*draw(temperature)) == pytest.approx(temperature, rel=0.05)


def test_it_minimises_the_log_loss_with_ties_soft_gold_and_two_imagined_pairs() -> None:
    margins, gold = draw(2.0, 300)
    gold = np.where(np.arange(300) % 5 == 0, 0.5, np.where(np.arange(300) % 7 == 0, 0.8 * gold + 0.1, gold))
    typical = np.median(np.abs(margins))
    m, g = np.append(margins, [typical, typical]), np.append(gold, [1.0, 0.0])
    best = minimize_scalar(lambda log_t: log_loss(sigmoid(m / np.exp(log_t)), g), bounds=(-3, 5))
    assert likeliest_temperature(margins, gold) == pytest.approx(np.exp(best.x), rel=1e-3)


def test_swapping_the_responses_changes_no_temperature() -> None:
    margins, gold = draw(2.0, 300)
    assert likeliest_temperature(-margins, 1 - gold) == pytest.approx(likeliest_temperature(margins, gold), abs=1e-9)


def test_margins_that_tell_nothing_have_no_temperature() -> None:
    with pytest.raises(GoldError, match="rewards of 4 gold pairs do not tell which response is preferred"):
        likeliest_temperature(np.array([1.0, -1.0, 2.0, -2.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    with pytest.raises(GoldError, match="better than chance"):
        likeliest_temperature(np.zeros(3), np.array([0.0, 1.0, 1.0]))


@pytest.mark.parametrize("n", [1, 5, 10])
def test_a_few_pairs_that_are_all_right_make_no_model_infinitely_sure(n: int) -> None:
    """Laplace's rule: n of n right, and the next is right with (n + 1) / (n + 2)."""
    margins = np.where(np.arange(n) % 2 == 0, 3.0, -3.0)
    found = likeliest_temperature(margins, (margins > 0).astype(float))
    assert sigmoid(np.array(3.0 / found)) == pytest.approx((n + 1) / (n + 2))


def test_few_gold_pairs_cost_little_where_the_model_is_calibrated_already() -> None:
    losses = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        margins = rng.normal(0, 1.8, 2000)
        gold = (rng.random(2000) < sigmoid(margins)).astype(float)
        if ((margins[:10] > 0) == gold[:10]).mean() > 0.6:  # others tell no temperature
            losses.append(log_loss(sigmoid(margins / likeliest_temperature(margins[:10], gold[:10])), gold))
    assert np.mean(losses) < 0.56  # 0.49 at the true temperature, 0.9 without the imagined pairs


def test_figures_after_are_those_of_temperatures_that_did_not_see_the_group(as_pairs: AsPairs) -> None:
    margins, gold = draw(3.0, 40)
    rows = [([{"role": "user", "content": f"Why {i}?"}], "Yes.", "No.") for i in range(40)]
    rewards = np.stack([margins, np.zeros(40)], axis=1)
    found = fit_temperature(rewards, as_pairs(rows, gold.tolist()))
    assert found.n_groups == 40
    assert found.after is not None
    best = log_loss(probability(rewards, found.temperature), gold)
    assert best < found.after.log_loss < found.before.log_loss
    assert found.after.accuracy == found.before.accuracy


def test_a_fold_of_which_the_others_tell_nothing_is_judged_next_to_chance(as_pairs: AsPairs) -> None:
    """Two groups: all pairs together tell gold, but without the first group's the rewards are worse than chance."""
    rows = [([{"role": "user", "content": f"Why {i}?"}], "Yes.", "No.") for i in range(2)]
    rewards = np.stack([[3.0, 1.0], np.zeros(2)], axis=1)
    found = fit_temperature(rewards, as_pairs(rows, [1.0, 0.0]))
    assert found.after is not None
    assert found.after.accuracy == found.before.accuracy == 0.5
    first = -np.log(sigmoid(np.array(3.0 / 200)))  # T is 100 times the median margin, 2
    second = -np.log(sigmoid(np.array(-np.log(2) / 3)))  # T is 3 / log 2: of the only margin left, 2 of 3 are right
    assert found.after.log_loss == pytest.approx((first + second) / 2, rel=1e-6)
    with pytest.raises(GoldError, match="better than chance"):
        fit_temperature(rewards, as_pairs(rows, [0.0, 0.0]))


@pytest.mark.slow
def test_a_temperature_is_kept_read_and_shown_and_changes_no_accuracy_and_no_reward(folder: Path, pairs: Pairs) -> None:
    raw, before = score(folder, pairs), evaluate(folder, pairs)
    found = calibrate(folder, pairs)
    assert found.temperature != pytest.approx(1.0, abs=0.05)
    assert temperature_of(folder) == found.temperature
    assert settings_of(folder)["gold"]["n_ties"] == 4
    with pytest.warns(WeakprefWarning, match=r"the temperature of .* was fitted on the prompts of 40 of these 40"):
        after = evaluate(folder, pairs)
    with pytest.warns(WeakprefWarning, match=r"the temperature of .* was fitted on the prompts of 40 of these 40"):
        compare(folder, folder, pairs)
    np.testing.assert_array_equal(score(folder, pairs), raw)
    np.testing.assert_allclose(posterior(folder, pairs), probability(raw, found.temperature))
    assert (after.accuracy, after.temperature) == (before.accuracy, found.temperature)
    assert after.uncalibrated.log_loss == before.log_loss > after.log_loss
    assert f"temperature {found.temperature:.3g}" in str(after)


def test_other_libraries_load_a_calibrated_model_as_before(folder: Path, pairs: Pairs) -> None:
    calibrate(folder, pairs)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    model.save_pretrained(folder.parent / "again")
    assert temperature_of(folder.parent / "again") == temperature_of(folder)


def test_a_model_trained_further_starts_uncalibrated(folder: Path, pairs: Pairs) -> None:
    calibrate(folder, pairs)
    save(RewardModel(*load_base(str(folder), 64), 64), folder.parent / "further")
    assert settings_of(folder.parent / "further") == {}
    assert "weakpref" not in json.loads((folder.parent / "further" / "config.json").read_text())


def test_prompts_that_were_trained_on_calibrate_nothing(folder: Path, pairs: Pairs) -> None:
    (folder / TRAIN_PROMPTS).write_text(prompt_id(pairs.table["prompt"][3].as_py()) + "\n")
    with pytest.raises(GroupLeakError, match="1 of the prompts to calibrate on were trained on"):
        calibrate(folder, pairs)
    assert temperature_of(folder) == 1.0


def test_prompts_by_which_training_was_stopped_are_warned_of(folder: Path, pairs: Pairs) -> None:
    (folder / STOPPING_PROMPTS).write_text(prompt_id(pairs.table["prompt"][3].as_py()) + "\n")
    with pytest.warns(WeakprefWarning, match=r"1 of these 40 pairs decided when .* the temperature .* small"):
        calibrate(folder, pairs)
    assert temperature_of(folder) != 1.0


def test_only_a_directory_can_be_calibrated(pairs: Pairs) -> None:
    with pytest.raises(DataError, match=r"owner/name is no directory with a config\.json"):
        calibrate("owner/name", pairs)
