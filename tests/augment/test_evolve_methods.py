"""Ensembles, weak supervision with a reward model in it, and what goes over from one iteration to the next."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from augment.evolve_controls import Effort, coins, oracle
from augment.evolve_ground import lay_out
from augment.evolve_method import Ground
from augment.evolve_options import EvolveOptions
from augment.evolve_training import decided, rewards_of, train, within_budget
from augment.export import export
from augment.rm_ensemble import Ensemble
from augment.self_labels import read_self_labels, write_self_labels
from augment.ser_ws import RM, SEED_RM, SerWs, beside
from labeling.errors import DataError, VotesError, WeakprefWarning
from labeling.label_model import LabelModel
from labeling.votes import VoteMatrix
from rm.config import RewardConfig

N = 300


@pytest.fixture(scope="module")
def ground(voted_ground) -> Ground:
    """300 pairs in 60 groups, 60 with a visible label; three voters, right in 0.7."""
    return voted_ground(N, 5)


def test_no_model_outlives_the_scoring_or_training_it_was_for(rm_folders, policy_folder, six_pairs, tmp_path):
    """Models sit in cycles, so that without Python's help the next would stand beside them on the GPU."""
    from transformers import PreTrainedModel

    def alive():
        return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), PreTrainedModel)}

    data = export(tmp_path / "data", six_pairs, np.full(len(six_pairs), 0.8))
    before = alive()
    gc.disable()
    try:
        rewards_of(rm_folders[0], six_pairs)
        assert alive() <= before
        train(data, RewardConfig(str(policy_folder), max_steps=1, max_length=64), tmp_path / "rm")
        assert alive() <= before
    finally:
        gc.enable()


def rewards(margin):
    return np.column_stack([margin / 2, -margin / 2])[None]


def test_an_ensemble_keeps_what_all_its_members_prefer_with_their_mean_and_spread(ground):
    both = np.concatenate([rewards(np.ones(N)), rewards(np.where(np.arange(N) < 200, 3.0, -1.0))])
    labels = Ensemble(2).label(1, both, ground, [])
    assert labels.trained[60:200].all()
    assert not labels.trained[200:].any()
    assert not labels.trained[:60].any()
    assert labels.p_a[100] == pytest.approx((1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(-3))) / 2)
    assert labels.spread[100] == pytest.approx((1 / (1 + np.exp(-3)) - 1 / (1 + np.exp(-1))) / 2)
    assert labels.facts["members_consistency"] == pytest.approx(140 / 240)


def test_by_consistency_every_pair_has_the_members_rate_as_its_label_and_half_at_least(ground):
    early = np.arange(N) < 240
    both = np.concatenate([rewards(np.where(early, 3.0, 1.0)), rewards(np.where(early, 1.0, -2.0))])
    labels = Ensemble(2, "consistency").label(1, both, ground, [])
    assert labels.trained[ground.pool].all()
    assert labels.facts["members_consistency"] == pytest.approx(180 / 240)
    assert labels.target[100] == pytest.approx(180 / 240)
    assert labels.target[250] == pytest.approx(1 - 180 / 240)  # B in the mean of their margins
    apart = np.concatenate([rewards(np.full(N, 3.0)), rewards(np.full(N, -1.0))])
    with pytest.warns(WeakprefWarning, match="raised to 0.5"):
        flat = Ensemble(2, "consistency").label(1, apart, ground, [])
    assert not flat.trained.any()  # a tie trains nothing
    assert flat.status == "converged"


def test_a_reward_model_that_is_right_on_gold_moves_the_posterior_and_one_that_is_not_does_not(ground):
    rng = np.random.default_rng(1)
    side = np.where(ground.true == 1, 1.0, -1.0)
    alone = SerWs().label(1, None, ground, [])
    good = SerWs().label(2, rewards(side * np.where(rng.random(N) < 0.9, 1.0, -1.0) * 2), ground, [alone])
    noise = SerWs().label(2, rewards(rng.normal(size=N)), ground, [alone])

    def loss(labels):
        p = np.where(ground.true == 1, labels.p_a, 1 - labels.p_a)[ground.pool]
        return -np.log(p).mean()

    assert loss(good) < loss(alone) - 0.1
    assert abs(loss(noise) - loss(alone)) < 0.02
    assert good.facts["rm_weight"] > 1 > 0.3 > abs(noise.facts["rm_weight"])


def test_the_seeds_reward_model_is_believed_where_it_agrees_with_the_voters_and_goes_on_voting(ground):
    """It learned from gold alone, so agreement says something: it has weight without a single label on these pairs."""
    rng = np.random.default_rng(3)
    side = np.where(ground.true == 1, 1.0, -1.0)
    margin = rewards(side * np.where(rng.random(N) < 0.85, 1.0, -1.0) * 2)
    unlabelled = replace(ground, pairs=ground.pairs.with_gold(np.full(N, np.nan)))
    first = SerWs().label(1, margin, unlabelled, [])
    assert first.facts["seed_rm_weight"] > 0.5
    assert first.facts["rm_weight"] is None
    second = SerWs().label(2, rewards(np.random.default_rng(4).normal(size=N)), unlabelled, [first])
    assert second.facts["seed_rm_weight"] > 0.5
    assert second.facts["rm_weight"] == pytest.approx(0, abs=1e-9)
    assert SEED_RM not in ground.votes.names


def test_agreement_with_the_voters_it_learned_from_earns_a_reward_model_nothing(ground):
    """It repeats their majority on the pool and guesses on the seed, where it was not trained on the labels."""
    copied = np.where((ground.votes.votes == 0).sum(axis=1) >= 2, 3.0, -3.0)
    guesses = np.random.default_rng(2).choice([-3.0, 3.0], N)
    alone = SerWs().label(1, None, ground, [])
    looped = SerWs().label(2, rewards(np.where(ground.seed, guesses, copied)), ground, [alone])
    assert abs(looped.facts["rm_weight"]) < 0.3


def test_a_voter_that_says_it_learned_from_made_labels_stays_one_beside_the_reward_model(ground):
    copied = np.where((ground.votes.votes == 0).sum(axis=1) >= 2, 3.0, -3.0)
    guesses = np.random.default_rng(2).choice([-3.0, 3.0], N)
    with_old = beside(ground.votes, "old_rm", np.where(ground.seed, guesses, copied))
    declared = replace(with_old, self_labels=("old_rm",))
    noise = np.random.default_rng(5).normal(size=N)
    weight = {}
    for name, votes in (("declared", declared), ("hidden", with_old)):
        model = LabelModel([RM]).fit(beside(votes, RM, noise), ground.pairs.gold)
        weight[name] = model.weights_[votes.names.index("old_rm")]
    assert abs(weight["declared"]) < 0.1 < weight["hidden"] - 0.1


def test_judges_votes_keep_what_they_say_of_themselves(make_pairs):
    pairs = make_pairs([([{"role": "user", "content": f"Q{i}?"}], f"one {i}", f"two {i}") for i in range(6)])
    pairs = pairs.with_gold(np.array([1, 0, np.nan, np.nan, np.nan, np.nan]))
    said = np.zeros((6, 1), np.int8)
    votes = VoteMatrix(said, np.full((6, 1), np.nan, np.float32), ("old_rm",), pairs.pair_ids, self_labels=("old_rm",))
    options = EvolveOptions(config=RewardConfig(model="minilm", max_steps=1))
    assert lay_out(pairs, options, None, votes).votes.self_labels == ("old_rm",)
    assert lay_out(pairs, options, (), votes).votes.self_labels == ("old_rm",)


def test_every_pair_of_the_pool_is_labelled_anew_softly_with_its_surety_as_weight(ground):
    alone = SerWs().label(1, None, ground, [])
    assert alone.trained[ground.pool].all()
    assert (alone.target[ground.pool] == alone.p_a[ground.pool]).all()
    assert np.allclose(alone.weight, np.abs(2 * alone.p_a - 1))
    few = SerWs(budget=150).label(1, None, ground, [])
    assert few.trained.sum() == 90  # the seed takes 60 of the 150
    assert few.weight[few.trained].mean() > alone.weight[ground.pool].mean()


def test_a_part_outside_of_which_all_labels_are_ties_has_nothing_to_train_on(ground):
    labels, everywhere = SerWs().label(1, None, ground, []), np.ones(N, dtype=bool)
    none = np.zeros(N, dtype=bool)
    assert decided(ground, everywhere, None)
    assert not decided(ground, ~ground.seed, None)
    assert decided(ground, ~ground.seed, labels)
    assert not decided(ground, none, labels)
    tied = replace(ground, pairs=ground.pairs.with_gold(np.where(ground.seed, 0.5, np.nan)))
    assert not decided(tied, everywhere, replace(labels, trained=none))
    assert not decided(tied, everywhere, replace(labels, target=np.full(N, 0.5)))


def test_a_voter_may_not_take_the_reward_models_name(ground):
    with pytest.raises(VotesError, match="called rm"):
        beside(beside(ground.votes, RM, np.ones(N)), RM, np.ones(N))
    with pytest.raises(VotesError, match="needs votes"):
        SerWs().label(1, None, replace(ground, votes=None), [])


def test_self_labels_are_read_as_they_were_written(ground, tmp_path):
    labels = SerWs().label(1, None, ground, [])
    ids = ground.pairs.pair_ids
    for name in ("a", "b"):
        write_self_labels(tmp_path / name, labels, ids)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_self_labels(tmp_path / "a", ids)
    assert np.array_equal(found.p_a, labels.p_a)
    assert np.array_equal(found.target, labels.target, equal_nan=True)
    assert (found.iteration == labels.iteration).all()
    with pytest.raises(DataError, match="other pairs"):
        read_self_labels(tmp_path / "a", ids[::-1])


def test_a_training_of_few_steps_sees_the_seed_and_a_draw_that_no_order_changes(ground):
    drawn = within_budget(ground.pool, ground, 150, seed=0)
    assert drawn.sum() == 90
    assert not (drawn & ground.seed).any()
    order = np.random.default_rng(0).permutation(N)
    turned = Ground(ground.pairs.take(order), ground.watched, ground.true[order])
    again = within_budget(turned.pool, turned, 150, seed=0)
    assert (again == drawn[order]).all()
    assert (within_budget(ground.pool, ground, None, seed=0) == ground.pool).all()
    assert within_budget(ground.pool, ground, 10, seed=0).sum() == 5  # the seed alone is more: half is for the others


def test_the_oracle_has_true_labels_on_the_same_pairs_and_coins_are_flips(ground):
    labels = SerWs(budget=200).label(1, None, ground, [])
    hidden = np.where(np.arange(N) % 10 == 5, np.nan, ground.hidden)
    truth = oracle(labels, hidden)
    assert (truth.trained == labels.trained & ~np.isnan(hidden)).all()
    assert (truth.target[truth.trained] == ground.true[truth.trained]).all()
    flipped = coins(Effort(labels, RewardConfig("x"), RewardConfig("x"), 1, 1), ground, seed=0)
    assert set(flipped.target[labels.trained]) == {0.0, 1.0}
    assert (flipped.trained == labels.trained).all()
    assert abs((flipped.target == ground.true)[labels.trained].mean() - 0.5) < 0.15
