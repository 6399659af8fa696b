"""Votes of several files side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labeling import VoteMatrix, join_votes
from labeling.errors import VotesError
from labeling.votes import Vote


def made(names, ids, votes, margins=None, groups=None):
    shape = np.asarray(votes, dtype=np.int8)
    given = np.full(shape.shape, np.nan) if margins is None else margins
    grouped = None if groups is None else np.array(groups)
    return VoteMatrix(shape, np.asarray(given, dtype=np.float32), tuple(names), np.array(ids), grouped)


LABELED = made(["x", "y"], ["p", "q"], [[0, 1], [1, -1]], [[2.0, np.nan], [-1.0, np.nan]], ["g", "h"])
JUDGED = made(["judge"], ["q", "r"], [[1], [0]], [[-3.0], [4.0]], ["h", "h"])


def test_votes_are_matched_by_pair_and_a_voter_abstains_where_it_has_none() -> None:
    judged = replace(JUDGED, errors={"judge": 3}, self_labels=("judge",))
    votes, gold = join_votes([(LABELED, np.array([1.0, np.nan])), (judged, None)])
    assert (votes.names, votes.pair_ids.tolist()) == (("x", "y", "judge"), ["p", "q", "r"])
    assert votes.votes.tolist() == [[0, 1, Vote.ABSTAIN], [1, -1, 1], [-1, -1, 0]]
    np.testing.assert_array_equal(votes.margins[:, [0, 2]], np.float32([[2, np.nan], [-1, -3], [np.nan, 4]]))
    assert votes.groups.tolist() == ["g", "h", "h"]
    np.testing.assert_array_equal(gold, [1.0, np.nan, np.nan])
    assert (votes.errors, votes.self_labels) == ({"judge": 3}, ("judge",))
    _, gold = join_votes([(LABELED, None), (JUDGED, np.array([0.0, 1.0]))])
    np.testing.assert_array_equal(gold, [np.nan, 0.0, 1.0])
    bare, gold = join_votes([(LABELED, None), (replace(JUDGED, groups=None), None)])
    assert (bare.groups, gold) == (None, None)  # of the third pair nobody knows the group


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([(LABELED, None)], "votes of 1 files to join, expected two or more"),
        ([(LABELED, None), (LABELED, None)], "more than one file holds votes of x, y"),
        (
            [(LABELED, np.array([1.0, 0.0])), (JUDGED, np.array([1.0, 1.0]))],
            "pair q has the gold label 0.0 in",
        ),
        ([(LABELED, None), (replace(JUDGED, groups=np.array(["other", "h"])), None)], "pair q has the group h in one"),
        ([(LABELED, None), (made(["j"], ["q", "q"], [[0], [1]]), None)], "hold a pair twice"),
    ],
)
def test_votes_that_do_not_go_together_are_named(parts, says) -> None:
    with pytest.raises(VotesError, match=says):
        join_votes(parts)
