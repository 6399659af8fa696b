"""What callers hand over: labels, rows, pairs and votes of a wrong kind are refused, never taken for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from augment import choose, export
from labeling import (
    LabelModel,
    MajorityVote,
    VoteMatrix,
    apply,
    gold_sample,
    labeling_function,
    read_pairs,
    read_votes,
    scoring_function,
    split_by_group,
    summary,
    write_votes,
)
from labeling.arrays import as_labels, as_rows
from labeling.compare import compare
from labeling.dawid_skene import OneCoin
from labeling.errors import DataError, GoldError, VoterError, VotesError, WeakprefWarning
from labeling.join import join_votes
from labeling.pairs import Pairs
from labeling.split import check_disjoint

SHUFFLED = pd.Series([1.0, 0.0, 0.0, 1.0], index=[2, 0, 3, 1])


@pytest.fixture
def pairs() -> Pairs:
    rows = [{"prompt": f"Q{i}?", "response_a": "a" * (i + 1), "response_b": "bb", "gold": i % 2} for i in range(6)]
    return read_pairs(pd.DataFrame(rows).astype({"gold": float}), name="made")


@pytest.fixture
def votes(pairs: Pairs) -> VoteMatrix:
    return VoteMatrix.of([[0, 1], [1, 1], [0, -1], [1, 0], [0, 0], [1, 1]], ["x", "y"], pairs.pair_ids)


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        (np.array([True, False]), "gold is booleans, which cannot say unlabelled; pass np.where"),
        (["A", "B"], "gold labels are no numbers .they are texts.; expected 1 where A is preferred"),
        (["1", None], "gold labels are no numbers"),
        ([object()], "gold labels are no numbers"),
        (SHUFFLED, r"gold is a Series whose index is in another order than the rows; add \.sort_index\(\)"),
    ],
)
def test_gold_of_a_wrong_kind_is_refused_wherever_it_is_taken(
    gold: Any, said: str, pairs: Pairs, votes: VoteMatrix
) -> None:
    with pytest.raises(GoldError, match=said):
        as_labels(gold)
    with pytest.raises(GoldError, match=said):
        pairs.with_gold(gold)
    for model in (LabelModel(), OneCoin()):
        with pytest.raises(GoldError, match=said):
            model.fit(votes, gold)


def test_labels_that_can_say_unlabelled_are_taken() -> None:
    expected = [1.0, np.nan, 0.0]
    nullable = pd.Series([1, None, 0], dtype="Int64")
    for gold in (expected, [1, None, 0], pd.Series([True, None, False], dtype=object), nullable.astype("Float64")):
        np.testing.assert_array_equal(as_labels(gold), expected)
    np.testing.assert_array_equal(as_labels(pd.Series([0.0, 1.0], index=[7, 3])), [0.0, 1.0])


def test_rows_are_numbers_a_mask_or_a_slice(pairs: Pairs, votes: VoteMatrix) -> None:
    mask = np.array([False, True, True, False, False, True])
    for rows in ([1, 2, 5], mask, mask.astype(object), pd.Series(mask), pd.Series(mask).astype("boolean")):
        assert as_rows(rows, 6).tolist() == [1, 2, 5]
        assert pairs.take(rows).pair_ids.tolist() == pairs.pair_ids[mask].tolist()
        assert votes.take(rows).pair_ids.tolist() == pairs.pair_ids[mask].tolist()
    assert len(pairs.take(slice(4))) == len(votes.take(slice(0, 6, 2))) + 1 == 4
    assert len(pairs.take([])) == len(pairs.take(np.array([], dtype=object))) == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0.0, 1.0], r"rows are float64 of shape \(2,\); expected row numbers \(k,\), whole"),
        (["a"], "rows are <U1 of shape"),
        (3, r"rows are int64 of shape \(\)"),
        ([-1], "row -1 is asked for, and rows are numbered 0 to 5"),
        ([0, 6], "row 6 is asked for, and rows are numbered 0 to 5"),
        ([True], r"a mask has shape \(1,\); expected \(6,\)"),
        (pd.array([True, None, True, False, False, True], dtype="boolean"), "rows are object .* without nulls"),
        (pd.Series([2, 0, 1], index=[1, 2, 0]), "rows is a Series whose index is in another order"),
    ],
)
def test_other_rows_are_refused(rows: Any, said: str, pairs: Pairs, votes: VoteMatrix) -> None:
    for take in (pairs.take, votes.take):
        with pytest.raises(DataError, match=said):
            take(rows)


def test_a_series_in_another_order_is_no_vote_and_no_score(pairs: Pairs) -> None:
    @labeling_function(batch=True)
    def sorted_votes(table: Any) -> Any:
        return (table["response_a"].str.len() < 3).astype(int).iloc[::-1]

    @scoring_function(batch=True)
    def sorted_scores(prompts: Any, responses: Any) -> Any:
        return responses.str.len().iloc[::-1]

    for voter in (sorted_votes, sorted_scores):
        with pytest.raises(VoterError, match="what it returned is a Series whose index is in another order"):
            apply([voter], pairs)


def test_a_scoring_function_with_its_parameters_exchanged_is_refused() -> None:
    with pytest.raises(VoterError, match=r"longer takes \(response, prompt\), .* exchange its parameters"):

        @scoring_function
        def longer(response: str, prompt: str) -> int:
            return len(response) - len(prompt)


@pytest.mark.parametrize(
    "call",
    [
        lambda other, votes: split_by_group(other),
        lambda other, votes: gold_sample(other, 2),
        lambda other, votes: check_disjoint(other, other),
        lambda other, votes: summary(votes, other),
        lambda other, votes: choose(other, np.ones(6), 3),
        lambda other, votes: export("never", other, np.ones(6)),
    ],
)
def test_what_are_no_pairs_is_named(call: Any, pairs: Pairs, votes: VoteMatrix) -> None:
    for other in (pairs.to_pandas(), "pairs.parquet", pairs.gold):
        with pytest.raises(DataError, match="expected Pairs: pass it through read_pairs first"):
            call(other, votes)


@pytest.mark.parametrize(
    "call",
    [
        lambda votes: LabelModel().fit(votes),
        lambda votes: OneCoin().fit(votes),
        lambda votes: MajorityVote().posterior(votes),
        lambda votes: summary(votes),
        lambda votes: join_votes([votes, votes]),
    ],
)
def test_what_are_no_votes_is_named(call: Any, votes: VoteMatrix) -> None:
    for other in (votes.to_snorkel(), votes.to_pandas()):
        with pytest.raises(VotesError, match=r"expected the VoteMatrix .*VoteMatrix\.of\(array, names\) makes one"):
            call(other)


def test_what_read_votes_returns_and_a_path_are_no_votes_either(tmp_path: Path, votes: VoteMatrix) -> None:
    write_votes(tmp_path / "votes.parquet", votes)
    model = LabelModel().fit(tmp_path / "votes.parquet")
    for other in (read_votes(tmp_path / "votes.parquet"), str(tmp_path / "votes.parquet")):
        with pytest.raises(VotesError, match=r"votes, gold = read_votes\(path\)"):
            model.posterior(other)  # type: ignore[arg-type]
    with pytest.raises(VotesError, match=r"votes is a tuple, as read_votes returns it"):
        model.fit(read_votes(tmp_path / "votes.parquet"))  # type: ignore[arg-type]


@pytest.mark.parametrize("array", [np.eye(4, 2, dtype=bool), np.full((4, 2), 0.7)], ids=["booleans", "probabilities"])
def test_a_matrix_holds_whole_numbers(array: Any) -> None:
    with pytest.raises(VotesError, match=r"votes are (bool|float64); expected whole numbers, 0 \(A\), 1 \(B\)"):
        VoteMatrix.of(array, ["x", "y"])


def test_votes_without_pair_ids_say_so(pairs: Pairs, votes: VoteMatrix) -> None:
    bare = VoteMatrix.of(pd.DataFrame(votes.votes), ["x", "y"])
    assert bare.anonymous
    assert not votes.anonymous
    with pytest.raises(VotesError, match=r"no pair ids, .*VoteMatrix\.of\(votes, names, pair_ids=pairs\.pair_ids\)"):
        summary(bare, pairs)
    with pytest.raises(VotesError, match="the votes of x, y have no pair ids"):
        join_votes([bare, votes])
    with pytest.raises(VotesError, match=r"votes has shape \(6,\), expected \(n, m\)"):
        VoteMatrix.of([0, 1, 0, 1, 0, 1], ["x"])


def test_matrices_alone_are_joined_and_gold_has_a_label_a_row(votes: VoteMatrix) -> None:
    other = VoteMatrix(votes.votes, votes.margins, ("p", "q"), votes.pair_ids)
    joined, gold = join_votes([votes, other])
    assert joined.names == ("x", "y", "p", "q")
    assert gold is None
    with pytest.raises(VotesError, match=r"gold has shape \(5,\), expected \(6,\)"):
        join_votes([(votes, np.ones(5)), other])


def test_models_to_compare_are_a_dict_of_classes(votes: VoteMatrix) -> None:
    for models in ([OneCoin], {"coin": OneCoin()}):
        with pytest.raises(DataError, match="models must be a dict of names and classes"):
            compare(votes, np.ones(6), models)  # type: ignore[arg-type]


def test_a_pair_is_explained_by_its_id(pairs: Pairs, votes: VoteMatrix) -> None:
    model = LabelModel().fit(votes)
    assert str(model.explain(votes, str(pairs.pair_ids[4]))) == str(model.explain(votes, 4))
    with pytest.raises(VotesError, match="no row of the votes is of the pair nobody"):
        model.explain(votes, "nobody")


def test_votes_are_not_written_over_the_pairs(tmp_path: Path, pairs: Pairs, votes: VoteMatrix) -> None:
    pairs.write(tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet").table.equals(pairs.table)
    with pytest.raises(DataError, match=r"pairs\.parquet holds preference pairs, which would be lost"):
        write_votes(tmp_path / "pairs.parquet", votes)
    assert read_pairs(tmp_path / "pairs.parquet").table.equals(pairs.table)
    for _ in range(2):  # an earlier file of votes is replaced
        write_votes(tmp_path / "votes.parquet", votes)
    assert pq.read_table(tmp_path / "votes.parquet").num_rows == 6


def test_labels_that_gold_hides_are_spoken_of(tmp_path: Path, pairs: Pairs) -> None:
    p_a = np.linspace(0.2, 0.8, 6)
    with pytest.warns(WeakprefWarning, match=r"all 6 pairs have gold, .*hide the labels that are held back with"):
        export(tmp_path / "all", pairs, p_a)
    with pytest.warns(WeakprefWarning, match="6 pairs have gold and all are chosen, though n is 3"):
        assert choose(pairs, p_a, 3).all()
    export(tmp_path / "gold", pairs, pairs.gold)
    with pytest.raises(DataError, match="p_a is a Series whose index is in another order"):
        export(tmp_path / "none", pairs, pd.Series(p_a).iloc[::-1])
