"""One suite over all label models, and what only `LabelModel` promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.errors import GoldError, VotesError
from labeling.label_model import LabelModel
from labeling.logistic_model import LogisticModel
from labeling.majority import MajorityVote
from labeling.metrics import accuracy, ece, log_loss
from labeling.snorkel_model import SnorkelLabelModel
from labeling.votes import VoteMatrix

MODELS = [MajorityVote, SnorkelLabelModel, LabelModel]


@pytest.mark.parametrize("model", MODELS)
def test_the_posterior_is_a_probability_for_every_row(model, simulate, some_gold):
    votes, gold = simulate(500)
    p_a = model().fit(votes, some_gold(gold, 50)).posterior(votes)
    assert p_a.shape == (500,)
    assert p_a.dtype == np.float64
    assert ((p_a >= 0) & (p_a <= 1)).all()


@pytest.mark.parametrize("model", MODELS)
def test_where_nobody_votes_the_posterior_is_one_half(model, simulate):
    votes, _ = simulate(500)
    margins = np.ones_like(votes.margins)  # a margin too small to vote on
    silent = VoteMatrix(np.full_like(votes.votes, -1), margins, votes.names, votes.pair_ids)
    assert (model().fit(votes).posterior(silent) == 0.5).all()


@pytest.mark.parametrize("model", MODELS)
def test_voters_better_than_chance_beat_chance_without_gold(model, simulate):
    votes, gold = simulate(2000)
    assert accuracy(model().fit(votes).posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", MODELS)
def test_fitting_twice_gives_the_same_posterior_to_the_last_bit(model, simulate, some_gold):
    votes, gold = simulate(500)
    labels = some_gold(gold, 100)
    assert (model().fit(votes, labels).posterior(votes) == model().fit(votes, labels).posterior(votes)).all()


@pytest.mark.parametrize("model", [MajorityVote, LabelModel])
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("n_gold", [0, 60])
def test_swapping_the_responses_mirrors_the_posterior_exactly(model, margins, n_gold, simulate, some_gold):
    votes, gold = simulate(400, margins=margins)
    labels = some_gold(gold, n_gold)
    p_a = model().fit(votes, labels).posterior(votes)
    swapped = model().fit(votes.swap(), 1 - labels).posterior(votes.swap())
    assert (swapped == 1 - p_a).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n_gold=st.integers(0, 40), soft=st.booleans(), grouped=st.booleans())
def test_swapping_any_part_of_the_pairs_mirrors_just_those(seed, n_gold, soft, grouped, simulate, some_gold):
    votes, gold = simulate(120, margins=True, seed=seed)
    rng = np.random.default_rng(seed)
    labels = some_gold(rng.choice([0.2, 0.5, 0.8, 1.0], 120) if soft else gold, n_gold, seed)
    known = labels[~np.isnan(labels)]
    if n_gold and len(set(known[known != 0.5] > 0.5)) < 2:
        return
    if not grouped:
        votes = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids)
    turned = rng.random(120) < 0.5
    other = votes.swap()
    mixed = VoteMatrix(
        np.where(turned[:, None], other.votes, votes.votes),
        np.where(turned[:, None], other.margins, votes.margins),
        votes.names, votes.pair_ids, votes.groups,
    )  # fmt: skip
    mixed_labels = np.where(turned, 1 - labels, labels)
    if n_gold and len({v > 0.5 for v in mixed_labels if not np.isnan(v) and v != 0.5}) < 2:
        return
    p_a = LabelModel().fit(votes, labels).posterior(votes)
    assert np.array_equal(LabelModel().fit(mixed, mixed_labels).posterior(mixed), np.where(turned, 1 - p_a, p_a))


def lopsided(votes, gold):
    """The first voter says A or nothing, the second leans to B."""
    changed = votes.votes.copy()
    changed[changed[:, 0] == 1, 0] = -1
    changed[np.random.default_rng(5).random(len(votes)) < 0.4, 1] = 1
    margins = np.where(changed == votes.votes, votes.margins, np.nan).astype(np.float32)
    return VoteMatrix(changed, margins, votes.names, votes.pair_ids, votes.groups), gold


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31), margins=st.booleans(), leaning=st.booleans(), n_gold=st.sampled_from([0, 30]),
    soft=st.booleans(), few=st.booleans(),
)  # fmt: skip
def test_no_order_of_rows_or_voters_changes_a_bit_and_exchanging_the_responses_mirrors_all(
    seed, margins, leaning, n_gold, soft, few, simulate, some_gold
):
    votes, gold = simulate(300, margins=margins, seed=seed)
    rng = np.random.default_rng(seed)
    if leaning:
        votes, gold = lopsided(votes, gold)
    labels = some_gold(np.where(rng.random(300) < 0.3, 0.7, gold) if soft else gold, n_gold, seed)
    known = labels[~np.isnan(labels)]
    if n_gold and len(set(known > 0.5)) < 2:
        return
    with pytest.MonkeyPatch.context() as patch:
        if few:  # so that a sample has to be drawn
            patch.setattr("labeling.sample.MAX_ROWS", 90)
            patch.setattr("labeling.sample.MAX_MARGIN_ROWS", 90)
            patch.setattr("labeling.sample.MAX_PATTERNS", 110)
        p_a = LabelModel().fit(votes, labels).posterior(votes)
        rows, names = rng.permutation(300), [votes.names[j] for j in rng.permutation(5)]
        shuffled, renamed, swapped = votes.take(rows), votes.select(names), votes.swap()
        assert np.array_equal(LabelModel().fit(shuffled, labels[rows]).posterior(shuffled), p_a[rows])
        assert np.array_equal(LabelModel().fit(renamed, labels).posterior(renamed), p_a)
        assert np.array_equal(LabelModel().fit(swapped, 1 - labels).posterior(swapped), 1 - p_a)


def test_gold_turns_a_voter_that_is_worse_than_chance(simulate, some_gold):
    votes, gold = simulate(2000, accuracies=(0.2, 0.6, 0.55))
    model = LabelModel().fit(votes, some_gold(gold, 150))
    assert model.weights_[0] < -0.5
    assert accuracy(model.posterior(votes), gold) > 0.68


@pytest.mark.parametrize("model", [LabelModel, LogisticModel])
def test_margins_say_more_than_votes(model, simulate, some_gold):
    votes, gold = simulate(4000, accuracies=(0.65, 0.65, 0.65), margins=True)
    bare = VoteMatrix(votes.votes, np.full_like(votes.margins, np.nan), votes.names, votes.pair_ids, votes.groups)
    labels = some_gold(gold, 300)
    with_margins = log_loss(model().fit(votes, labels).posterior(votes), gold)
    assert with_margins < log_loss(model().fit(bare, labels).posterior(bare), gold) - 0.02


@pytest.mark.parametrize("n_gold", [200, 1000])
def test_with_gold_the_posterior_is_calibrated_on_other_groups(n_gold, simulate, some_gold):
    gaps = []
    for seed in range(5):
        votes, gold = simulate(6000, seed=seed)
        train, test = np.arange(3000), np.arange(3000, 6000)
        model = LabelModel().fit(votes.take(train), some_gold(gold[train], n_gold, seed))
        gaps.append(ece(model.posterior(votes.take(test)), gold[test]))
    assert np.median(gaps) < 0.04


def test_a_voter_repeated_eight_times_makes_nobody_surer_when_gold_says_so(simulate, some_gold):
    votes, gold = simulate(3000, accuracies=(0.62, 0.7, 0.7))
    copies = VoteMatrix(
        np.repeat(votes.votes, [8, 1, 1], axis=1), np.repeat(votes.margins, [8, 1, 1], axis=1),
        tuple(f"v{j}" for j in range(10)), votes.pair_ids, votes.groups,
    )  # fmt: skip
    labels = some_gold(gold, 200)
    assert ece(LabelModel().fit(copies, labels).posterior(copies), gold) < 0.06
    assert ece(SnorkelLabelModel().fit(copies).posterior(copies), gold) > 0.2


@pytest.mark.parametrize(("n_gold", "bound"), [(0, 10 / 11), (5, 15 / 16), (50, 60 / 61)])
def test_no_posterior_is_surer_than_gold_and_agreement_vouch_for(n_gold, bound, simulate, some_gold):
    votes, gold = simulate(52, accuracies=(0.8,) * 4, coverage=1)  # so few pairs that agreement vouches for nothing
    model = LabelModel().fit(votes, some_gold(gold, n_gold))
    p_a = model.posterior(votes)
    assert np.maximum(p_a, 1 - p_a).max() <= bound
    assert model.max_logit_ == pytest.approx(np.log(bound / (1 - bound)))


def test_a_useless_voter_gets_next_to_no_weight_with_gold(simulate, some_gold):
    votes, gold = simulate(3000, accuracies=(0.8, 0.7, 0.5))
    model = LabelModel().fit(votes, some_gold(gold, 500))
    assert abs(model.weights_[2]) < 0.25 < model.weights_[1]


def test_the_calibration_reports_cross_fitted_quality_close_to_the_truth(simulate, some_gold):
    votes, gold = simulate(5000)
    model = LabelModel().fit(votes, some_gold(gold, 400))
    hidden = np.isnan(some_gold(gold, 400))
    p_a = model.posterior(votes)[hidden]
    assert model.calibration_ is not None
    assert model.calibration_.n_gold == 400
    assert model.calibration_.accuracy == pytest.approx(accuracy(p_a, gold[hidden]), abs=0.05)
    assert model.calibration_.log_loss == pytest.approx(log_loss(p_a, gold[hidden]), abs=0.05)


def test_gold_of_one_group_only_is_used_but_not_called_calibrated(simulate):
    votes, _ = simulate(400)
    labels = np.full(400, np.nan)
    labels[:8] = [0, 1, 0, 1, 0, 1, 0, 1]
    one = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids, np.full(400, "same"))
    assert LabelModel().fit(one, labels).calibration_ is None


def test_gold_ties_count_as_one_half(simulate, some_gold):
    votes, gold = simulate(1000)
    labels = some_gold(gold, 200)
    labels[np.flatnonzero(~np.isnan(labels))[:150]] = 0.5
    tied = LabelModel().fit(votes, labels).posterior(votes)
    clear = LabelModel().fit(votes, some_gold(gold, 200)).posterior(votes)
    assert np.abs(tied - 0.5).mean() < np.abs(clear - 0.5).mean()


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ([1.2, 0, 1, 0], r"gold is 1.2 in row 0 \(1 such rows\), expected P\(A preferred\) in \[0, 1\]"),
        ([-1, 0, 1, -1], r"gold is -1.0 in row 0 \(2 such rows\)"),
        ([1, 1, np.nan, 0.5], "all 2 gold labels prefer response A.*exchange the responses"),
        ([0, np.nan, np.nan, 0], "all 2 gold labels prefer response B"),
        ([1, 0], r"gold has shape \(2,\), expected \(4,\)"),
    ],
)
def test_bad_gold_is_refused_with_the_way_out(gold, words, simulate):
    votes, _ = simulate(4)
    with pytest.raises(GoldError, match=words):
        LabelModel().fit(votes, np.array(gold, dtype=float))


def test_no_gold_may_be_none_or_all_nan(simulate):
    votes, _ = simulate(300)
    a, b = LabelModel().fit(votes), LabelModel().fit(votes, np.full(300, np.nan))
    assert (a.posterior(votes) == b.posterior(votes)).all()
    assert a.calibration_ is None


def test_other_voters_than_those_fitted_are_refused(simulate):
    votes, _ = simulate(300)
    for model in (LabelModel(), SnorkelLabelModel()):
        with pytest.raises(VotesError, match=r"fitted on the voters v3, v0.*found v1, v4"):
            model.fit(votes).posterior(votes.select(votes.names[::-1]))


def test_no_rows_or_no_voters_is_nothing_to_learn_from(simulate):
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="0 rows and 5 voters; apply voters"):
        LabelModel().fit(votes.take(np.array([], dtype=int)))


def test_snorkel_needs_three_voters(simulate):
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="3 voters or more, found 2; use LabelModel"):
        SnorkelLabelModel().fit(votes.select(votes.names[:2]))


def test_the_snorkel_wrapper_gives_snorkels_own_probabilities(simulate):
    from snorkel.labeling.model import LabelModel as Snorkel

    votes, _ = simulate(500, coverage=1)
    theirs = Snorkel(cardinality=2, verbose=False)
    theirs.fit(
        votes.to_snorkel(), class_balance=[0.5, 0.5], n_epochs=100, lr=0.01, l2=0.5, seed=123, progress_bar=False
    )
    ours = SnorkelLabelModel().fit(votes).posterior(votes)
    np.testing.assert_array_equal(ours, theirs.predict_proba(votes.to_snorkel())[:, 0])


def test_fitting_snorkel_leaves_the_global_generators_alone(simulate):
    votes, _ = simulate(50)
    np.random.seed(7)
    SnorkelLabelModel().fit(votes)
    after = np.random.random()
    np.random.seed(7)
    assert after == np.random.random()


def test_a_posterior_before_fitting_says_what_to_do(simulate):
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="call fit"):
        LabelModel().posterior(votes)


def test_one_voter_is_enough(simulate, some_gold):
    votes, gold = simulate(500)
    p_a = LabelModel().fit(votes.select(votes.names[:1]), some_gold(gold, 100)).posterior(votes.select(votes.names[:1]))
    assert accuracy(p_a[votes.votes[:, 0] >= 0], gold[votes.votes[:, 0] >= 0]) > 0.7


@pytest.mark.slow
def test_on_real_arguments_the_label_model_beats_majority_and_snorkel_in_log_loss(shared_data):
    from labeling.apply import apply
    from labeling.heuristics import heuristics
    from labeling.read import read_pairs
    from labeling.split import gold_sample

    pairs = read_pairs(shared_data / "ukp_convincing.parquet", on_bad_rows="error")
    votes = apply(heuristics(), pairs)
    gold = np.where(gold_sample(pairs, 150, seed=0), pairs.gold, np.nan)
    hidden = np.isnan(gold)
    ours = LabelModel().fit(votes, gold).posterior(votes)[hidden]
    for rival in (MajorityVote(), SnorkelLabelModel()):
        theirs = rival.fit(votes).posterior(votes)[hidden]
        assert log_loss(ours, pairs.gold[hidden]) < log_loss(theirs, pairs.gold[hidden]) - 0.02
    assert ece(ours, pairs.gold[hidden]) < 0.06


@pytest.mark.parametrize("model", [SnorkelLabelModel, LabelModel])
def test_a_model_that_was_not_fitted_says_so(model):
    votes = VoteMatrix.of(np.zeros((2, 3), dtype=np.int8), ["a", "b", "c"])
    with pytest.raises(VotesError, match="was not fitted; call fit"):
        model().posterior(votes)
