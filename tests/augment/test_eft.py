"""Judge data: gradings that order responses as people did, with no score in excess."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.eft import SCHEMA, Eft, Grading, agree_with_people, build_eft, flatten
from labeling.errors import DataError
from labeling.llm import Completion, Sampling

ASK = [{"role": "user", "content": "Grade."}]


def grading(score, response="r", sample=0, prompt="p"):
    return Grading(prompt, response, sample, ASK, f"Score: {score}", score)


def test_a_round_is_kept_only_if_every_winner_scores_above_what_it_beat() -> None:
    wins = {"p": [("best", "middle"), ("middle", "worst")]}
    rounds = [(5, 3, 1), (5, 3, 3), (1, 3, 5), (5, None, 1), (4, 3, 0)]
    gradings = [
        grading(score, response, sample)
        for sample, scores in enumerate(rounds)
        for response, score in zip(("best", "middle", "worst"), scores, strict=True)
    ]
    assert [(g.sample, g.score) for g in agree_with_people(gradings, wins)] == [
        (0, 5), (0, 3), (0, 1), (4, 4), (4, 3), (4, 0),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 9))
def test_flattening_keeps_all_of_a_rare_score_and_no_more_than_the_most_of_any(scores, most) -> None:
    items = [grading(score, f"r{i}") for i, score in enumerate(scores)]
    kept = [item.score for item in flatten(items, most)]
    assert all(kept.count(score) == min(scores.count(score), most) for score in range(6))


def test_flattening_keeps_the_order_and_draws_by_seed_whatever_the_order() -> None:
    items = [grading(4, f"r{i}") for i in range(20)] + [grading(1, "low")]
    kept = flatten(items, 5)
    assert [items.index(item) for item in kept] == sorted(items.index(item) for item in kept)
    assert {item.response for item in flatten(items[::-1], 5)} == {item.response for item in kept}
    assert {item.response for item in flatten(items, 5, seed=1)} != {item.response for item in kept}
    assert len(flatten(items)) == 11 + 1  # the mean count of the two scores there are, rounded up


class Grader:
    """Grades by the number of exclamation marks, and every second answer the other way round."""

    model = "grader@1"
    context = None

    def count_tokens(self, prompts):
        return [len(prompt[-1]["content"]) for prompt in prompts]

    def generate(self, prompts, sampling):
        return [[self.complete(prompt[-1]["content"], i) for i in range(sampling.n)] for prompt in prompts]

    def complete(self, text, i):
        marks = min(text.split("BEGIN RESPONSE")[1].count("!"), 5)
        return Completion(f"So.\nScore: {5 - marks if i % 2 else marks}", 3, -1.0, "stop")


def prompts(n):
    return [[{"role": "user", "content": f"Question {i}"}] for i in range(n)]


def test_built_from_pairs_it_is_chats_a_trainer_reads(make_pairs, tmp_path) -> None:
    rows = [(prompt, "Fine!" + "!" * i, "Meh.") for i, prompt in enumerate(prompts(3))]
    pairs = make_pairs(rows, [1.0, 1.0, 0.5])
    made = build_eft(pairs, Grader(), Sampling(n=2))
    assert (made.counts["gradings"], made.counts["agreeing"], made.counts["unparsed"]) == (8, 4, 0)
    assert made.counts["scores_before"] == {"0": 2, "1": 1, "2": 1, "3": 0, "4": 0, "5": 0}
    made.write(tmp_path / "eft.parquet")
    table = pq.read_table(tmp_path / "eft.parquet")
    assert table.schema == SCHEMA
    for row in table.to_pylist():
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert row["response"] in row["messages"][0]["content"]
        assert row["messages"][1]["content"].endswith(f"Score: {row['score']}")


def test_a_long_response_is_cut_in_the_middle_and_one_that_no_cut_makes_fit_is_not_graded(make_pairs) -> None:
    asks = prompts(2)
    asks[1][0]["content"] = "Why? " * 20
    long = "Good!" + "really " * 90 + "!"
    engine = Grader()
    engine.context = 1_500  # about 1,240 characters are the rubric's own
    pairs = make_pairs([(asks[0], long, "Meh."), (asks[0], "Fine!", "Meh.")], [1.0, 1.0])
    made = build_eft(pairs, engine, Sampling(n=1, max_tokens=50))
    assert (made.counts["cut"], made.counts["too_long"], made.counts["kept"]) == (1, 0, 3)
    [asked] = [item.asked[0]["content"] for item in made.items if item.response == long]
    assert "characters left out" in asked
    engine.context = 1_300
    both = make_pairs([(asks[0], "a!", "b"), (asks[1], long, "Meh.")], [1.0, 1.0])
    with pytest.raises(DataError, match=r"none of 0 gradings .* 4 responses were too long to grade"):
        build_eft(both, engine, Sampling(n=1, max_tokens=70))
    made = build_eft(both, engine, Sampling(n=1, max_tokens=50))
    assert (made.counts["too_long"], made.counts["gradings"], made.counts["kept"]) == (2, 2, 2)


class Steady(Grader):
    """Grades by the number of exclamation marks, in the same words each time."""

    def complete(self, text, i):
        return super().complete(text, 0)


def test_a_grading_said_again_word_for_word_is_kept_once_and_counted(make_pairs) -> None:
    asks = prompts(2)
    pairs = make_pairs([(asks[0], "a!!!", "b"), (asks[1], "a!!!", "b!")], [1.0, 1.0])
    made = build_eft(pairs, Steady(), Sampling(n=3))
    assert (made.counts["agreeing"], made.counts["repeated"], made.counts["kept"]) == (12, 8, 4)
    assert made.counts["scores_before"] == {"0": 1, "1": 1, "2": 0, "3": 2, "4": 0, "5": 0}
    assert len({(item.prompt_id, item.response, item.text) for item in made.items}) == 4


def test_a_prompt_whose_labels_contradict_each_other_is_not_graded_and_counted(make_pairs) -> None:
    asks = prompts(2)
    circle = [(asks[0], "a!!", "b!"), (asks[0], "b!", "c"), (asks[0], "c", "a!!")]
    made = build_eft(make_pairs([*circle, (asks[1], "a!", "b")], [1.0] * 4), Grader(), Sampling())
    assert (made.counts["contradictory"], made.counts["gradings"], made.counts["kept"]) == (1, 2, 2)
    with pytest.raises(DataError, match="labels of each of 1 prompts contradict each other"):
        build_eft(make_pairs(circle, [1.0] * 3), Grader(), Sampling())


def test_pairs_that_say_nothing_and_a_judge_that_never_agrees_are_errors(make_pairs) -> None:
    pairs = make_pairs([(prompts(1)[0], "a!", "b")], [0.5])
    with pytest.raises(DataError, match="none of 1 pairs says which"):
        build_eft(pairs, Grader(), Sampling())
    with pytest.raises(DataError, match="none of 2 gradings orders"):
        build_eft(make_pairs([(prompts(1)[0], "a!", "b")], [0.0]), Grader(), Sampling())
    with pytest.raises(DataError, match="most_per_score is 0"):
        flatten([], 0)


def test_a_score_that_cannot_be_kept_often_enough_is_refused_before_anything_is_graded(make_pairs) -> None:
    grader = Grader()
    grader.generate = None
    with pytest.raises(DataError, match="most_per_score is 0"):
        build_eft(make_pairs([(prompts(1)[0], "Fine!", "Meh.")], [1.0]), grader, Sampling(n=2), most_per_score=0)


def test_a_grading_that_no_file_holds_is_written_with_a_mark_in_its_place(tmp_path) -> None:
    Eft([Grading("p", "r", 0, ASK, "So \ud800.\nScore: 4", 4)], {}).write(tmp_path / "eft.parquet")
    [row] = pq.read_table(tmp_path / "eft.parquet").to_pylist()
    assert row["messages"][1]["content"] == "So ?.\nScore: 4"
