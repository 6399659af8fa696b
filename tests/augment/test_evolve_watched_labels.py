"""What is watched of ser+ws' labels: every pair of the seed by a label model that saw no gold of its group."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from augment.drift_guards import CALIBRATION_WORSENED
from augment.evolve_method import Ground
from augment.evolve_options import EvolveOptions
from augment.evolve_round import Round
from augment.evolve_run import Folder
from augment.ser_ws import SerWs
from labeling.errors import WeakprefWarning
from labeling.metrics import log_loss
from rm.config import RewardConfig

N = 200


@pytest.fixture(scope="module")
def ground(voted_ground) -> Ground:
    """200 pairs in 100 groups, 60 with a visible label; three voters, right in 0.7."""
    return voted_ground(N, 2)


def test_what_is_watched_of_a_label_is_of_that_very_pair_whatever_the_order(ground):
    labels = SerWs().label(1, None, ground, [])
    seed, gold = ground.seed, ground.pairs.gold
    assert (np.isnan(labels.held_out) == ~seed).all()
    assert log_loss(labels.held_out[seed], gold[seed]) == pytest.approx(labels.facts["calibration"]["log_loss"])
    order = np.random.default_rng(0).permutation(len(seed))
    turned = replace(ground, pairs=ground.pairs.take(order), true=ground.true[order], watched=ground.watched[order])
    turned = replace(turned, votes=ground.votes.take(order))
    assert np.array_equal(SerWs().label(1, None, turned, []).held_out, labels.held_out[order], equal_nan=True)


def test_the_alarm_compares_with_the_best_of_the_iterations_before(ground, tmp_path, monkeypatch):
    labels = SerWs().label(1, None, ground, [])
    right = np.where(ground.seed, np.where(ground.true == 1, 0.8, 0.2), np.nan)
    unsure = np.where(ground.seed, np.where(ground.true == 1, 0.6, 0.4), np.nan)
    options = EvolveOptions(config=RewardConfig(model="minilm", max_steps=1))
    round_ = Round(3, Folder(tmp_path, None, 1), ground, SerWs(), options, None)
    round_.__dict__["history"] = [replace(labels, held_out=right), replace(labels, held_out=unsure)]
    past = [{"iteration": n, "held_out_log_loss": loss} for n, loss in enumerate((None, 0.22, 0.51))]
    monkeypatch.setattr(Folder, "rows", lambda _: past)
    with pytest.warns(WeakprefWarning, match="in iteration 3 the log-loss of the 60 watched pairs"):
        assert round_._label_row(replace(labels, held_out=unsure))["alarms"] == [CALIBRATION_WORSENED]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert round_._label_row(replace(labels, held_out=right))["alarms"] == []
