"""The anchor: gold corrects a consensus as far as it bears it out, is cross-fitted by group, and is kept to the bit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from labeling.anchor import Anchor, fit_anchor, gold_rows, held_out_logits
from labeling.antisymmetric import sigmoid
from labeling.calibration import Calibration
from labeling.errors import VotesError
from labeling.learned import LEAST_ODDS, max_logit
from labeling.metrics import log_loss
from labeling.stored import store, stored_values

ROW_FIELDS = ("agreed", "signs", "scores", "side", "q")


def some_gold(n, seed=0, weights=(1.0, 0.5, 0.0), factor=1.0, margins=False, lean=0.0):
    """Agreed log-odds, signs, scores and labels of n pairs: logit P(A) = `factor` * consensus + lean.

    The consensus is the sum of the `weights` of the votes, its share of votes that of the first voter alone.
    """
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 0.0, 1.0], (n, len(weights)), p=[0.4, 0.2, 0.4])
    scores = np.abs(rng.normal(size=signs.shape)) * signs * margins
    modelled = signs @ np.array(weights)
    agreed = np.stack([modelled, 0.5 * signs[:, 0]], axis=1)
    return agreed, signs, scores, (rng.random(n) < sigmoid(factor * modelled + lean)).astype(float)


def anchored(agreed, signs, scores, q, groups=None):
    return gold_rows(agreed, signs, scores, q, groups)[0]


def same_rows(one, other, fields=ROW_FIELDS):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


def test_the_likelier_response_comes_first_and_nothing_else_is_lost():
    agreed, signs, scores, q = some_gold(60, margins=True)
    q[:20] = np.arange(20) / 32  # exact when taken from 1
    rows, order = gold_rows(agreed, signs, scores, q, None)
    assert (rows.q >= 0.5).all()
    np.testing.assert_array_equal(np.where(rows.side > 0, rows.q, 1 - rows.q), q[order])
    for name, given in (("agreed", agreed), ("signs", signs), ("scores", scores)):
        np.testing.assert_array_equal(getattr(rows, name) * rows.side[:, None], given[order])


def test_no_order_of_gold_pairs_and_no_exchange_of_single_ones_leaves_a_trace():
    agreed, signs, scores, q = some_gold(80, margins=True)
    q[:30] = 0.5
    rows = anchored(agreed, signs, scores, q)
    rank = np.random.default_rng(1).permutation(80)
    assert same_rows(anchored(agreed[rank], signs[rank], scores[rank], q[rank]), rows)
    turn = np.random.default_rng(2).choice([-1.0, 1.0], 80)
    exchanged = anchored(
        agreed * turn[:, None], signs * turn[:, None], scores * turn[:, None], np.where(turn > 0, q, 1 - q)
    )
    assert same_rows(exchanged, rows, ("agreed", "signs", "scores", "q"))
    assert np.array_equal(fit_anchor(exchanged, 0.9, False).votes, fit_anchor(rows, 0.9, False).votes)


@pytest.mark.parametrize(("n", "folds"), [(7, 7), (300, 10), (500, 10), (501, 5)])
def test_gold_is_cross_fitted_in_ten_folds_where_it_is_scarce_and_in_five_where_it_is_not(n, folds):
    rows = anchored(*some_gold(n))
    sizes = np.bincount(rows.folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1


def test_a_group_is_never_in_two_folds():
    agreed, signs, scores, q = some_gold(200)
    groups = np.random.default_rng(0).integers(0, 30, 200).astype(str)
    rows, order = gold_rows(agreed, signs, scores, q, groups)
    assert len(set(rows.folds)) == 10
    assert all(len(set(rows.folds[groups[order] == group])) == 1 for group in set(groups))


def test_logits_add_what_the_consensus_votes_margins_and_side_say():
    agreed, signs, scores, q = some_gold(50, margins=True)
    rows = anchored(agreed, signs, scores, q)
    anchor = Anchor(np.array([0.7, 0.2]), np.array([0.1, -0.3, 0.5]), np.array([0.2, 0.4, -0.1]), 0.6)
    for i, logit in enumerate(rows.logits(anchor)):
        votes = sum(anchor.votes[j] * rows.signs[i, j] + anchor.scores[j] * rows.scores[i, j] for j in range(3))
        assert logit == pytest.approx(0.7 * rows.agreed[i, 0] + 0.2 * rows.agreed[i, 1] + votes + 0.6 * rows.side[i])


@pytest.mark.parametrize("seed", range(4))
def test_two_gold_labels_change_next_to_nothing(seed):
    trusted, doubted = (fit_anchor(anchored(*some_gold(2, seed)), trust, lopsided=False) for trust in (1.0, 0.2))
    np.testing.assert_allclose(trusted.agreed, [1, 0], atol=0.1)
    np.testing.assert_allclose(doubted.agreed, [0.2, 0.8], atol=0.4)
    assert np.abs([trusted.votes, doubted.votes]).max() < 0.1


@pytest.mark.parametrize("n", [50, 500, 4000])
def test_gold_that_agrees_with_the_consensus_leaves_it_as_it_is(n):
    far = []
    for seed in range(5):
        anchor = fit_anchor(anchored(*some_gold(n, seed)), 1.0, lopsided=False)
        far.append(np.abs([anchor.agreed[0] - 1, anchor.agreed[1], *anchor.votes]).max())
    assert np.median(far) < 0.1


def test_gold_turns_a_consensus_that_stands_on_its_head():
    for n, least in ((30, -0.4), (60, -0.9), (200, -0.95)):
        rows = anchored(*some_gold(n, factor=-2.0))
        logits = rows.logits(fit_anchor(rows, 1.0, lopsided=False))
        assert np.corrcoef(logits, rows.agreed[:, 0])[0, 1] < least
        assert log_loss(sigmoid(logits), rows.q) < log_loss(sigmoid(rows.agreed[:, 0]), rows.q) - 0.25


def test_gold_shrinks_a_consensus_that_is_too_sure():
    rows = anchored(*some_gold(2000, weights=(2.0, 1.0, 1.0), factor=0.4))
    logits = rows.logits(fit_anchor(rows, 1.0, lopsided=False))
    slope = (logits @ rows.agreed[:, 0]) / (rows.agreed[:, 0] @ rows.agreed[:, 0])
    assert slope == pytest.approx(0.4, abs=0.06)


def test_a_voter_the_consensus_did_not_hear_is_given_the_weight_that_gold_shows():
    agreed, signs, scores, _ = some_gold(1500, weights=(1.0, 0.5, 0.0))
    q = (np.random.default_rng(5).random(1500) < sigmoid(agreed[:, 0] + 1.2 * signs[:, 2])).astype(float)
    rows = anchored(agreed, signs, scores, q)
    anchor = fit_anchor(rows, 1.0, lopsided=False)
    assert anchor.votes[2] == pytest.approx(1.2, abs=0.25)
    np.testing.assert_allclose(rows.logits(anchor), rows.agreed[:, 0] + 1.2 * rows.signs[:, 2], atol=0.7)


def test_margins_are_weighed_where_gold_says_that_they_speak():
    agreed, signs, scores, _ = some_gold(1500, margins=True)
    q = (np.random.default_rng(5).random(1500) < sigmoid(1.0 * scores[:, 0])).astype(float)
    rows = anchored(0 * agreed, signs, scores, q)
    anchor = fit_anchor(rows, 1.0, lopsided=False)
    assert anchor.scores[0] > 0.6
    loss = log_loss(sigmoid(rows.logits(anchor)), rows.q)
    assert loss == pytest.approx(log_loss(sigmoid(rows.scores[:, 0]), rows.q), abs=0.005)
    silent = fit_anchor(anchored(0 * agreed, signs, 0 * scores, q), 1.0, lopsided=False)
    assert not silent.scores.any()


def test_a_voter_without_a_vote_on_gold_pairs_keeps_no_weight():
    agreed, signs, scores, q = some_gold(300)
    signs[:, 1] = 0
    assert fit_anchor(anchored(agreed, signs, scores, q), 0.8, lopsided=True).votes[1] == 0


def test_a_side_is_preferred_only_where_sides_are_told_apart():
    rows = anchored(*some_gold(1000, lean=1.0))
    assert fit_anchor(rows, 1.0, lopsided=False).intercept == 0
    assert fit_anchor(rows, 1.0, lopsided=True).intercept == pytest.approx(1.0, abs=0.25)
    exchanged = replace(rows, side=-rows.side)
    assert fit_anchor(exchanged, 1.0, lopsided=True).intercept == pytest.approx(-1.0, abs=0.25)


def test_held_out_logits_are_those_of_an_anchor_that_saw_no_gold_of_the_fold():
    rows = anchored(*some_gold(60))
    logits = held_out_logits(rows, 0.8, lopsided=True)
    for fold in (0, 4, 9):
        out = rows.folds == fold
        changed = replace(rows, q=np.where(out, 1 - rows.q, rows.q))
        again = held_out_logits(changed, 0.8, lopsided=True)
        assert np.array_equal(again[out], logits[out])
        assert (again[~out] != logits[~out]).any()


def test_where_gold_says_nothing_cross_fitting_shows_no_better_than_chance():
    rng = np.random.default_rng(0)
    losses = []
    for seed in range(10):
        _, signs, scores, _ = some_gold(60, seed)
        rows = anchored(np.zeros((60, 2)), signs, scores, rng.integers(0, 2, 60).astype(float))
        losses.append(log_loss(sigmoid(held_out_logits(rows, 0.8, lopsided=False)), rows.q))
    assert np.log(2) - 0.01 < np.mean(losses) < np.log(2) + 0.03


def test_gold_of_one_group_cannot_be_cross_fitted():
    agreed, signs, scores, q = some_gold(40)
    rows = anchored(agreed, signs, scores, q, np.full(40, "same"))
    assert held_out_logits(rows, 1.0, lopsided=False).shape == (0,)


@pytest.mark.parametrize(
    ("n_gold", "misfit", "odds"), [(0, 1.0, 1 + LEAST_ODDS), (0, 0.01, 1001), (200, 0.5, 201 + LEAST_ODDS)]
)
def test_the_bound_of_the_odds_grows_with_gold_and_with_agreement_explained(n_gold, misfit, odds):
    assert np.exp(max_logit(n_gold, misfit)) == pytest.approx(odds)


def calibrated(n=400, seed=0):
    rng = np.random.default_rng(seed)
    p_a = rng.uniform(0.05, 0.95, n)
    return Calibration(p_a, (rng.random(n) < p_a).astype(float), None)


def test_the_figures_of_a_calibration_lie_in_their_intervals():
    figures = calibrated().figures()
    assert figures["n_gold"] == 400
    for name in ("accuracy", "log_loss"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
    assert figures["accuracy_high"] - figures["accuracy_low"] == pytest.approx(4 * np.sqrt(0.75 * 0.25 / 400), rel=0.2)
    assert figures["ece"] == calibrated().ece < 0.08


def test_pairs_of_one_group_count_as_one_observation():
    one = calibrated(100)
    many = Calibration(np.tile(one.p_a, 4), np.tile(one.gold, 4), np.tile(np.arange(100).astype(str), 4))
    alone, grouped, pooled = (c.figures() for c in (one, many, replace(many, groups=None)))
    width = [f["log_loss_high"] - f["log_loss_low"] for f in (alone, grouped, pooled)]
    assert width[1] == pytest.approx(width[0], rel=0.2)
    assert width[2] == pytest.approx(width[0] / 2, rel=0.2)


def test_the_accuracy_on_ties_alone_is_not_a_number():
    assert np.isnan(Calibration(np.array([0.4, 0.6]), np.array([0.5, 0.5]), None).accuracy)


@dataclass(frozen=True)
class Unknown:
    value: int


def test_what_is_stored_comes_back_to_the_last_bit_and_as_the_same_type(tmp_path):
    anchor = fit_anchor(anchored(*some_gold(100, margins=True)), 0.7, lopsided=True)
    figures = np.array([1 / 3, np.nan, -0.0]), np.array([1.0, 1e300, 5e-324])
    calibration = Calibration(*figures, np.array(["g", "é", ""]))
    plain = ("a", 1, 0.1, True, None, ("nested", (2,)), np.float64(1 / 3), np.zeros((0, 3), np.int8))
    store(tmp_path / "model.json", {"x": anchor, "y": calibration, "z": plain}, (Anchor, Calibration))
    found = stored_values(tmp_path / "model.json", ("x", "y", "z"), (Anchor, Calibration))
    for value, again in ((anchor, found["x"]), (calibration, found["y"])):
        assert type(again) is type(value)
        for name in vars(value):
            one, other = np.asarray(getattr(value, name)), np.asarray(getattr(again, name))
            assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    assert found["z"][:-1] == plain[:-1]
    assert (found["z"][-1].shape, found["z"][-1].dtype) == ((0, 3), np.int8)


def test_only_known_types_are_stored_and_read(tmp_path):
    path = tmp_path / "model.json"
    with pytest.raises(TypeError, match="Unknown is not among the types that can be stored"):
        store(path, {"x": (1, Unknown(2))}, (Anchor,))
    assert not path.exists()
    store(path, {"x": Unknown(2)}, (Unknown,))
    assert stored_values(path, ["x"], (Unknown,)) == {"x": Unknown(2)}
    with pytest.raises(VotesError, match=r"model.json is no saved label model \('Unknown'\)"):
        stored_values(path, ["x"], (Anchor,))
    with pytest.raises(VotesError, match="is no saved label model"):
        stored_values(path, ["y"], (Unknown,))
