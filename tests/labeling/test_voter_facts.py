"""What is told of voters: accuracy, dependence, and the structure in words."""

from __future__ import annotations

import numpy as np
import pytest

from labeling.calibration import Calibration
from labeling.consensus import Consensus
from labeling.latent_class import LatentClass, Structure
from labeling.sample import Sample
from labeling.voter_facts import FEW_VOTES, in_words, voter_facts


def facts(rows_of, signs, y):
    rows = rows_of(np.column_stack([signs, y]).astype(np.int8))
    sample = Sample(rows.signs[:, :-1], np.full(signs.shape, np.nan, np.float32), rows.counts)
    return voter_facts(sample, (rows.signs[:, -1] + 1) / 2)


def test_accuracies_are_those_on_the_votes_cast_and_unknown_without_any(coins, rows_of):
    signs, y = coins([0.8, 0.6, 0.3, 0.5], 3000)
    signs[::3, 0] = 0
    signs[:, 3] = 0
    accuracies, _ = facts(rows_of, signs, y)
    expected = [(signs[:, j] == y)[signs[:, j] != 0].mean() for j in range(3)]
    np.testing.assert_allclose(accuracies, [*expected, np.nan])


def test_dependence_is_one_for_copies_nought_for_strangers_and_negative_for_opponents(coins, rows_of):
    signs, y = coins([0.7, 0.7, 0.6, 0.7], 10_000)
    signs[:, 1] = signs[:, 0]
    signs[:, 3] = -signs[:, 2]
    _, dependence = facts(rows_of, signs, y)
    assert np.array_equal(dependence, dependence.T)
    assert dependence.diagonal().tolist() == [1] * 4
    assert dependence[0, 1] == pytest.approx(1, abs=0.005)
    assert dependence[2, 3] == pytest.approx(-1, abs=0.005)
    assert np.abs(dependence[:2, 2:]).max() < 0.04


def test_dependence_seen_on_few_pairs_is_believed_by_half(rows_of):
    n = int(FEW_VOTES)
    y = np.resize([1, -1], n)
    signs = np.repeat(np.where(np.arange(n) % 4 < 2, y, -y)[:, None], 2, axis=1)
    assert facts(rows_of, signs, y)[1][0, 1] == pytest.approx(0.5)


def test_the_structure_is_said_in_words():
    structure = Structure(4, blocks=((0, 2),), varied=True, biased=(1,), uneven=True)
    model = LatentClass(structure, np.zeros(sum(structure.sizes)))
    consensus = Consensus(model, np.zeros(4, np.int8), np.zeros(4, bool), 0.0123, 0.9, np.ones(4), True, True)
    words, rests_on = in_words(consensus, ["length", "judge", "words", "model"], None, 0, float(np.log(19)))
    assert words == (
        "copies of a common source: length, words; pairs of differing difficulty; "
        "voters that lean to one position: judge; one position preferred more often"
    )
    assert "voters are right more often than wrong, copies counting as one voter" in rests_on
    assert "never surer than 0.950 (agreement is explained up to 0.012)" in rests_on


def test_gold_that_tells_nothing_is_not_counted_as_enough():
    model = LatentClass(Structure(2), np.zeros(sum(Structure(2).sizes)))
    consensus = Consensus(model, np.zeros(2, np.int8), np.zeros(2, bool), 0.01, 0.9, np.ones(2), True, True)
    judged = Calibration(np.full(40, 0.6), np.resize([1.0, 0.0, 0.5, 0.5], 40), None)
    many, few = (in_words(consensus, ["a", "b"], judged, telling, 3.0)[1] for telling in (40, 20))
    assert many.startswith("anchored on 40 gold pairs, which stand for")
    assert few.startswith("anchored on 40 gold pairs, 20 of them ties or without a vote, too few to calibrate")
