from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labeling.errors import DataError, GroupLeakError, WeakprefWarning
from labeling.files import write_json
from labeling.pairs import Pairs, prompt_id
from rm.evaluation import BY_LENGTH, evaluate
from rm.evaluation_report import FILES, write_evaluation
from rm.handoff import save
from rm.model import RewardModel, load_base, score
from rm.provenance import STOPPING_PROMPTS, TRAIN_PROMPTS
from rm.temperature import probability, sigmoid

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
AsPairs = Callable[..., Pairs]


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    return tmp_path / "rm"


def test_an_evaluation_measures_the_labelled_pairs(folder: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    rows = conversations(30)
    gold = [1.0, 0.0, 0.5] * 9 + [None] * 3
    pairs = as_pairs(rows, gold)
    result = evaluate(folder, pairs)
    h = np.diff(score(folder, pairs)[:27], axis=1)[:, 0]
    decided = np.array(gold[:27]) != 0.5
    assert (result.n, result.n_ties) == (27, 9)
    assert result.accuracy == pytest.approx(((h < 0) == (np.array(gold[:27]) == 1))[decided].mean())
    assert result.accuracy_low <= result.accuracy <= result.accuracy_high
    assert result.p_a.shape == (30,)
    assert np.isnan(result.p_a[27:]).all()
    assert result.log_loss > 0
    assert result.temperature == 1.0
    assert vars(result.uncalibrated).items() <= vars(result).items()


def test_swapping_the_responses_mirrors_the_probabilities(folder: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    pairs = as_pairs(conversations(12), [1.0, 0.0, 0.5] * 4)
    straight, swapped = evaluate(folder, pairs), evaluate(folder, pairs.swap())
    np.testing.assert_allclose(straight.p_a, 1 - swapped.p_a, atol=1e-12)
    assert straight.accuracy == swapped.accuracy


def test_prompts_that_stopped_the_training_are_warned_of_by_the_name_of_their_file(
    folder: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    rows = conversations(4)
    (folder / STOPPING_PROMPTS).write_text(f"0123456789abcdef\n{prompt_id(rows[2][0])}\n")
    try:
        with pytest.warns(WeakprefWarning, match=r"prompts of 1 of these 4 pairs decided .* stand in stopping_prompts"):
            evaluate(folder, as_pairs(rows))
        evaluate(folder, as_pairs(rows[:2]))
    finally:
        (folder / STOPPING_PROMPTS).unlink()


def test_a_prompt_that_was_trained_on_is_refused_by_its_hash(
    folder: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    rows = conversations(4)
    leaked = prompt_id(rows[2][0])
    (folder / TRAIN_PROMPTS).write_text(f"0123456789abcdef\n{leaked}\n")
    with pytest.raises(GroupLeakError, match=f"1 of the prompts to evaluate on .* has the hash {leaked}"):
        evaluate(folder, as_pairs(rows))
    assert evaluate(folder, as_pairs(rows).take([0, 1, 3])).n == 3


def test_without_gold_labels_there_is_nothing_to_measure(folder: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    with pytest.raises(DataError, match="none of 2 pairs has a gold label"):
        evaluate(folder, as_pairs(conversations(2), [None, None]))


def test_the_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
    assert sigmoid(np.array([math.log(4)]))[0] == pytest.approx(0.8)


def test_pairs_are_measured_by_source_by_length_and_by_the_columns_passed(
    folder: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(12), [1.0, 0.0, None] * 4)
    result = evaluate(folder, pairs, by={"origin": ["gold", "weak", None] * 4})
    found = {(part.column, part.value): part.figures for part in result.slices}
    assert found["source", "test"].accuracy == result.accuracy
    assert found["origin", "gold"].n == found["origin", "weak"].n == 4
    assert sum(figures.n for (column, _), figures in found.items() if column == BY_LENGTH) == 8
    right = (result.p_a > 0.5) == (pairs.gold > 0.5)
    assert found["origin", "gold"].accuracy == pytest.approx(right[::3].mean())
    with pytest.raises(DataError, match="column origin has 2 values, expected 12"):
        evaluate(folder, pairs, by={"origin": ["gold", "weak"]})


def test_rare_values_of_a_column_are_measured_together(folder: Path, conversations: Rows, as_pairs: AsPairs) -> None:
    pairs = as_pairs(conversations(40), [1.0] * 40)
    result = evaluate(folder, pairs, by={"number": [str(i) for i in range(40)]})
    numbers = [part for part in result.slices if part.column == "number"]
    assert len(numbers) == 31
    assert (numbers[-1].value, numbers[-1].figures.n) == ("10 others", 10)


def test_a_posterior_and_always_longer_are_measured_on_the_same_pairs(
    folder: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(12), [1.0, 0.0, None] * 4)
    result = evaluate(folder, pairs, posterior=np.full(12, 0.5))
    assert result.rivals["label model"].log_loss == pytest.approx(math.log(2))
    assert result.rivals["always longer"].n == 8
    with pytest.raises(DataError, match=r"posterior has shape \(3,\), expected \(12,\)"):
        evaluate(folder, pairs, posterior=np.full(3, 0.5))


@pytest.mark.slow
def test_a_report_is_written_in_full_and_twice_the_same(
    folder: Path, tmp_path: Path, conversations: Rows, as_pairs: AsPairs
) -> None:
    pairs = as_pairs(conversations(30), [1.0, 0.0, 0.5] * 10)
    result = evaluate(folder, pairs)
    for name in ("one", "two"):
        write_evaluation(tmp_path / name, result, pairs, {"pairs": "0"})
    assert {path.name for path in (tmp_path / "one").iterdir()} == {*FILES, "manifest.json"}
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    write_json(tmp_path / "other" / "manifest.json", {"command": "train"})
    with pytest.raises(DataError, match="would be lost"):
        write_evaluation(tmp_path / "other", result, pairs, {"pairs": "0"})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]
    figures = json.loads((tmp_path / "one" / "report.json").read_text())
    assert figures["accuracy"] == result.accuracy
    assert figures["length"]["n_longer"] == result.length.n_longer
    text = (tmp_path / "one" / "report.md").read_text()
    assert f"| reward model | 30 | 10 | {result.accuracy:.3f} [" in text
    assert "| always longer | 30 | 10 |" in text


def test_a_probability_is_the_sigmoid_of_the_margin_at_its_temperature() -> None:
    rewards = np.array([[3.0, 1.0], [1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(probability(rewards, 2.0), sigmoid(np.array([1.0, -1.0, 0.0])))
    np.testing.assert_allclose(probability(rewards + 7.0, 2.0), probability(rewards, 2.0))
