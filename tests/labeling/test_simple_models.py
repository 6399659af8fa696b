"""One suite over the simple label models, and what only some of them promise."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling import precision
from labeling.antisymmetric import sigmoid
from labeling.checks import gold_lead
from labeling.dawid_skene import DawidSkene, OneCoin, dawid_skene_step
from labeling.errors import GoldError, VotesError, WeakprefWarning
from labeling.logistic_model import LogisticModel
from labeling.majority import MajorityVote
from labeling.metrics import accuracy, ece, log_loss
from labeling.noise_aware import NoiseAware
from labeling.patterns import find_patterns
from labeling.precision import sparse_plus_low_rank
from labeling.sparse_low_rank import SparseLowRank, mixture_scale
from labeling.votes import VoteMatrix

MODELS = [MajorityVote, OneCoin, DawidSkene, NoiseAware, LogisticModel, SparseLowRank]
FITTED = MODELS[1:]
FROM_GOLD_ALONE = [NoiseAware, LogisticModel]
FROM_AGREEMENT = [OneCoin, DawidSkene, SparseLowRank]
SCENARIOS = Path(__file__).resolve().parents[2] / "benchmarks" / "label_scenarios.py"


def simulate(n=400, accuracies=(0.8, 0.7, 0.65, 0.6, 0.5), coverage=0.8, margins=False, seed=0, groups=4):
    """Voters, named out of order, independent given the preference; with margins they lean further when right."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n).astype(float)
    m = len(accuracies)
    right = rng.random((n, m)) < np.array(accuracies)
    vote = np.where(right, 1 - gold[:, None], gold[:, None]).astype(np.int8)
    size = np.where(right, rng.gamma(4, 1, (n, m)), rng.gamma(2, 1, (n, m)))
    margin = np.where(vote == 0, size, -size).astype(np.float32)
    silent = rng.random((n, m)) > coverage
    vote[silent] = -1
    margin[silent | (not margins)] = np.nan
    names = tuple(f"v{(7 * j + 3) % 10}" for j in range(m))
    ids = np.array([f"p{i}" for i in range(n)])
    return VoteMatrix(vote, margin, names, ids, np.array([f"g{i // groups}" for i in range(n)])), gold


def some_gold(gold, n_gold, seed=0):
    labels = np.full(len(gold), np.nan)
    rows = np.random.default_rng(seed).choice(len(gold), n_gold, replace=False)
    labels[rows] = gold[rows]
    return labels


def soft(gold, seed=0):
    return np.abs(gold - np.random.default_rng(seed).choice([0.0, 0.1, 0.3, 0.5], len(gold)))


def scenario(name, n, m, seed):
    """Votes to fit on, votes held out, and gold and oracle of both, from the benchmark's generating models."""
    if "label_scenarios" not in sys.modules:
        spec = importlib.util.spec_from_file_location("label_scenarios", SCENARIOS)
        sys.modules["label_scenarios"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["label_scenarios"])
    sample = sys.modules["label_scenarios"].SCENARIOS[name](2 * n, m, seed)
    fit, held = np.arange(n), np.arange(n, 2 * n)
    return sample.votes.take(fit), sample.gold[fit], sample.votes.take(held), sample.gold[held], sample.oracle[held]


@pytest.mark.parametrize("model", MODELS)
def test_the_posterior_is_a_probability_for_every_row(model):
    votes, gold = simulate()
    p_a = model().fit(votes, some_gold(gold, 60)).posterior(votes)
    assert p_a.shape == (400,)
    assert p_a.dtype == np.float64
    assert ((p_a >= 0) & (p_a <= 1)).all()


@pytest.mark.parametrize("model", [model for model in MODELS if model is not DawidSkene])
def test_where_nobody_votes_the_posterior_is_one_half(model):
    votes, gold = simulate(margins=True)
    margins = np.ones_like(votes.margins)  # a margin too small to vote on
    silent = VoteMatrix(np.full_like(votes.votes, -1), margins, votes.names, votes.pair_ids)
    assert (model().fit(votes, some_gold(gold, 60)).posterior(silent) == 0.5).all()


@pytest.mark.parametrize("model", MODELS)
def test_voters_better_than_chance_beat_chance(model):
    votes, gold = simulate(2000)
    labels = some_gold(gold, 100) if model in FROM_GOLD_ALONE else None
    assert accuracy(model().fit(votes, labels).posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", MODELS)
def test_fitting_twice_gives_the_same_posterior_to_the_last_bit(model):
    votes, gold = simulate(margins=True)
    labels, fitted = some_gold(gold, 60), model()
    once = fitted.fit(votes, labels).posterior(votes)
    assert np.array_equal(fitted.fit(votes, labels).posterior(votes), once)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("n_gold", [0, 60])
def test_swapping_the_responses_mirrors_the_posterior_exactly(model, margins, n_gold):
    if model in FROM_GOLD_ALONE and not n_gold:
        return
    votes, gold = simulate(margins=margins)
    labels = some_gold(soft(gold), n_gold)
    p_a = model().fit(votes, labels).posterior(votes)
    swapped = model().fit(votes.swap(), 1 - labels).posterior(votes.swap())
    assert (swapped == 1 - p_a).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::labeling.errors.WeakprefWarning")
@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([12, 60, 300]), margins=st.booleans(), grouped=st.booleans())
def test_no_exchange_and_no_order_leaves_a_trace_in_any_data(model, seed, n, margins, grouped):
    votes, gold = simulate(n, margins=margins, seed=seed, coverage=0.6)
    if not grouped:
        votes = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids)
    labels = some_gold(soft(gold, seed), n // 3, seed)
    labels[:2] = 0.0, 1.0
    p_a = model().fit(votes, labels).posterior(votes)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(n), rng.permutation(5)
    other = votes.swap().take(rows).select([votes.names[j] for j in columns])
    assert np.array_equal(model().fit(other, 1 - labels[rows]).posterior(other), 1 - p_a[rows])


@pytest.mark.parametrize("model", [model for model in MODELS if model is not DawidSkene])
def test_swapping_some_pairs_mirrors_just_those(model):
    votes, gold = simulate(margins=True)
    labels = some_gold(soft(gold), 60)
    turned = np.random.default_rng(0).random(400) < 0.5
    other = votes.swap()
    mixed = VoteMatrix(
        np.where(turned[:, None], other.votes, votes.votes), np.where(turned[:, None], other.margins, votes.margins),
        votes.names, votes.pair_ids, votes.groups,
    )  # fmt: skip
    p_a = model().fit(votes, labels).posterior(votes)
    p_mixed = model().fit(mixed, np.where(turned, 1 - labels, labels)).posterior(mixed)
    assert np.array_equal(p_mixed, np.where(turned, 1 - p_a, p_a))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("margins", [False, True])
def test_row_and_voter_order_do_not_change_a_bit(model, margins):
    votes, gold = simulate(margins=margins)
    labels = some_gold(soft(gold), 60)
    p_a = model().fit(votes, labels).posterior(votes)
    rows = np.random.default_rng(1).permutation(len(votes))
    shuffled = votes.take(rows)
    assert np.array_equal(model().fit(shuffled, labels[rows]).posterior(shuffled), p_a[rows])
    reordered = votes.select(votes.names[::-1])
    assert np.array_equal(model().fit(reordered, labels).posterior(reordered), p_a)


@pytest.mark.parametrize("model", MODELS)
def test_a_row_alone_gets_the_posterior_it_gets_among_others(model):
    votes, gold = simulate(margins=True)
    fitted = model().fit(votes, some_gold(gold, 60))
    p_a = fitted.posterior(votes)
    assert all(fitted.posterior(votes.take([i]))[0] == p_a[i] for i in range(0, 400, 37))


@pytest.mark.parametrize("model", FITTED)
def test_other_voters_than_those_fitted_are_refused(model):
    votes, gold = simulate()
    with pytest.raises(VotesError, match="call fit"):
        model().posterior(votes)
    fitted = model().fit(votes, some_gold(gold, 60))
    with pytest.raises(VotesError, match=r"fitted on the voters v3, v0, v7.*found v7, v0, v3.*votes\.select"):
        fitted.posterior(votes.select(["v7", "v0", "v3"]))


@pytest.mark.parametrize("model", FITTED)
def test_bad_gold_and_empty_votes_are_refused(model):
    votes, _ = simulate(4)
    for gold, words in (
        ([1.2, 0, 1, 0], "gold is 1.2 in row 0"),
        ([1, 1, np.nan, 0.5], "all 2 gold labels prefer response A"),
        ([1, 0], r"gold has shape \(2,\), expected \(4,\)"),
    ):
        with pytest.raises(GoldError, match=words):
            model().fit(votes, gold)
    with pytest.raises(VotesError, match="0 rows and 5 voters"):
        model().fit(votes.take(np.array([], dtype=int)))


@pytest.mark.parametrize("model", FROM_GOLD_ALONE)
def test_models_of_gold_alone_say_what_to_do_without_it(model):
    votes, _ = simulate()
    for gold in (None, np.full(400, np.nan)):
        with pytest.raises(GoldError, match=rf"{model.__name__} learns from gold labels alone.*LabelModel, OneCoin"):
            model().fit(votes, gold)


@pytest.mark.parametrize("model", FROM_AGREEMENT)
def test_agreement_needs_three_voters_without_gold(model):
    votes, _ = simulate()
    with pytest.raises(VotesError, match=rf"{model.__name__} needs 3 voters or more.*found 2"):
        model().fit(votes.select(["v3", "v0"]))


@pytest.mark.parametrize("model", [OneCoin, DawidSkene, NoiseAware, LogisticModel])
def test_one_voter_is_enough_with_gold(model):
    votes, gold = simulate()
    one = votes.select(["v3"])
    p_a = model().fit(one, some_gold(gold, 150)).posterior(one)
    cast = one.votes[:, 0] >= 0
    assert accuracy(p_a[cast], gold[cast]) > 0.7
    assert ece(p_a[cast], gold[cast]) < 0.1


@pytest.mark.parametrize("model", FITTED)
def test_gold_turns_voters_that_are_worse_than_chance(model):
    votes, gold = simulate(2000, accuracies=(0.2, 0.3, 0.35, 0.6))
    p_a = model().fit(votes, some_gold(gold, 150)).posterior(votes)
    assert accuracy(p_a, gold) > 0.7
    if model in FROM_AGREEMENT:
        assert accuracy(model().fit(votes).posterior(votes), gold) < 0.3


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_a_few_gold_labels_fix_the_sign_against_many_votes(model):
    votes, gold = simulate(4000, accuracies=(0.2, 0.3, 0.35, 0.6))
    fitted = model().fit(votes, some_gold(gold, 12))
    assert fitted.sign_from_gold_
    assert accuracy(fitted.posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_without_gold_voters_are_assumed_right_more_often_than_wrong(model):
    votes, _ = simulate(4000, accuracies=(0.03, 0.03, 0.75, 0.75, 0.75, 0.75, 0.75))
    fitted = model().fit(votes)
    assert not fitted.sign_from_gold_
    assert not model().fit(votes, some_gold(np.full(4000, 0.5), 12)).sign_from_gold_  # ties say nothing of it
    assert np.log(fitted.accuracy_ / (1 - fitted.accuracy_)).sum() > 0
    assert fitted.accuracy_[0] > 0.9 > 0.5 > fitted.accuracy_[2]


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_what_does_not_settle_warns_by_name(model):
    votes, _ = simulate()
    with pytest.warns(WeakprefWarning, match=f"{model.__name__} did not settle in 2 steps"):
        model(max_iterations=2).fit(votes)


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
def test_one_coin_on_patterns_is_expectation_maximisation_on_rows(n_gold):
    votes, gold = simulate()
    labels = some_gold(gold, n_gold)
    model = OneCoin().fit(votes, labels)
    expected = naive_one_coin(votes.signs.astype(float), labels, model.iterations_ + 1)
    np.testing.assert_allclose(model.accuracy_, expected, atol=1e-9)


@pytest.mark.parametrize("name", ["one-sided", "imbalanced"])
@pytest.mark.parametrize("n_gold", [0, 80])
def test_dawid_skene_on_patterns_is_expectation_maximisation_on_rows(name, n_gold):
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


def test_dawid_skene_on_votes_and_their_mirror_images_prefers_neither_response():
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


def test_dawid_skene_says_how_often_each_voter_gives_each_answer():
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


def test_logistic_regression_gains_from_margins():
    votes, gold = simulate(4000, accuracies=(0.65, 0.65, 0.65), margins=True)
    bare = VoteMatrix(votes.votes, np.full_like(votes.margins, np.nan), votes.names, votes.pair_ids, votes.groups)
    labels = some_gold(gold, 300)
    with_margins = log_loss(LogisticModel().fit(votes, labels).posterior(votes), gold)
    assert with_margins < log_loss(LogisticModel().fit(bare, labels).posterior(bare), gold) - 0.02


def test_logistic_regression_on_one_group_is_shrunk_the_most():
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


def test_gold_finds_quality_behind_a_stronger_confounder():
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
