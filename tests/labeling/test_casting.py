"""Failing voters: located, or counted as abstains; the same here and in processes."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from labeling.apply import apply
from labeling.errors import BudgetError, EngineError, VoterError, WeakprefWarning
from labeling.pairs import Pair, Pairs
from labeling.voters import Ballot, LabelingFunction, labeling_function, scoring_function
from labeling.votes import Vote

MakePairs = Callable[..., Pairs]
MODULE = importlib.import_module("labeling.apply")  # labeling.apply itself is the function
WORKERS = [1, pytest.param(2, marks=pytest.mark.slow)]


@labeling_function
def prefers_questions(pair: Pair) -> Vote:
    a, b = "?" in pair.response_a, "?" in pair.response_b
    return Vote.ABSTAIN if a == b else (Vote.A if a else Vote.B)


def returns(value: Any, at: str) -> LabelingFunction:
    """Make a row function that returns the value on one pair, A on the others."""
    return labeling_function(lambda pair: value if pair.pair_id == at else Vote.A, name="odd")


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None (NoneType)"), (7, "7 (int)"), (True, "True (bool)"), ("A", "'A' (str)")]
)
def test_a_function_that_returns_no_vote_stops_the_run(
    make_pairs: MakePairs, value: Any, shown: str, workers: int
) -> None:
    pairs = make_pairs(40)
    with pytest.raises(VoterError) as caught:
        apply([prefers_questions, returns(value, pairs.pair_ids[33])], pairs, workers=workers)
    assert str(caught.value) == (
        f"voter 'odd', row 33 (pair_id {pairs.pair_ids[33]}): returned {shown}; expected Vote.A, Vote.B or "
        'Vote.ABSTAIN (0, 1, -1); correct the function, or pass on_error="abstain" (command line: '
        "--abstain-on-error) to abstain on such pairs and "
        "count them"
    )
    assert caught.value.__cause__ is None


@labeling_function
def divides(pair: Pair) -> int:
    return 0 // (len(pair.response_a) - len(pair.response_b))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_function_that_raises_stops_the_run_and_says_where(make_pairs: MakePairs, workers: int) -> None:
    pairs = make_pairs(200)
    row = next(i for i, pair in enumerate(pairs) if len(pair.response_a) == len(pair.response_b))
    with pytest.raises(
        VoterError, match=rf"voter 'divides', row {row} .pair_id {pairs.pair_ids[row]}.: raised ZeroDiv"
    ) as caught:
        apply([divides], pairs, workers=workers)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    if workers > 1:
        assert "in divides" in caught.value.__cause__.__notes__[0]


@pytest.mark.parametrize("workers", WORKERS)
def test_the_first_failing_row_is_named_whatever_the_workers(make_pairs: MakePairs, workers: int) -> None:
    pairs = make_pairs(60)
    late, early = (
        returns(7, pairs.pair_ids[50]),
        labeling_function(returns(8, pairs.pair_ids[20]).function, name="early"),
    )
    with pytest.raises(VoterError, match=r"voter 'early', row 20 .*returned 8"):
        apply([late, early], pairs, workers=workers)


@pytest.mark.parametrize("workers", WORKERS)
def test_failures_may_abstain_and_are_counted(make_pairs: MakePairs, workers: int) -> None:
    pairs = make_pairs(200)
    equal = np.array([len(pair.response_a) == len(pair.response_b) for pair in pairs])
    bad = [divides, returns(None, pairs.pair_ids[3]), prefers_questions]
    first = f"voter 'divides', row {np.flatnonzero(equal)[0]} "
    words = f"abstain: divides on {equal.sum()}, odd on 1 of 200 pairs; the first: {first}.*: raised ZeroDivisionError"
    with pytest.warns(WeakprefWarning, match=words) as warned:
        votes = apply(bad, pairs, on_error="abstain", workers=workers)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert votes.errors == {"divides": equal.sum(), "odd": 1}
    np.testing.assert_array_equal(votes.votes[:, 0], np.where(equal, -1, np.where(votes.votes[:, 0] == 0, 0, -1)))
    assert (votes.votes[~equal, 0] == 0).all()
    np.testing.assert_array_equal(votes.votes[:, [2]], apply([prefers_questions], pairs).votes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"returned None \(NoneType\) of shape \(\); expected 20 votes"),
        ([0] * 19, r"of shape \(19,\); expected 20 votes"),
        ([0] * 20 + [1], r"of shape \(21,\)"),
        ([0.5] * 20, "votes of dtype float64; expected integers"),
        ([True] * 20, "votes of dtype bool"),
        ([7] * 20, r"returned 7 \(int\); expected Vote.A"),
    ],
)
def test_a_batch_function_that_returns_no_votes_stops_the_run(make_pairs: MakePairs, value: Any, words: str) -> None:
    pairs = make_pairs(20)
    where = rf"voter 'odd', batch of rows 0 to 19, failing first on row 0 \(pair_id {pairs.pair_ids[0]}\): "
    with pytest.raises(VoterError, match=where + r".*" + words):
        apply([labeling_function(lambda frame: value, name="odd", batch=True)], pairs)


@pytest.mark.parametrize("size", [50_000, 7])
@pytest.mark.parametrize("row", [0, 13, 19])
def test_the_pair_a_batch_function_fails_on_is_named(
    make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch, row: int, size: int
) -> None:
    monkeypatch.setattr(MODULE, "BATCH", size)
    pairs = make_pairs(20)
    bad = pairs.pair_ids[row]

    @labeling_function(batch=True)
    def seven(frame: pd.DataFrame) -> Any:
        return np.where(frame["pair_id"] == bad, 7, 0)

    @scoring_function(batch=True)
    def boundless(prompts: pd.Series, responses: pd.Series) -> Any:
        return np.where(responses == pairs.table["response_b"][row].as_py(), np.inf, 1)

    @labeling_function(batch=True)
    def raises(frame: pd.DataFrame) -> Any:
        if (frame["pair_id"] == bad).any():
            raise KeyError("no such thing")
        return [0] * len(frame)

    for voter, words in [
        (seven, "returned 7"),
        (boundless, "scored response B inf; expected a finite number"),
        (raises, "raised KeyError: 'no such thing'"),
    ]:
        with pytest.raises(
            VoterError, match=rf"voter '{voter.name}', .*row {row} \(pair_id {bad}\): {words}"
        ) as caught:
            apply([voter], pairs)
        assert isinstance(caught.value.__cause__, KeyError) == (voter is raises)
        with pytest.warns(WeakprefWarning, match=rf"{voter.name} on 1 of 20 pairs; the first: .*row {row} "):
            votes = apply([voter], pairs, on_error="abstain")
        assert votes.errors == {voter.name: 1}
        assert votes.votes[row] == Vote.ABSTAIN


def test_a_batch_function_that_fails_only_on_many_rows_together_says_so(make_pairs: MakePairs) -> None:
    @labeling_function(batch=True)
    def crowded(frame: pd.DataFrame) -> Any:
        return [0] * min(len(frame), 3)

    with pytest.raises(VoterError, match=r"failing first on rows 0 to 4 only when together, from pair_id"):
        apply([crowded], make_pairs(20))


def test_an_infinite_score_names_voter_and_pair(make_pairs: MakePairs) -> None:
    pairs = make_pairs(5)
    with pytest.raises(
        VoterError, match=rf"voter 'odd', row 0 \(pair_id {pairs.pair_ids[0]}\): scored response A -inf"
    ):
        apply([scoring_function(lambda prompt, response: -np.inf, name="odd")], pairs)


class Judge:
    """A voter of one's own."""

    def __init__(self, ballot: Any, columnar: bool = True) -> None:
        self.name, self.columnar, self.ballot = "judge", columnar, ballot

    def vote(self, table: pa.Table) -> Any:
        return self.ballot(table.num_rows)


@pytest.mark.parametrize("columnar", [True, False])
def test_any_object_with_a_name_and_a_vote_is_a_voter(make_pairs: MakePairs, columnar: bool) -> None:
    judge = Judge(lambda n: Ballot(np.zeros(n, np.int8), np.ones(n, np.float32)), columnar)
    votes = apply([prefers_questions, judge], make_pairs(9))
    assert (votes.votes[:, 1] == 0).all()
    assert (votes.margins[:, 1] == 1).all()


@pytest.mark.parametrize(
    ("ballot", "words"),
    [
        (lambda n: np.zeros(n), r"vote\(\) returned array.*; expected a Ballot"),
        (
            lambda n: Ballot(np.zeros(n, np.int64), np.ones(n, np.float32)),
            r"votes .* int64 \(9,\); expected int8 \(9,\)",
        ),
        (
            lambda n: Ballot(np.zeros(n, np.int8), np.ones(1, np.float32)),
            r"margins .* float32 \(1,\); expected float32",
        ),
        (lambda n: Ballot(np.zeros(n, np.int8), np.full(n, np.inf, np.float32)), "infinite margin; expected finite"),
        (lambda n: Ballot(np.full(n, 3, np.int8), np.ones(n, np.float32)), r"returned 3 \(int\); expected Vote.A"),
    ],
)
def test_a_voter_of_ones_own_must_return_a_proper_ballot(make_pairs: MakePairs, ballot: Any, words: str) -> None:
    with pytest.raises(VoterError, match=r"voter 'judge', batch of rows 0 to 8, failing first on row.*" + words):
        apply([Judge(ballot)], make_pairs(9))


@pytest.mark.parametrize("on_error", ["raise", "abstain"])
@pytest.mark.parametrize("error", [EngineError("the server is down"), BudgetError("the limit is reached")])
def test_a_judge_without_an_answer_stops_the_run_and_is_not_asked_again(
    make_pairs: MakePairs, on_error: Any, error: Exception
) -> None:
    asked: list[int] = []

    def judge(frame: pd.DataFrame) -> None:
        asked.append(len(frame))
        raise error

    with pytest.raises(type(error), match=str(error)):
        apply([labeling_function(judge, batch=True)], make_pairs(40), on_error=on_error)
    assert asked == [40]
