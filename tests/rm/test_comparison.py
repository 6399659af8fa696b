"""Two reward models on the same pairs: nothing between equal ones, and no more certainty than groups allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import permutation_test

from labeling.pairs import Pairs
from rm import compare
from rm.comparison import compare_probabilities, sign_flip

AsPairs = Callable[..., Pairs]


def grouped(as_pairs: AsPairs, gold: list[float | None], groups: list[str]) -> Pairs:
    rows = [([{"role": "user", "content": f"Why {i}?"}], "Because.", "No idea.") for i in range(len(gold))]
    table = as_pairs(rows, gold).table
    return Pairs(table.set_column(table.schema.get_field_index("group"), "group", pa.array(groups)), {})


def test_equal_models_differ_by_nothing(as_pairs: AsPairs) -> None:
    rng = np.random.default_rng(0)
    pairs = grouped(as_pairs, rng.choice([0.0, 1.0, 0.5], 60).tolist(), [str(i // 2) for i in range(60)])
    p_a = rng.random(60)
    found = compare_probabilities(p_a, p_a, pairs)
    assert (found.p_accuracy, found.p_log_loss) == (1.0, 1.0)
    assert (found.accuracy, found.accuracy_low, found.accuracy_high) == (0.0, 0.0, 0.0)
    assert (found.log_loss, found.log_loss_low, found.log_loss_high) == (0.0, 0.0, 0.0)
    assert found.disagreement_share == 0


def test_the_differences_are_those_of_the_hand(as_pairs: AsPairs) -> None:
    pairs = grouped(as_pairs, [1.0, 1.0, 0.0, 0.5, None], ["x", "x", "y", "y", "z"])
    found = compare_probabilities(np.array([0.8, 0.6, 0.4, 0.5, 0.9]), np.array([0.4, 0.6, 0.4, 0.5, 0.1]), pairs)
    assert (found.n, found.n_groups, found.n_ties) == (4, 2, 1)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.log_loss == pytest.approx(-math.log(2) / 4)
    assert found.disagreement_share == 0.25
    assert found.p_accuracy == 1.0  # one group of two tells a difference: either sign is as large


def test_exchanging_the_models_changes_the_signs_only(as_pairs: AsPairs) -> None:
    rng = np.random.default_rng(1)
    pairs = grouped(as_pairs, rng.choice([0.0, 1.0], 80).tolist(), [str(i // 2) for i in range(80)])
    one, other = rng.random(80), rng.random(80)
    there, back = compare_probabilities(one, other, pairs), compare_probabilities(other, one, pairs)
    assert there.accuracy == pytest.approx(-back.accuracy)
    assert there.log_loss_low == pytest.approx(-back.log_loss_high)
    assert (there.p_accuracy, there.p_log_loss) == (back.p_accuracy, back.p_log_loss)


def test_copies_within_a_group_make_no_difference_more_certain(as_pairs: AsPairs) -> None:
    gold, groups = [1.0] * 60, [str(i // 20) for i in range(60)]
    found = compare_probabilities(np.full(60, 0.8), np.full(60, 0.3), grouped(as_pairs, gold, groups))
    assert found.p_accuracy == 2 / 2**3  # McNemar's test would give 2 / 2^60


@pytest.mark.parametrize("g", [6, 14])
def test_the_p_value_is_that_of_scipys_permutation_test(g: int) -> None:
    differences = np.random.default_rng(2).normal(0.4, 1, g)
    expected = permutation_test(
        (differences, np.zeros(g)), lambda a, b, axis: (a - b).sum(axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert sign_flip(differences) == pytest.approx(expected, abs=1e-12 if g == 6 else 0.02)


@pytest.mark.slow
def test_chance_differences_are_called_significant_as_often_as_stated() -> None:
    rng = np.random.default_rng(3)
    values = [sign_flip(rng.normal(size=9)) for _ in range(400)]
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.025)


@pytest.mark.slow
def test_a_saved_model_compared_with_itself_differs_by_nothing(
    tiny: str, tmp_path: Path, conversations: Callable[[int], list[tuple[list[dict[str, str]], str, str]]],
    as_pairs: AsPairs,
) -> None:  # fmt: skip
    from rm.handoff import save
    from rm.model import RewardModel, load_base

    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    found = compare(tmp_path / "rm", tmp_path / "rm", as_pairs(conversations(12), [1.0, 0.0, 0.5] * 4))
    assert (found.n, found.accuracy, found.p_accuracy, found.log_loss) == (12, 0.0, 1.0, 0.0)
