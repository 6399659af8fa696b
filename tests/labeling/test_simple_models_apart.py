"""What each of the simple label models promises beside the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from labeling import precision
from labeling.antisymmetric import sigmoid
from labeling.checks import gold_lead
from labeling.dawid_skene import DawidSkene, OneCoin, dawid_skene_step
from labeling.errors import WeakprefWarning
from labeling.logistic_model import LogisticModel
from labeling.metrics import log_loss
from labeling.noise_aware import NoiseAware
from labeling.patterns import find_patterns
from labeling.precision import sparse_plus_low_rank
from labeling.sparse_low_rank import SparseLowRank, mixture_scale
from labeling.votes import VoteMatrix

SCENARIOS = Path(__file__).resolve().parents[2] / "benchmarks" / "label_scenarios.py"


def scenario(name, n, m, seed):
    """Votes to fit on, votes held out, and gold and oracle of both, from the benchmark's generating models."""
    if "label_scenarios" not in sys.modules:
        spec = importlib.util.spec_from_file_location("label_scenarios", SCENARIOS)
        sys.modules["label_scenarios"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["label_scenarios"])
    sample = sys.modules["label_scenarios"].SCENARIOS[name](2 * n, m, seed)
    fit, held = np.arange(n), np.arange(n, 2 * n)
    return sample.votes.take(fit), sample.gold[fit], sample.votes.take(held), sample.gold[held], sample.oracle[held]


def naive_one_coin(signs, labels, steps):
    """Accuracies (m,) by expectation maximisation row by row; labels (n,) with NaN."""
    spoke = signs != 0
    belief = 0.5 + signs.sum(axis=1) / np.maximum(spoke.sum(axis=1), 1) / 2
    for _ in range(steps):
        p = np.where(np.isnan(labels), belief, labels)[:, None]
        right = np.where(signs > 0, p, 1 - p)
        rate = ((right * spoke).sum(axis=0) + 1) / (spoke.sum(axis=0) + 2)
        belief = sigmoid(signs @ np.log(rate / (1 - rate)))
    return rate


def naive_dawid_skene(votes, labels, speaks, joint, steps):
    """Joint probabilities (2, m, 3) of preference and answer, by expectation maximisation row by row."""
    answer = np.where(votes < 0, 2, votes)[:, :, None] == np.arange(3)
    n, usual = len(votes), (answer.sum(axis=0) + 1 / 3) / (len(votes) + 1)
    for _ in range(steps):
        share = joint.sum(axis=2)[:, 0]
        likelihood = [share[y] * np.prod((answer * (joint[y] / share[y])).sum(axis=2), axis=1) for y in range(2)]
        p = np.where(np.isnan(labels), likelihood[0] / (likelihood[0] + likelihood[1]), labels)
        joint = np.empty_like(joint)
        for y, q in enumerate((p, 1 - p)):
            counts = (answer * q[:, None, None]).sum(axis=0)
            cast = counts[:, :2] / counts[:, :2].sum(axis=1, keepdims=True)
            silent = answer[:, :, 2].mean(axis=0)
            alike = np.column_stack([cast * q.sum() * (1 - silent)[:, None], q.sum() * silent])
            counts = np.where(speaks[:, None], counts, alike)
            joint[y] = (counts + 2 * (q.sum() + 1) / (n + 2) * usual) / (n + 2)
    return joint


@pytest.mark.parametrize("n_gold", [0, 80])
def test_one_coin_on_patterns_is_expectation_maximisation_on_rows(n_gold, simulate, some_gold):
    votes, gold = simulate()
    labels = some_gold(gold, n_gold)
    model = OneCoin().fit(votes, labels)
    expected = naive_one_coin(votes.signs.astype(float), labels, model.iterations_ + 1)
    np.testing.assert_allclose(model.accuracy_, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["one-sided", "imbalanced"])
@pytest.mark.parametrize("n_gold", [0, 80])
def test_dawid_skene_on_patterns_is_expectation_maximisation_on_rows(name, n_gold, some_gold):
    votes, gold, *_ = scenario(name, 2000, 8, 0)
    labels = some_gold(gold, n_gold)
    model = DawidSkene().fit(votes, labels)
    rng = np.random.default_rng(0)
    joint = start = rng.dirichlet(np.ones(3), (2, 8)) * np.array([0.6, 0.4])[:, None, None]
    for _ in range(5):
        joint = dawid_skene_step(find_patterns(votes, gold_lead(labels)), joint, model.speaks_)
    np.testing.assert_allclose(naive_dawid_skene(votes.votes, labels, model.speaks_, start, 5), joint, atol=1e-9)
    share = np.array([model.balance_, 1 - model.balance_])
    joint = model.confusion_.transpose(1, 0, 2) * share[:, None, None]
    again = naive_dawid_skene(votes.votes, labels, model.speaks_, joint, 1)
    np.testing.assert_allclose(again, joint, atol=2e-7)  # a fixed point of the plain algorithm
    answer = np.where(votes.votes < 0, 2, votes.votes)
    odds = np.log(joint[0] / joint[1]) - np.log(share[0] / share[1])
    logit = np.log(share[0] / share[1]) + odds[np.arange(8), answer].sum(axis=1)
    np.testing.assert_allclose(model.posterior(votes), sigmoid(logit), atol=1e-6)


@pytest.mark.parametrize(("model", "name", "bound"), [
    (OneCoin, "independent", 0.002), (DawidSkene, "independent", 0.002), (SparseLowRank, "independent", 0.003),
    (OneCoin, "heterogeneous", 0.003), (OneCoin, "sparse", 0.006),
    (DawidSkene, "one-sided", 0.005), (DawidSkene, "imbalanced", 0.005),
])  # fmt: skip
def test_without_gold_the_model_that_fits_is_close_to_the_oracle(model, name, bound):
    gaps = []
    for seed in range(3):
        votes, _, held_out, gold, oracle = scenario(name, 10_000, 10, seed)
        gaps.append(log_loss(model().fit(votes).posterior(held_out), gold) - log_loss(oracle, gold))
    assert np.median(gaps) < bound


def test_dawid_skene_hears_silence_where_it_speaks_and_only_there():
    votes, _, held_out, gold, oracle = scenario("one-sided", 10_000, 10, 0)
    model = DawidSkene().fit(votes)
    assert model.speaks_.tolist() == [True] * 5 + [False] * 5
    never = (votes.votes == -1).mean(axis=0) == 0
    assert never.tolist() == [False] * 5 + [True] * 5
    votes, _, held_out, gold, oracle = scenario("sparse", 10_000, 10, 0)
    model = DawidSkene().fit(votes)
    assert not model.speaks_.any()
    assert log_loss(model.posterior(held_out), gold) < log_loss(oracle, gold) + 0.02


def test_dawid_skene_answers_a_row_where_nobody_votes_with_the_balance():
    votes, *_ = scenario("imbalanced", 10_000, 10, 0)
    silent = votes.take([0])
    silent.votes[:] = -1
    model = DawidSkene().fit(votes)
    assert model.balance_ == pytest.approx(0.8, abs=0.03)
    assert model.posterior(silent)[0] == pytest.approx(model.balance_, abs=1e-6)


def test_dawid_skene_on_votes_and_their_mirror_images_prefers_neither_response(simulate, some_gold):
    votes, gold = simulate()
    both = VoteMatrix(
        np.concatenate([votes.votes, votes.swap().votes]), np.concatenate([votes.margins, votes.margins]), votes.names,
        np.arange(800).astype(str),
    )  # fmt: skip
    labels = some_gold(gold, 50)
    for given_labels in (None, np.concatenate([labels, 1 - labels])):
        model = DawidSkene().fit(both, given_labels)
        p_a = model.posterior(both)
        assert model.balance_ == 0.5
        assert np.array_equal(p_a[400:], 1 - p_a[:400])


def test_dawid_skene_says_how_often_each_voter_gives_each_answer(simulate, some_gold):
    votes, gold = simulate(5000, accuracies=(0.85, 0.75, 0.7, 0.65))
    model = DawidSkene().fit(votes, some_gold(gold, 1000))
    np.testing.assert_allclose(model.confusion_.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(model.confusion_[0], [[0.68, 0.12, 0.2], [0.12, 0.68, 0.2]], atol=0.03)
    np.testing.assert_allclose(model.accuracy_, [0.85, 0.75, 0.7, 0.65], atol=0.03)


def test_noise_aware_weights_are_log_odds_of_counted_errors():
    votes = VoteMatrix(
        np.array([[0, 0, -1], [1, 0, -1], [0, 1, -1], [0, 0, -1]], np.int8), np.full((4, 3), np.nan, np.float32),
        ("x", "y", "z"), np.array(["a", "b", "c", "d"]),
    )  # fmt: skip
    model = NoiseAware().fit(votes, [1, 0, 1, np.nan])
    np.testing.assert_allclose(model.noise_, [1 / 5, 3 / 5, 1 / 2])
    np.testing.assert_allclose(model.weights_, np.log([4, 2 / 3, 1]))
    np.testing.assert_allclose(model.posterior(votes)[:2], [8 / 11, 1 / 7])


def test_logistic_regression_on_one_group_is_shrunk_the_most(simulate, some_gold):
    votes, gold = simulate(groups=400)
    assert LogisticModel().fit(votes, some_gold(gold, 60)).penalty_ == 100
    votes, gold = simulate()
    assert LogisticModel().fit(votes, some_gold(gold, 60)).penalty_ < 100


def test_sparse_plus_low_rank_sees_through_copies_that_fool_counting():
    votes, _, held_out, gold, oracle = scenario("correlated block", 10_000, 10, 0)
    model = SparseLowRank().fit(votes)
    best = log_loss(oracle, gold)
    assert log_loss(model.posterior(held_out), gold) < best + 0.02
    assert log_loss(OneCoin().fit(votes).posterior(held_out), gold) > best + 1
    direct = model.sparse_ - np.diag(np.diag(model.sparse_))
    assert direct[:4, :4].min() < -0.5
    assert np.abs(direct[4:, 4:]).max() < 0.1


def test_gold_finds_quality_behind_a_stronger_confounder(some_gold):
    votes, gold, held_out, truth, _ = scenario("confounder", 10_000, 25, 0)
    without = log_loss(SparseLowRank().fit(votes).posterior(held_out), truth)
    with_gold = log_loss(SparseLowRank().fit(votes, some_gold(gold, 200)).posterior(held_out), truth)
    assert with_gold < without - 0.2


@pytest.mark.parametrize("seed", range(20))
def test_the_scale_of_a_mixture_is_its_log_odds_whatever_the_order_and_sign_of_rows(seed):
    rng = np.random.default_rng(seed)
    x = rng.choice([-1.0, 1.0], (3000, 1)) * 0.6 + rng.normal(size=(3000, 4))
    weights = np.full(4, 3.0)
    scale = mixture_scale(x, weights)
    assert scale == pytest.approx(2 * 0.6 / 3, abs=0.12)
    assert scale == mixture_scale(rng.permutation(x), weights) == mixture_scale(-x, weights)


def test_a_confounder_lowers_the_scale():
    votes, _, held_out, gold, _ = scenario("confounder", 10_000, 10, 0)
    p_a = SparseLowRank().fit(votes).posterior(held_out)
    assert log_loss(p_a, gold) < log_loss(OneCoin().fit(votes).posterior(held_out), gold) - 0.2


def test_voters_that_never_meet_share_no_factor():
    votes = VoteMatrix(
        np.where(np.eye(4, dtype=bool)[np.arange(40) % 4], 0, -1).astype(np.int8), np.full((40, 4), np.nan, np.float32),
        ("a", "b", "c", "d"), np.arange(40).astype(str),
    )  # fmt: skip
    with pytest.warns(WeakprefWarning, match="no factor that the 4 voters share: every posterior is 0.5"):
        model = SparseLowRank().fit(votes)
    assert (model.posterior(votes) == 0.5).all()


def test_sparse_plus_low_rank_recovers_both_parts_of_an_exact_inverse():
    sparse = np.eye(12) * 1.5
    sparse[0, 1] = sparse[1, 0] = -0.6
    factor = np.full(12, 0.3)
    s, low = sparse_plus_low_rank(np.linalg.inv(sparse - np.outer(factor, factor)), 0.02, 0.05)
    values = np.linalg.eigvalsh(low)
    assert (values[:-1] < 1e-3).all()
    assert values[-1] == pytest.approx(factor @ factor, abs=0.15)
    assert s[0, 1] < -0.4
    assert np.abs((s - np.diag(np.diag(s)))[2:]).max() < 0.02


def test_a_precision_matrix_that_does_not_settle_warns(monkeypatch):
    monkeypatch.setattr(precision, "MAX_ITERATIONS", 3)
    with pytest.warns(WeakprefWarning, match="sparse_plus_low_rank did not settle in 3 steps"):
        sparse_plus_low_rank(np.eye(3) + 0.5, 0.01, 0.1)
