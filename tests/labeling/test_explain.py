"""What each voter adds to a posterior, for any label model, and what a label model says it learned."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.antisymmetric import sigmoid
from labeling.errors import VotesError
from labeling.explain import explain, log_odds, voter_table
from labeling.label_model import LabelModel
from labeling.majority import MajorityVote
from labeling.votes import Vote, VoteMatrix


class Weighted:
    """Log-odds = sum of weight times margin, or times the vote where there is no margin."""

    def __init__(self, *weights):
        self.weights = np.array(weights)

    def posterior(self, votes):
        return sigmoid(np.where(np.isnan(votes.margins), votes.signs, votes.margins) @ self.weights)


class CountsCopiesOnce:
    """The first two voters copy each other: whichever speaks, log-odds 1."""

    def posterior(self, votes):
        return sigmoid(np.sign(votes.signs[:, :2].sum(axis=1)).astype(float))


def matrix(votes, margins=None):
    votes = np.array(votes, dtype=np.int8)
    margins = np.full(votes.shape, np.nan) if margins is None else margins
    names = tuple(f"v{j}" for j in range(votes.shape[1]))
    ids = np.array([f"p{i}" for i in range(len(votes))])
    return VoteMatrix(votes, np.array(margins, dtype=np.float32), names, ids)


def added(explanation):
    return {part.voter: part.contribution for part in explanation}


def test_in_a_sum_of_weights_every_voter_adds_its_own():
    found = added(explain(Weighted(1.0, 0.5, -0.25), matrix([[0, 1, 0]]), 0))
    assert found == pytest.approx({"v0": 1.0, "v1": -0.5, "v2": -0.25})


def test_without_a_voter_its_margin_is_gone_too():
    votes = matrix([[0, -1]], [[2.5, 0.5]])
    assert added(explain(Weighted(1.0, 1.0), votes, 0)) == pytest.approx({"v0": 2.5, "v1": 0.5})


def test_of_two_copies_either_can_be_missed():
    found = explain(CountsCopiesOnce(), matrix([[0, 0, 1], [0, -1, 1]]), 0)
    assert found.p_a == pytest.approx(1 / (1 + np.exp(-1)))
    assert added(found) == {"v0": 0, "v1": 0, "v2": 0}
    alone = explain(CountsCopiesOnce(), matrix([[0, 0, 1], [0, -1, 1]]), 1)
    assert added(alone) == pytest.approx({"v0": 1.0, "v1": 0, "v2": 0})


def test_the_voter_that_adds_most_comes_first_and_those_that_abstain_last():
    found = explain(Weighted(0.1, -2.0, 3.0, 1.0, 0.0), matrix([[0, 0, -1, 1, 0]]), 0)
    assert [part.voter for part in found] == ["v1", "v3", "v0", "v4", "v2"]
    assert [part.vote for part in found] == [Vote.A, Vote.B, Vote.A, Vote.A, Vote.ABSTAIN]


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4))
def test_swapping_the_responses_negates_every_contribution(row):
    votes, model = matrix([row]), Weighted(1.0, 0.3, -0.7, 2.0)
    turned = added(explain(model, votes.swap(), 0))
    assert turned == pytest.approx({name: -value for name, value in added(explain(model, votes, 0)).items()})


def test_a_certain_posterior_is_explained_in_finite_log_odds():
    found = added(explain(MajorityVote().fit(matrix([[0, 0]])), matrix([[0, -1]]), 0))
    assert found == {"v0": pytest.approx(27.6, abs=0.1), "v1": 0}


@pytest.mark.parametrize("model", [LabelModel, MajorityVote])
def test_the_posterior_explained_is_that_of_the_row(model):
    rng = np.random.default_rng(0)
    votes = matrix(rng.integers(-1, 2, (60, 4)))
    fitted = model().fit(votes)
    found = explain(fitted, votes, 17)
    assert found.pair_id == "p17"
    assert found.p_a == pytest.approx(fitted.posterior(votes)[17], abs=1e-12)


@pytest.mark.parametrize("i", [-1, 2])
def test_a_row_that_does_not_exist_is_named(i):
    with pytest.raises(VotesError, match=f"no row {i}: expected a row of the votes, from 0 to 1"):
        explain(Weighted(1.0), matrix([[0], [1]]), i)


def test_an_explanation_prints_a_table_and_names_the_silent_voters():
    votes = matrix([[0, 1, -1, -1]], [[np.nan, -2.5, 0.01, np.nan]])
    printed = str(explain(Weighted(1.0, 0.5, 0.1, 1.0), votes, 0)).splitlines()
    assert printed[0] == "pair p0: P(A preferred) = 0.438, log-odds -0.25"
    assert [line.split() for line in printed[2:-1]] == [["v1", "B", "-2.5", "-1.25"], ["v0", "A", "-", "+1.00"]]
    assert printed[-1] == "silent: v2, v3"


def test_an_explanation_is_a_data_frame_too():
    frame = explain(Weighted(1.0, 0.5), matrix([[0, -1]]), 0).to_pandas()
    assert frame.index.tolist() == ["v0", "v1"]
    assert frame["vote"].tolist() == ["A", "ABSTAIN"]
    assert frame["contribution"].tolist() == pytest.approx([1.0, 0.0])


def test_a_voter_that_never_votes_has_no_weight_in_the_table():
    votes = np.array([[0, 1, -1], [1, 1, -1], [0, 0, -1]] * 20, np.int8)
    model = LabelModel().fit(VoteMatrix.of(votes, ["a", "b", "silent"]))
    row = voter_table(model).loc["silent"]
    assert row[["accuracy", "weight", "dependence"]].isna().all()
    assert row["nearest"] == ""


def test_the_voter_table_names_the_voter_each_is_most_alike():
    dependence = np.array([[1.0, 0.2, -0.6], [0.2, 1.0, 0.1], [-0.6, 0.1, 1.0]])
    model = SimpleNamespace(
        names_=("x", "y", "z"), accuracy_=np.array([0.7, 0.6, 0.5]), weights_=np.array([0.8, 0.4, 0.0]),
        dependence_=dependence,
    )  # fmt: skip
    table = voter_table(model)
    assert table["nearest"].tolist() == ["y", "x", "y"]
    assert table["dependence"].tolist() == [0.2, 0.2, 0.1]
    assert table.loc["x", ["accuracy", "weight"]].tolist() == [0.7, 0.8]
    assert (np.diag(dependence) == 1).all()


def test_a_single_voter_depends_on_nobody():
    one = SimpleNamespace(names_=("x",), accuracy_=np.array([0.7]), weights_=np.ones(1), dependence_=np.ones((1, 1)))
    table = voter_table(one)
    assert table["nearest"].tolist() == [""]
    assert np.isnan(table["dependence"]).all()


def test_log_odds_are_odd_and_finite():
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    assert log_odds(p) == pytest.approx(-log_odds(1 - p))
    assert np.isfinite(log_odds(p)).all()
