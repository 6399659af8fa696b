"""One suite over the simple label models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.dawid_skene import DawidSkene, OneCoin
from labeling.errors import GoldError, VotesError, WeakprefWarning
from labeling.logistic_model import LogisticModel
from labeling.majority import MajorityVote
from labeling.metrics import accuracy, ece
from labeling.noise_aware import NoiseAware
from labeling.sparse_low_rank import SparseLowRank
from labeling.votes import VoteMatrix

MODELS = [MajorityVote, OneCoin, DawidSkene, NoiseAware, LogisticModel, SparseLowRank]

FITTED = MODELS[1:]

FROM_GOLD_ALONE = [NoiseAware, LogisticModel]

FROM_AGREEMENT = [OneCoin, DawidSkene, SparseLowRank]


def soft(gold, seed=0):
    return np.abs(gold - np.random.default_rng(seed).choice([0.0, 0.1, 0.3, 0.5], len(gold)))


@pytest.mark.parametrize("model", MODELS)
def test_the_posterior_is_a_probability_for_every_row(model, simulate, some_gold):
    votes, gold = simulate()
    p_a = model().fit(votes, some_gold(gold, 60)).posterior(votes)
    assert p_a.shape == (400,)
    assert p_a.dtype == np.float64
    assert ((p_a >= 0) & (p_a <= 1)).all()


@pytest.mark.parametrize("model", [model for model in MODELS if model is not DawidSkene])
def test_where_nobody_votes_the_posterior_is_one_half(model, simulate, some_gold):
    votes, gold = simulate(margins=True)
    margins = np.ones_like(votes.margins)  # a margin too small to vote on
    silent = VoteMatrix(np.full_like(votes.votes, -1), margins, votes.names, votes.pair_ids)
    assert (model().fit(votes, some_gold(gold, 60)).posterior(silent) == 0.5).all()


@pytest.mark.parametrize("model", MODELS)
def test_voters_better_than_chance_beat_chance(model, simulate, some_gold):
    votes, gold = simulate(2000)
    labels = some_gold(gold, 100) if model in FROM_GOLD_ALONE else None
    assert accuracy(model().fit(votes, labels).posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", MODELS)
def test_fitting_twice_gives_the_same_posterior_to_the_last_bit(model, simulate, some_gold):
    votes, gold = simulate(margins=True)
    labels, fitted = some_gold(gold, 60), model()
    once = fitted.fit(votes, labels).posterior(votes)
    assert np.array_equal(fitted.fit(votes, labels).posterior(votes), once)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("n_gold", [0, 60])
def test_swapping_the_responses_mirrors_the_posterior_exactly(model, margins, n_gold, simulate, some_gold):
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
def test_no_exchange_and_no_order_leaves_a_trace_in_any_data(model, seed, n, margins, grouped, simulate, some_gold):
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
def test_swapping_some_pairs_mirrors_just_those(model, simulate, some_gold):
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
def test_row_and_voter_order_do_not_change_a_bit(model, margins, simulate, some_gold):
    votes, gold = simulate(margins=margins)
    labels = some_gold(soft(gold), 60)
    p_a = model().fit(votes, labels).posterior(votes)
    rows = np.random.default_rng(1).permutation(len(votes))
    shuffled = votes.take(rows)
    assert np.array_equal(model().fit(shuffled, labels[rows]).posterior(shuffled), p_a[rows])
    reordered = votes.select(votes.names[::-1])
    assert np.array_equal(model().fit(reordered, labels).posterior(reordered), p_a)


@pytest.mark.parametrize("model", MODELS)
def test_a_row_alone_gets_the_posterior_it_gets_among_others(model, simulate, some_gold):
    votes, gold = simulate(margins=True)
    fitted = model().fit(votes, some_gold(gold, 60))
    p_a = fitted.posterior(votes)
    assert all(fitted.posterior(votes.take([i]))[0] == p_a[i] for i in range(0, 400, 37))


@pytest.mark.parametrize("model", FITTED)
def test_other_voters_than_those_fitted_are_refused(model, simulate, some_gold):
    votes, gold = simulate()
    with pytest.raises(VotesError, match="call fit"):
        model().posterior(votes)
    fitted = model().fit(votes, some_gold(gold, 60))
    with pytest.raises(VotesError, match=r"fitted on the voters v3, v0, v7.*found v7, v0, v3.*votes\.select"):
        fitted.posterior(votes.select(votes.names[2::-1]))


@pytest.mark.parametrize("model", FITTED)
def test_bad_gold_and_empty_votes_are_refused(model, simulate):
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
def test_models_of_gold_alone_say_what_to_do_without_it(model, simulate):
    votes, _ = simulate()
    for gold in (None, np.full(400, np.nan)):
        with pytest.raises(GoldError, match=rf"{model.__name__} learns from gold labels alone.*LabelModel, OneCoin"):
            model().fit(votes, gold)


@pytest.mark.parametrize("model", FROM_AGREEMENT)
def test_agreement_needs_three_voters_without_gold(model, simulate):
    votes, _ = simulate()
    with pytest.raises(VotesError, match=rf"{model.__name__} needs 3 voters or more.*found 2"):
        model().fit(votes.select(votes.names[:2]))


@pytest.mark.parametrize("model", [OneCoin, DawidSkene, NoiseAware, LogisticModel])
def test_one_voter_is_enough_with_gold(model, simulate, some_gold):
    votes, gold = simulate()
    one = votes.select(votes.names[:1])
    p_a = model().fit(one, some_gold(gold, 150)).posterior(one)
    cast = one.votes[:, 0] >= 0
    assert accuracy(p_a[cast], gold[cast]) > 0.7
    assert ece(p_a[cast], gold[cast]) < 0.1


@pytest.mark.parametrize("model", FITTED)
def test_gold_turns_voters_that_are_worse_than_chance(model, simulate, some_gold):
    votes, gold = simulate(2000, accuracies=(0.2, 0.3, 0.35, 0.6))
    p_a = model().fit(votes, some_gold(gold, 150)).posterior(votes)
    assert accuracy(p_a, gold) > 0.7
    if model in FROM_AGREEMENT:
        assert accuracy(model().fit(votes).posterior(votes), gold) < 0.3


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_a_few_gold_labels_fix_the_sign_against_many_votes(model, simulate, some_gold):
    votes, gold = simulate(4000, accuracies=(0.2, 0.3, 0.35, 0.6))
    fitted = model().fit(votes, some_gold(gold, 12))
    assert fitted.sign_from_gold_
    assert accuracy(fitted.posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_without_gold_voters_are_assumed_right_more_often_than_wrong(model, simulate, some_gold):
    votes, _ = simulate(4000, accuracies=(0.03, 0.03, 0.75, 0.75, 0.75, 0.75, 0.75))
    fitted = model().fit(votes)
    assert not fitted.sign_from_gold_
    assert not model().fit(votes, some_gold(np.full(4000, 0.5), 12)).sign_from_gold_  # ties say nothing of it
    assert np.log(fitted.accuracy_ / (1 - fitted.accuracy_)).sum() > 0
    assert fitted.accuracy_[0] > 0.9 > 0.5 > fitted.accuracy_[2]


@pytest.mark.parametrize("model", [OneCoin, DawidSkene])
def test_what_does_not_settle_warns_by_name(model, simulate):
    votes, _ = simulate()
    with pytest.warns(WeakprefWarning, match=f"{model.__name__} did not settle in 2 steps"):
        model(max_iterations=2).fit(votes)
