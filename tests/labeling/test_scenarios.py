"""The label model on votes whose generating model is known: close to the oracle, calibrated, ahead of two baselines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from labeling.label_model import LabelModel
from labeling.majority import MajorityVote
from labeling.metrics import ece, log_loss
from labeling.snorkel_model import SnorkelLabelModel

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "label_scenarios.py"
SEED = 0
N = 10_000
BOUNDS = {
    "independent": 0.003,
    "correlated block": 0.005,
    "heterogeneous": 0.003,
    "sparse": 0.006,
    "one-sided": 0.003,
    "imbalanced": 0.003,
    "difficulty": 0.005,
    "confounder": 0.02,
    "graded margins": 0.003,
}
"""Excess of the log-loss over that of the oracle, in nats."""


@pytest.fixture(scope="module")
def scenarios():
    spec = importlib.util.spec_from_file_location("label_scenarios", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module.SCENARIOS
    del sys.modules[spec.name]


@pytest.mark.slow
def test_every_scenario_has_a_bound(scenarios):
    assert set(scenarios) == set(BOUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_the_label_model_is_close_to_the_oracle_calibrated_and_ahead_of_the_baselines(name, scenarios):
    drawn = scenarios[name](2 * N, 10, SEED)
    train, test = np.arange(N), np.arange(N, 2 * N)
    votes, hidden, gold = drawn.votes.take(train), drawn.votes.take(test), drawn.gold[test]
    oracle = log_loss(drawn.oracle[test], gold)
    baselines = [log_loss(m.fit(votes).posterior(hidden), gold) for m in (MajorityVote(), SnorkelLabelModel())]
    labels = np.full(N, np.nan)
    for n_gold in (0, 200):
        known = np.random.default_rng(SEED).choice(N, n_gold, replace=False)
        labels[known] = drawn.gold[train][known]
        p_a = LabelModel().fit(votes, labels).posterior(hidden)
        assert log_loss(p_a, gold) < oracle + BOUNDS[name]
        assert log_loss(p_a, gold) < min(baselines)
        assert ece(p_a, gold) <= 0.03
