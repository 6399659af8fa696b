"""The consensus: which voters copy or lean, what stays unexplained, and how far to trust."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.special import expit, logit

from labeling.consensus import answered, learn_consensus
from labeling.copies import agreement, candidate_blocks, common_factor
from labeling.latent_class import LatentClass, Structure, unpack
from labeling.metrics import log_loss
from labeling.misfit import misfit, unexplained
from labeling.structure_search import N_STRENGTHS, vote_table
from labeling.vote_rows import VoteRows


def copied(signs, copies, fidelity, seed=100):
    """Signs with `copies` = {voter: source}: each says what the source does but for a share of errors of its own."""
    rng = np.random.default_rng(seed)
    signs = signs.copy()
    source = {k: signs[:, k].copy() for k in copies.values()}
    for j, k in copies.items():
        signs[:, j] = np.where(rng.random(len(signs)) < fidelity, source[k], -source[k])
    return signs


TEN = np.linspace(0.6, 0.77, 10)


def test_agreement_is_the_mean_product_where_both_vote():
    signs = np.random.default_rng(0).integers(-1, 2, (30, 4))
    counts = np.arange(30.0)
    agree, both = agreement(signs.astype(float), counts)
    for j, k in product(range(4), repeat=2):
        met = (signs[:, j] != 0) & (signs[:, k] != 0)
        assert both[j, k] == counts[met].sum()
        assert agree[j, k] == pytest.approx(np.average((signs[:, j] * signs[:, k])[met], weights=counts[met]))


def test_voters_that_never_meet_agree_on_nothing():
    agree, both = agreement(np.array([[1.0, 0.0], [0.0, -1.0]]), np.ones(2))
    assert agree[0, 1] == both[0, 1] == 0


def test_the_common_factor_of_a_rank_one_matrix_is_found_whatever_a_few_pairs_of_copies_say():
    b = np.linspace(0.2, 0.6, 8)
    agree = np.outer(b, b)
    agree[0, 1] = agree[1, 0] = agree[2, 3] = agree[3, 2] = 0.9
    np.testing.assert_allclose(common_factor(agree, np.full((8, 8), 100.0)), b, atol=0.01)


@pytest.mark.parametrize("fidelity", [0.85, 0.95, 1.0])
@pytest.mark.parametrize(
    "copies",
    [{0: 0, 1: 0}, {2: 2, 5: 2, 9: 2}, {1: 1, 3: 1, 6: 6, 8: 6}, {0: 0, 1: 0, 2: 0, 3: 0}],
    ids=["two", "three", "two pairs", "four"],
)
def test_copies_are_found_exactly(copies, fidelity, coins, rows_of):
    signs = copied(coins(TEN)[0], copies, fidelity)
    model = learn_consensus(rows_of(signs)).model
    groups = {k: tuple(sorted(j for j in copies if copies[j] == k)) for k in copies.values()}
    assert model.structure.blocks == tuple(sorted(groups.values()))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("coverage", [1.0, 0.3])
def test_voters_that_err_independently_are_never_taken_for_copies(seed, coverage, coins, rows_of):
    signs, _ = coins(TEN, seed=seed)
    signs[np.random.default_rng(seed).random(signs.shape) >= coverage] = 0
    consensus = learn_consensus(rows_of(signs))
    assert candidate_blocks(signs.astype(float), np.ones(len(signs))) == []
    assert consensus.model.structure == Structure(10)
    assert consensus.trust > 0.9


@pytest.mark.parametrize("accuracy_of_source", [0.55, 0.62, 0.7])
def test_five_copies_among_ten_are_one_voter_and_not_the_preference(accuracy_of_source, coins, rows_of):
    signs, y = coins([accuracy_of_source, 0.5, 0.5, 0.5, 0.5, *np.linspace(0.6, 0.75, 5)], seed=3)
    signs = copied(signs, dict.fromkeys(range(5), 0), 0.95)
    consensus = learn_consensus(rows_of(signs))
    p = unpack(consensus.model.structure, consensus.model.vector)
    assert consensus.model.structure.blocks == ((0, 1, 2, 3, 4),)
    np.testing.assert_allclose(expit(p.weight[5:]), np.linspace(0.6, 0.75, 5), atol=0.05)
    assert expit(p.source[0]) == pytest.approx(accuracy_of_source, abs=0.05)
    assert (np.sign(consensus.log_odds(signs, None)[0]) == y).mean() > 0.75


def test_copies_counted_once_are_as_good_as_the_truth(coins, rows_of):
    signs, y = coins(TEN)
    signs = copied(signs, {0: 0, 1: 0, 2: 0, 3: 0}, 0.95)
    about = signs[:, :4].sum(axis=1) * logit(0.95)
    oracle = 2 * np.arctanh((2 * TEN[0] - 1) * np.tanh(about / 2)) + signs[:, 4:] @ logit(TEN[4:])
    found, _ = learn_consensus(rows_of(signs)).log_odds(signs, None)
    gold = (y + 1) / 2
    assert log_loss(expit(found), gold) < log_loss(expit(oracle), gold) + 0.002
    assert log_loss(expit(signs @ logit(TEN)), gold) > log_loss(expit(oracle), gold) + 0.05


def test_fewer_than_four_voters_cannot_be_grouped(coins):
    signs, _ = coins([0.6, 0.6, 0.6])
    assert candidate_blocks(np.repeat(signs[:, :1], 3, axis=1).astype(float), np.ones(len(signs))) == []


def test_voters_that_lean_to_one_position_are_not_copies_for_that(coins, rows_of):
    rng = np.random.default_rng(0)
    signs, _ = coins([0.65] * 8)
    signs[:, :4] = np.where(rng.random((10_000, 4)) < 0.6, 1, signs[:, :4])
    assert candidate_blocks(signs.astype(float), np.ones(10_000)) != []
    assert candidate_blocks(signs.astype(float), np.ones(10_000), leaning=(0, 1, 2, 3)) == []
    assert learn_consensus(rows_of(signs)).model.structure.blocks == ()


def test_pairs_of_differing_difficulty_are_recognised(rows_of):
    rng = np.random.default_rng(0)
    y, scale = rng.choice([-1, 1], 10_000), np.exp(rng.normal(0, 1, 10_000))
    weights = logit(np.linspace(0.55, 0.8, 10))
    signs = np.where(rng.random((10_000, 10)) < expit(scale[:, None] * weights), y[:, None], -y[:, None])
    consensus = learn_consensus(rows_of(signs.astype(np.int8)))
    assert consensus.model.structure == Structure(10, varied=True)
    assert unpack(consensus.model.structure, consensus.model.vector).spread == pytest.approx(1, abs=0.2)


def with_strengths(slope, n=6000, seed=0):
    """Signs and scores of six voters whose weight is 0.6 + slope * strength."""
    rng = np.random.default_rng(seed)
    y, size = rng.choice([-1, 1], n), np.abs(rng.normal(0, 1, (n, 6)))
    signs = np.where(rng.random((n, 6)) < expit(0.6 + np.array(slope) * size), y[:, None], -y[:, None])
    return signs.astype(np.int8), signs * size, y


def test_a_vote_weighs_more_the_larger_its_margin(rows_of):
    signs, scores, _ = with_strengths([0.8] * 6)
    consensus = learn_consensus(rows_of(signs, scores))
    p = unpack(consensus.model.structure, consensus.model.vector)
    np.testing.assert_allclose(p.slope, 0.8, atol=0.25)
    np.testing.assert_allclose(p.weight, 0.6, atol=0.2)
    small, large = (consensus.log_odds(np.int8([[1, 0, 0, 0, 0, 0]]), np.eye(1, 6) * g)[0] for g in (0.1, 2.0))
    assert 0 < small + 0.8 < large


def test_larger_margins_may_not_say_the_opposite_of_smaller_ones(rows_of):
    signs, scores, _ = with_strengths([0.8, 0.8, 0.8, 0.8, 0.8, -1.0])
    model = learn_consensus(rows_of(signs, scores)).model
    assert model.structure.sloped == (0, 1, 2, 3, 4)
    assert unpack(model.structure, model.vector).slope[5] == 0


def test_a_table_counts_distinct_rows_and_classes_strengths_by_size():
    signs, scores, _ = with_strengths([0.5] * 6, n=400)
    bare = vote_table(VoteRows(signs, scores, np.ones(400)), ())
    assert bare.counts.sum() == 400
    assert len(bare.counts) == len(np.unique(signs, axis=0)) < 400
    table = vote_table(VoteRows(signs, scores, np.ones(400)), (2,))
    assert table.voter.tolist() == [0, 1] + [2] * N_STRENGTHS + [3, 4, 5]
    of_voter = table.voter == 2
    np.testing.assert_array_equal((table.plus - table.minus)[:, of_voter].sum(axis=1), signs[:, 2])
    assert (table.plus + table.minus)[:, of_voter].sum(axis=0).tolist() == [100] * N_STRENGTHS
    classes = np.sort(np.abs(scores[:, 2])).reshape(N_STRENGTHS, 100)
    np.testing.assert_allclose(table.strength[of_voter], classes.mean(axis=1))


def test_strengths_of_independent_voters_are_not_modelled_as_margins(rows_of):
    signs, scores, _ = with_strengths([0.8] * 6, n=3000)
    assert isinstance(learn_consensus(rows_of(signs, scores)).model, LatentClass)


MODELS = {
    "independent": (Structure(4), [0.5, 1.0, -0.3, 1.5]),
    "difficulty": (Structure(4, varied=True), [0.5, 1.0, -0.3, 1.5, -0.5]),
    "copies and difficulty": (Structure(4, blocks=((0, 1),), varied=True), [2.0, 1.5, 0.7, 1.0, 0.8, -0.5]),
    "lean": (Structure(4, biased=(0, 2), uneven=True), [0.5, 1.0, 0.8, 1.5, 0.7, -0.9, 0.6]),
    "copies that lean": (
        Structure(4, blocks=((0, 1),), biased=(0, 2), uneven=True), [2.0, 1.5, 0.7, 1.0, 0.8, 0.7, -0.9, 1.0],
    ),
    "strengths": (Structure(4, sloped=(0, 3), varied=True), [0.5, 1.0, 0.8, 0.3, 0.6, 0.4, -0.5]),
}  # fmt: skip


def all_rows(model, n):
    """Every row there can be, each as often as the model expects among n; the last two voters abstain at times."""
    signs = np.array(list(product((1, -1), (1, -1), (1, -1, 0), (1, -1, 0))), np.int8)
    parts = []
    for strength in (0.5, 2.0):
        size = strength * (signs != 0) * np.isin(range(4), model.structure.sloped)
        silence = np.where(signs[:, 2:] == 0, 0.3, 0.7).prod(axis=1)
        parts.append((signs, signs * size, np.exp(model.log_evidence(signs, size)) * silence * n / 2))
    return VoteRows(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@pytest.mark.parametrize(("structure", "vector"), MODELS.values(), ids=MODELS.keys())
def test_a_model_leaves_nothing_unexplained_of_what_it_expects_itself(structure, vector):
    model = LatentClass(structure, np.array(vector))
    rows = all_rows(model, 1e12)
    assert rows.counts.sum() == pytest.approx(1e12)
    assert max(misfit(model, rows)) < 1e-5
    for other in vector + 0.3 * np.eye(len(vector)):
        assert misfit(LatentClass(structure, other), rows)[1] > 0.005


def test_misfit_is_small_for_data_of_the_model_and_large_where_neighbours_agree(coins, rows_of):
    signs, _ = coins([0.65] * 8)
    model = learn_consensus(rows_of(signs)).model
    assert misfit(model, rows_of(signs))[1] == 0
    assert misfit(model, rows_of(signs))[0] < 0.01
    alike = np.where(np.random.default_rng(0).random(signs.shape) < 0.4, np.roll(signs, 1, axis=1), signs)
    assert misfit(model, rows_of(alike))[1] > 0.1


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_what_so_few_pairs_cannot_exclude_counts_as_unexplained(n, coins):
    spread = []
    for seed in range(20):
        signs, _ = coins([0.5] * 6, n, seed)
        agree, both = agreement(signs.astype(float), np.ones(n))
        spread.append(unexplained(agree, np.zeros((6, 6)), both))
    assert 0.3 / np.sqrt(n) < np.median([high for high, _ in spread]) < 1.5 / np.sqrt(n)
    assert np.median([low for _, low in spread]) == 0


def test_voters_that_never_meet_or_are_too_few_explain_nothing(coins, rows_of):
    assert unexplained(np.zeros((3, 3)), np.zeros((3, 3)), np.diag([9.0] * 3)) == (1, 1)
    two, _ = coins([0.8, 0.8], 500)
    assert learn_consensus(rows_of(two)).misfit == 1


@pytest.mark.parametrize("seed", range(3))
def test_agreement_that_no_model_explains_gives_way_to_the_share_of_votes(seed, coins, rows_of):
    signs, _ = coins([0.62] * 10, seed=seed)
    mixed = np.where(np.random.default_rng(seed).random(signs.shape) < 0.45, np.roll(signs, 1, axis=1), signs)
    plain, odd = learn_consensus(rows_of(signs)), learn_consensus(rows_of(mixed.astype(np.int8)))
    assert odd.misfit > 2 * plain.misfit
    assert odd.trust < plain.trust


def test_the_consensus_is_no_surer_than_what_it_leaves_unexplained(coins, rows_of):
    signs, _ = coins([0.95] * 8, 300)
    consensus = learn_consensus(rows_of(signs))
    unanimous = np.ones((1, 8), np.int8)
    modelled, share = consensus.log_odds(unanimous, None)
    assert modelled[0] == pytest.approx(np.log(1 + 0.1 / consensus.misfit**2), rel=0.02)
    assert consensus.model.log_odds(unanimous)[0] > 2 * modelled[0]
    assert share[0] == pytest.approx(np.log(9))


@pytest.mark.parametrize(("accuracy", "m", "n"), [(0.95, 8, 300), (0.95, 3, 1000), (0.98, 12, 300), (0.9, 5, 100)])
def test_voters_that_are_nearly_always_right_are_not_taken_for_nearly_always_wrong(accuracy, m, n, coins, rows_of):
    for seed in range(3):
        signs, y = coins([accuracy] * m, n, seed)
        modelled, _ = learn_consensus(rows_of(signs)).log_odds(signs, None)
        assert (np.sign(modelled) == y).mean() > accuracy - 0.02


def test_votes_without_side_are_learned_from_without_side(coins, rows_of):
    signs, _ = coins(TEN)
    consensus = learn_consensus(rows_of(signs))
    assert not consensus.lopsided
    assert not consensus.constant.any()
    assert not consensus.silence.any()
    np.testing.assert_array_equal(consensus.log_odds(-signs, None), [-x for x in consensus.log_odds(signs, None)])


def test_which_response_of_single_pairs_comes_first_changes_nothing_where_no_side_is_told_apart(coins, rows_of):
    signs, _ = coins([0.7] * 6)
    turned = signs * np.random.default_rng(1).choice(np.int8([-1, 1]), (10_000, 1))
    one, other = (learn_consensus(rows_of(x)) for x in (signs, turned))
    assert np.array_equal(one.model.vector, other.model.vector)
    assert one.misfit == pytest.approx(other.misfit)


def test_the_silence_of_a_one_sided_voter_is_read_as_the_other_answer(coins, rows_of):
    signs, _ = coins([0.7] * 6)
    signs[:, 0] = np.where(signs[:, 0] > 0, 1, 0)
    signs[:, 1] = np.where(signs[:, 1] < 0, -1, 0)
    signs[:, 2] = np.where(np.random.default_rng(0).random(10_000) < 0.5, signs[:, 2], 0)
    consensus = learn_consensus(rows_of(signs))
    assert consensus.silence.tolist() == [-1, 1, 0, 0, 0, 0]
    p = unpack(consensus.model.structure, consensus.model.vector)
    np.testing.assert_allclose(expit(p.weight), 0.7, atol=0.04)
    silent, spoken = (consensus.log_odds(np.int8([[said, 0, 0, 1, -1, 1]]), None)[0] for said in (0, 1))
    assert silent < spoken - 1


@pytest.mark.parametrize("side", [1, -1])
def test_a_voter_that_always_says_the_same_says_nothing(side, coins, rows_of):
    signs, _ = coins([0.7] * 6)
    signs[:, 4] = side
    consensus = learn_consensus(rows_of(signs))
    assert consensus.constant.tolist() == [False] * 4 + [True, False]
    assert not consensus.lopsided
    silent = signs.copy()
    silent[:, 4] = 0
    np.testing.assert_array_equal(consensus.log_odds(signs, None), consensus.log_odds(silent, None))
    assert np.array_equal(answered(signs, consensus.silence, consensus.constant), silent)


def test_a_voter_that_leans_is_told_from_data_that_lean(coins, rows_of):
    signs, _ = coins([0.7] * 6)
    leaning = signs.copy()
    leaning[:, 2] = np.where(np.random.default_rng(0).random(10_000) < 0.3, 1, signs[:, 2])
    consensus = learn_consensus(rows_of(leaning))
    assert consensus.model.structure == Structure(6, biased=(2,))
    assert unpack(consensus.model.structure, consensus.model.vector).bias[2] > 0.5
    mostly_a, y = coins([0.7] * 6)
    to_a = (y < 0) & (np.arange(10_000) % 5 < 3)
    mostly_a[to_a] *= -1
    uneven = learn_consensus(rows_of(mostly_a))
    assert uneven.model.structure == Structure(6, uneven=True)
    assert expit(unpack(uneven.model.structure, uneven.model.vector).prior) == pytest.approx(0.8, abs=0.02)
