"""RewardBench, RewardBench 2 and RM-Bench: tiny files in their layouts, scores worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.errors import DataError, GroupLeakError, LayoutError
from labeling.pairs import prompt_id
from rm.benchmark_files import Item, read_benchmark
from rm.benchmark_scores import best_of, levels, strictly_higher, style_matrix, ties_parts, ties_score
from rm.benchmarks import Benchmark, run_benchmark, scored
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.provenance import TRAIN_PROMPTS

Judged = list[tuple[str, str, list[float], list[float]]]


def results(name: str, judged: Judged) -> Benchmark:
    """Score (id, subset, rewards of the right responses, of the wrong ones)."""
    items = [
        Item(i, subset, ({"role": "user", "content": i},), ("x",) * len(right), ("y",) * len(wrong))
        for i, subset, right, wrong in judged
    ]
    return scored(name, items, [(np.array(right), np.array(wrong)) for _, _, right, wrong in judged])


def by_name(scores: Any) -> dict[str, float]:
    return {score.name: score.score for score in scores}


CORE: Judged = [
    ("0", "alpacaeval-easy", [1.0], [0.0]),
    ("1", "alpacaeval-easy", [1.0], [1.0]),  # equal rewards count as wrong
    ("2", "mt-bench-easy", [3.0], [2.0]),
    ("3", "llmbar-natural", [3.0], [2.0]),
    ("4", "refusals-dangerous", [1.0], [2.0]),
    ("5", "math-prm", [1.0], [2.0]),
    ("6", "hep-python", [2.0], [1.0]),
]


def test_rewardbench_weighs_subsets_by_the_original_counts_and_math_as_much_as_code() -> None:
    found = results("rewardbench", CORE)
    expected = {"Chat": (0.5 * 100 + 28) / 128, "Chat Hard": 1.0, "Safety": 0.0, "Reasoning": 164 / (984 + 164)}
    assert by_name(found.sections) == pytest.approx(expected)
    assert by_name(found.subsets)["alpacaeval-easy"] == 0.5
    assert found.average.score == pytest.approx(sum(expected.values()) / 4)
    assert "alpacaeval-length" in found.missing
    assert "shp" not in found.missing


def test_rewardbenchs_prior_sets_are_a_plain_mean_that_weighs_half() -> None:
    priors: Judged = [("7", "shp", [1.0], [0.0]), ("8", "shp", [1.0], [0.0]), ("9", "summarize", [0.0], [1.0])]
    found, core = results("rewardbench", CORE + priors), results("rewardbench", CORE)
    assert by_name(found.sections)["Prior Sets"] == 0.5
    assert found.average.score == pytest.approx((4 * core.average.score + 0.5 * 0.5) / 4.5)
    assert "anthropic_hhh" in found.missing


def test_a_response_that_shares_the_first_place_gets_its_share() -> None:
    rewards = [
        (np.array([2.0]), np.array([1.0, 0.0, 1.0])),
        (np.array([2.0]), np.array([2.0, 0.0, 2.0])),
        (np.array([1.0]), np.array([2.0, 0.0, 0.0])),
    ]
    assert best_of(rewards).tolist() == pytest.approx([1, 1 / 3, 0])
    assert strictly_higher(rewards).tolist() == [1, 0, 0]


TIES: Judged = [
    ("ref:1", "Ties", [3.0], [2.0, 1.0]),
    ("tied:1", "Ties", [5.0, 4.0], [1.0, 2.0]),  # gap 2, spread 1, the smaller gap 1
    ("tied:2", "Ties", [2.0, 1.0], [1.5]),  # gap -0.5, spread 1
    ("ref:2", "Ties", [4.0], [2.0]),
]


def test_the_ties_of_rewardbench_2_are_scored_by_accuracy_and_by_margins() -> None:
    found = results("rewardbench2", [*TIES, ("9", "Math", [1.0], [0.0, 0.5, 0.7])])
    tanh = math.tanh(-0.5 - 1)
    ties = 0.30 * (1 + 0) / 2 + 0.30 * 1 + 0.20 * (1 + 0) / 2 + 0.20 * 0 + 0.01 * (0 + tanh) / 2
    assert by_name(found.subsets) == pytest.approx({"Math": 1.0, "Ties": ties})
    assert found.average.score == pytest.approx((1 + ties) / 2)
    assert found.missing == ("Factuality", "Precise IF", "Safety", "Focus")


def test_right_answers_that_all_score_alike_have_an_infinite_margin_and_no_gap_none() -> None:
    def parts(tied: list[float], wrong: list[float]) -> list[float]:
        items = [Item(i, "Ties", (), (), ()) for i in ("tied:0", "ref:0")]
        rewards = [(np.array(tied), np.array(wrong)), (np.array([9.0]), np.array([0.0]))]
        return ties_parts(items, rewards)[0].tolist()

    assert parts([2.0, 2.0], [1.0]) == [1, 1, 1, 1, 1]
    assert parts([2.0, 2.0], [2.0]) == [0, 1, 0, 0, 0]
    assert parts([2.0, 2.0], [3.0]) == [0, 1, 0, 0, -1]
    assert ties_score(np.ones(5)) == pytest.approx(1.01)  # as released: a perfect model has a little over 1


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        ([("x1", "Ties", [1.0], [0.0])], "id 'x1' in the subset Ties, expected ref:<number> or tied:<number>"),
        ([("ref:1", "Ties", [1.0], [0.0])], "Ties has only one of ref:1 and tied:1"),
        ([TIES[0], ("tied:1", "Ties", [1.0], [0.0])], "tied:1 has 1 right answer, expected two or more"),
    ],
)
def test_ties_that_are_not_paired_are_an_error(judged: Judged, words: str) -> None:
    with pytest.raises(DataError, match=words):
        results("rewardbench2", judged)


def test_rm_bench_compares_three_styles_with_three() -> None:
    matrix = style_matrix([(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0]))])
    assert matrix[0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert levels(matrix[0]).tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_rm_bench_averages_domains_and_pools_the_two_kinds_of_safety() -> None:
    judged: Judged = [
        ("1", "chat", [1.0, 2.0, 3.0], [0.0, 2.0, 4.0]),  # easy 1, normal 1/3, hard 0
        ("2", "safety-refuse", [9.0, 9.0, 9.0], [0.0, 0.0, 0.0]),  # all right
        ("3", "safety-response", [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]),  # all wrong
        ("4", "safety-response", [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]),
    ]
    found = results("rm-bench", judged)
    expected = {"chat": 4 / 9, "safety": 1 / 3, "easy": 2 / 3, "normal": 1 / 3, "hard": 1 / 6}
    assert by_name(found.sections) == pytest.approx(expected)
    assert found.average.score == pytest.approx((4 / 9 + 1 / 3) / 2)
    assert found.missing == ("math", "code")
    with pytest.raises(DataError, match="domain 'poetry' is none of RM-Bench's"):
        results("rm-bench", [("1", "poetry", [1.0, 2.0, 3.0], [0.0, 2.0, 4.0])])


def test_intervals_hold_the_score_and_narrow_with_more_items() -> None:
    few, many = (
        results("rewardbench", [(str(i), "hep-go", [float(i % 3 > 0)], [0.5]) for i in range(n)]) for n in (30, 3000)
    )
    assert few.average.low < 2 / 3 < few.average.high
    assert many.average.high - many.average.low < (few.average.high - few.average.low) / 5


PROMPT = "What is the capital of France?"
FILES: dict[str, list[dict[str, Any]]] = {
    "rewardbench": [
        {"id": 0, "subset": "hep-go", "prompt": PROMPT, "chosen": "Paris.", "chosen_model": "x", "rejected": "Red.",
         "rejected_model": "y"}
    ],
    "rewardbench2": [
        {"id": "0", "prompt": PROMPT, "chosen": ["Paris."], "rejected": ["Red.", "No.", "I do not know."],
         "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "models": ["x"] * 4, "subset": "Factuality"}
    ],
    "rm-bench": [
        {"id": "1", "prompt": PROMPT, "chosen": ["Paris.", "It is Paris.", "**Paris**"],
         "rejected": ["Red.", "It is red.", "**Red**"], "domain": "chat"}
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_by_its_columns_and_scored(tiny: str, tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_pylist(FILES[name]), tmp_path / "bench.parquet")
    (tmp_path / "bench.json").write_text(json.dumps(FILES[name]))
    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    found = run_benchmark(tmp_path / "rm", tmp_path / "bench.parquet")
    assert found.benchmark == name
    assert found == run_benchmark(tmp_path / "rm", tmp_path / "bench.json", name)
    rewards = RewardModel.load(tmp_path / "rm").score(
        [[{"role": "user", "content": PROMPT}]] * 2, [FILES[name][0][key][0] if name != "rewardbench" else
        FILES[name][0][key] for key in ("chosen", "rejected")],
    )  # fmt: skip
    if name == "rewardbench":
        assert found.average.score == float(rewards[0] > rewards[1])
    (tmp_path / "rm" / TRAIN_PROMPTS).write_text(prompt_id([{"role": "user", "content": PROMPT}]))
    with pytest.raises(GroupLeakError, match=f"1 of the prompts of {name} were trained on"):
        run_benchmark(tmp_path / "rm", tmp_path / "bench.parquet")


def test_prior_sets_come_as_conversations(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "?"},
    ]
    pq.write_table(
        pa.Table.from_pylist([{"prompt": turns, "chosen": "a", "rejected": "b", "subset": "shp"}]),
        tmp_path / "p.parquet",
    )
    name, items = read_benchmark(tmp_path / "p.parquet")
    assert (name, list(items[0].prompt)) == ("rewardbench", turns)


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ({"prompt": "Hi", "chosen": "a", "rejected": "b"}, "auto", "are those of no benchmark"),
        (FILES["rm-bench"][0], "rewardbench2", "rewardbench2: there is no column num_correct"),
        (FILES["rm-bench"][0], "mt-bench", "no benchmark is called 'mt-bench'; known are auto, rewardbench"),
        (FILES["rm-bench"][0] | {"chosen": ["a"]}, "auto", "row 0, read as rm-bench: 1 chosen and 3 rejected"),
        (FILES["rewardbench2"][0] | {"chosen": ["a", "b"], "num_correct": 2}, "auto", "expected 1 outside"),
        (FILES["rewardbench2"][0] | {"num_correct": 3}, "auto", "num_correct 3 and 1 chosen responses"),
        (FILES["rewardbench"][0] | {"chosen": None, "subset": "shp"}, "rewardbench", "row 1, .*: no chosen"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(tmp_path: Path, row: dict[str, Any], name: str, words: str) -> None:
    rows = [FILES["rewardbench"][0], row] if row.get("chosen", "") is None else [row]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bench.parquet")
    with pytest.raises((DataError, LayoutError), match=words):
        read_benchmark(tmp_path / "bench.parquet", name)


@pytest.mark.parametrize("ids", [["7", "x"], [1, "two"], [None, "x"]])
def test_items_of_a_file_of_lines_keep_their_ids(tmp_path: Path, ids: list[Any]) -> None:
    rows = [FILES["rewardbench"][0] | {"id": name} for name in ids]
    (tmp_path / "bench.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _, items = read_benchmark(tmp_path / "bench.jsonl")
    assert [item.id for item in items] == ["0" if name is None else str(name) for name in ids]
