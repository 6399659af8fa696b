"""`LabelModel` and odd voters: trained on its own labels, silent, constant, leaning; and what few labels say."""

from __future__ import annotations

import numpy as np
import pytest

from labeling.errors import GoldError, VotesError, WeakprefWarning
from labeling.label_model import LabelModel
from labeling.metrics import ece, log_loss
from labeling.votes import VoteMatrix


def learned_voter(votes, p_a, seed=0):
    """A reward model trained on the posterior: its margins follow it, with some noise."""
    z = np.log(p_a / (1 - p_a)) + np.random.default_rng(seed).normal(0, 0.3, len(p_a))
    return VoteMatrix(
        np.column_stack([votes.votes, np.where(z > 0, 0, 1)]).astype(np.int8),
        np.column_stack([votes.margins, z]).astype(np.float32),
        (*votes.names, "rm"), votes.pair_ids, votes.groups,
    )  # fmt: skip


@pytest.mark.parametrize("n_gold", [0, 200])
def test_a_voter_trained_on_the_models_own_labels_makes_it_no_surer(n_gold, simulate, some_gold):
    votes, gold = simulate(4000, accuracies=(0.7, 0.65, 0.65, 0.6, 0.6))
    labels = some_gold(gold, n_gold)
    before = LabelModel().fit(votes, labels).posterior(votes)
    fed_back = learned_voter(votes, before)
    after = LabelModel(self_labels=["rm"]).fit(fed_back, labels).posterior(fed_back)
    assert log_loss(after, gold) < log_loss(before, gold) + 0.003
    assert ece(after, gold) < 0.03
    trusting = LabelModel().fit(fed_back).posterior(fed_back)  # what the guard is for
    assert log_loss(trusting, gold) > log_loss(before, gold) + 0.01


@pytest.mark.parametrize(
    ("named", "words"),
    [(["nobody"], "self_labels names nobody, but the voters are v0"), (["v0", "v1", "v3", "v4", "v7"], "every voter")],
)
def test_self_labels_must_name_some_voters_and_leave_others(named, words, simulate):
    with pytest.raises(VotesError, match=words):
        LabelModel(self_labels=named).fit(simulate(50)[0])


@pytest.mark.parametrize("kind", ["constant", "random"])
@pytest.mark.parametrize("n_gold", [0, 100])
def test_a_voter_that_says_nothing_changes_no_posterior_by_more_than_noise(kind, n_gold, simulate, some_gold):
    votes, gold = simulate(5000)
    rng = np.random.default_rng(77)
    column = np.zeros(5000) if kind == "constant" else rng.integers(0, 2, 5000)
    more = VoteMatrix(
        np.column_stack([votes.votes, column]).astype(np.int8),
        np.column_stack([votes.margins, np.full(5000, np.nan)]).astype(np.float32),
        (*votes.names, "z"), votes.pair_ids, votes.groups,
    )  # fmt: skip
    labels = some_gold(gold, n_gold)
    change = LabelModel().fit(more, labels).posterior(more) - LabelModel().fit(votes, labels).posterior(votes)
    assert np.abs(change).mean() < 0.01
    assert np.abs(change).max() < 0.05


def test_nobody_voting_at_all_leaves_everything_at_one_half(simulate, some_gold):
    votes, gold = simulate(100)
    silent = VoteMatrix(np.full_like(votes.votes, -1), votes.margins, votes.names, votes.pair_ids)
    assert (LabelModel().fit(silent).posterior(silent) == 0.5).all()
    assert (LabelModel().fit(silent, some_gold(gold, 20)).posterior(silent) == 0.5).all()


def test_a_fit_that_did_not_converge_warns_by_name(monkeypatch, simulate):
    monkeypatch.setattr("labeling.latent_class_fit.MAX_STEPS", 1)
    with pytest.warns(WeakprefWarning, match="LabelModel: the likelihood of the votes was still rising"):
        LabelModel().fit(simulate(500)[0])


def test_the_model_says_what_it_rests_on(simulate, some_gold):
    votes, gold = simulate(2000)
    alone = LabelModel().fit(votes)
    assert "voters are right more often than wrong" in alone.assumption_
    assert "anchored on 100 gold pairs" in LabelModel().fit(votes, some_gold(gold, 100)).assumption_
    assert alone.structure_ == "voters that err independently"
    assert alone.accuracy_ == pytest.approx([0.8, 0.7, 0.65, 0.6, 0.5], abs=0.07)
    assert np.argsort(-alone.weights_)[[0, -1]].tolist() == [0, 4]
    off = alone.dependence_[~np.eye(5, dtype=bool)]
    assert np.abs(off).max() < 0.15


def with_columns(votes, columns, margins=None):
    extra = np.column_stack(columns).astype(np.int8)
    margins = np.full(extra.shape, np.nan) if margins is None else np.column_stack(margins)
    return VoteMatrix(
        np.column_stack([votes.votes, extra]),
        np.column_stack([votes.margins, margins]).astype(np.float32),
        (*votes.names, *(f"x{j}" for j in range(extra.shape[1]))), votes.pair_ids, votes.groups,
    )  # fmt: skip


def test_silent_constant_and_leaning_voters_together_break_nothing(simulate):
    votes, gold = simulate(3000)
    rng = np.random.default_rng(3)
    lean, rare = np.where(rng.random(3000) < 0.7, 0, 1), np.where(rng.random(3000) < 0.99, 0, 1)
    odd = with_columns(votes, [np.zeros(3000), np.full(3000, -1), lean, rare])
    assert (
        log_loss(LabelModel().fit(odd).posterior(odd), gold)
        < log_loss(LabelModel().fit(votes).posterior(votes), gold) + 0.01
    )


def confounded(n=4000, m=8, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice([-1.0, 1.0], n)
    margins = (
        y[:, None] * rng.uniform(0.3, 0.8, m)
        + rng.normal(size=(n, 1)) * rng.uniform(0.2, 1, m)
        + rng.normal(size=(n, m))
    )
    votes = (margins < 0).astype(np.int8)
    names = tuple(f"v{j}" for j in range(m))
    return VoteMatrix(votes, margins.astype(np.float32), names, np.array([f"p{i}" for i in range(n)])), (y + 1) / 2


@pytest.mark.parametrize("column", ["silent", "constant"])
def test_a_column_that_says_nothing_leaves_the_model_of_margins_in_use(column):
    votes, gold = confounded()
    more = with_columns(votes, [np.full(4000, -1 if column == "silent" else 0)])
    before, after = LabelModel().fit(votes), LabelModel().fit(more)
    assert before.structure_.startswith("margins that share a confounder")
    assert after.structure_.startswith("margins that share a confounder")
    assert abs(log_loss(after.posterior(more), gold) - log_loss(before.posterior(votes), gold)) < 0.002


def test_weights_do_not_depend_on_which_side_a_voter_votes_for(simulate):
    votes, _ = simulate(4000)
    rng = np.random.default_rng(1)
    _, gold = simulate(4000)
    only_a = np.where((gold == 1) & (rng.random(4000) < 0.6), 0, -1)
    only_b = np.where((gold == 0) & (rng.random(4000) < 0.6), 1, -1)
    both = with_columns(votes, [only_a, only_b])
    weights = LabelModel().fit(both).weights_
    assert weights[-2:].min() > 0.5
    assert np.array_equal(LabelModel().fit(both.swap()).weights_, weights)


def test_a_fit_that_fails_leaves_the_model_as_it_was(simulate, some_gold):
    votes, gold = simulate(400)
    model = LabelModel().fit(votes, some_gold(gold, 50))
    before, words = model.posterior(votes), model.assumption_
    with pytest.raises(GoldError, match=r"gold is 2.0"):
        model.fit(iter([votes]), np.where(np.arange(400) == 3, 2.0, np.nan))
    assert np.array_equal(model.posterior(votes), before)
    assert model.assumption_ == words
    unfitted = LabelModel(self_labels=["nobody"])
    with pytest.raises(VotesError, match="self_labels names nobody"):
        unfitted.fit(votes)
    with pytest.raises(VotesError, match="not fitted"):
        unfitted.posterior(votes)


def test_few_gold_pairs_are_called_too_few_and_leave_wide_intervals(simulate, some_gold):
    votes, gold = simulate(2000, accuracies=(0.9, 0.9, 0.9, 0.9, 0.9), coverage=1)
    free = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids)
    model = LabelModel().fit(free, some_gold(gold, 12))
    figures = model.calibration_.figures()
    assert "12 gold pairs, too few" in model.assumption_
    assert 0 <= figures["accuracy_low"] < 0.9
    assert figures["accuracy_high"] <= 1
    assert figures["log_loss_low"] >= 0
    assert figures["ece_low"] >= 0


def test_ties_and_pairs_nobody_votes_on_make_the_model_no_surer(simulate, some_gold):
    votes, gold = simulate(1000)
    labels = some_gold(gold, 40)
    more = np.where(np.isnan(labels), 0.5, labels)
    assert LabelModel().fit(votes, more).max_logit_ == LabelModel().fit(votes, labels).max_logit_


def margins_beside_verdicts(seed, verdicts):
    """Three graded voters (.73), and others of which only the verdicts are known; the preference in {-1, +1}."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], 2000)
    scores = np.stack([0.6 * y + rng.normal(size=len(y)) for _ in range(3)], axis=1)
    others = np.stack([np.where(rng.random(len(y)) < right, y, -y) for right in verdicts], axis=1)
    votes = np.where(np.concatenate([scores, others], axis=1) > 0, 0, 1).astype(np.int8)
    return y, scores, others, votes


@pytest.mark.parametrize("unit", [np.nan, 1.0], ids=["no margin", "margin of one size"])
@pytest.mark.parametrize("verdicts", [(0.7,), (0.55, 0.6)])
def test_a_voter_of_two_values_is_not_taken_for_the_preference(verdicts, unit):
    for seed in range(2):
        y, scores, others, votes = margins_beside_verdicts(seed, verdicts)
        margins = np.concatenate([scores, others * unit], axis=1).astype(np.float32)
        names = tuple(f"v{j}" for j in range(votes.shape[1]))
        matrix = VoteMatrix(votes, margins, names, np.array([f"p{i}" for i in range(len(y))]))
        model = LabelModel().fit(matrix)
        assert log_loss(model.posterior(matrix), (y + 1) / 2) < 0.37  # 1.3 to 1.6 where it is
        assert model.accuracy_[3] < 0.9


def test_a_verdict_that_is_nearly_always_right_is_still_heard_beside_margins():
    y, scores, others, votes = margins_beside_verdicts(0, (0.97,))
    margins = np.concatenate([scores, np.full(others.shape, np.nan)], axis=1).astype(np.float32)
    matrix = VoteMatrix(votes, margins, tuple("abcd"), np.array([f"p{i}" for i in range(len(y))]))
    assert log_loss(LabelModel().fit(matrix).posterior(matrix), (y + 1) / 2) < 0.2  # .35 without it


@pytest.mark.parametrize("third", ["never", "hardly ever", "always the same", "another"])
def test_two_near_copies_are_not_confirmed_by_a_third_voter(third):
    rng = np.random.default_rng(0)
    y = rng.random(4000) < 0.5
    one = np.where((rng.random(len(y)) < 0.62) == y, 0, 1)
    near = np.where(rng.random(len(y)) < 0.05, 1 - one, one)
    last = np.where((rng.random(len(y)) < 0.6) == y, 0, 1)
    last = {
        "never": np.full(len(y), -1),
        "hardly ever": np.where(np.arange(len(y)) < 5, last, -1),
        "always the same": np.zeros(len(y)),
        "another": last,
    }[third]
    matrix = VoteMatrix.of(np.stack([one, near, last], axis=1).astype(np.int8), ["one", "near", "last"])
    model = LabelModel().fit(matrix)
    assert model.learned_.consensus.trust < 0.01
    assert model.posterior(matrix).max() < 0.85
    assert "too few voters vote on the same pairs for anything to be checked" in model.assumption_


@pytest.mark.parametrize(
    ("confounded", "structure", "words"),
    [
        (
            1.0,
            "a confounder",
            "which of two things that margins share is the preference follows from their shape alone",
        ),
        (0.0, "nothing but the preference", "whatever margins share is taken for the preference"),
    ],
)
def test_what_the_direction_in_margins_rests_on_is_said_without_gold(confounded, structure, words):
    y, scores = graded_margins(0, np.ones(2000), confounded=confounded)
    matrix = of_margins(scores)
    model = LabelModel().fit(matrix)
    assert model.structure_ == f"margins that share {structure}"
    assert words in model.assumption_
    gold = np.where(np.arange(len(y)) < 100, (y + 1) / 2, np.nan)
    assert words not in LabelModel().fit(matrix, gold).assumption_


def graded_margins(seed, scale, confounded=0.0):
    """Margins of six reward models, of pairs whose difference is as large as `scale` says."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1.0, 1.0], len(scale))
    shared = confounded * np.outer(rng.normal(size=len(y)), [0.7, 0.5, 0.9, 0.7, 0.3, 0.9])
    signal = np.outer(scale * y, [0.6, 0.6, 0.5, 0.4, 0.5, 0.3])
    return y, signal + shared + rng.normal(size=shared.shape)


def of_margins(scores):
    votes = np.where(scores > 0, 0, 1).astype(np.int8)
    names = tuple(f"v{j}" for j in range(scores.shape[1]))
    return VoteMatrix(votes, scores.astype(np.float32), names, np.array([f"p{i}" for i in range(len(scores))]))


@pytest.mark.parametrize(
    ("scale", "at_most"),  # a logistic regression on all labels has .401 and .375 at most
    [(lambda rng: np.abs(rng.normal(size=2000)) * 1.3, 0.41), (lambda rng: np.exp(rng.normal(size=2000)), 0.39)],
    ids=["normal", "log-normal"],
)
def test_margins_that_grow_with_how_clear_a_pair_is_are_not_taken_for_a_confounder(scale, at_most):
    for seed in range(3):
        y, scores = graded_margins(seed, scale(np.random.default_rng(100 + seed)))
        matrix = of_margins(scores)
        model = LabelModel().fit(matrix)
        assert model.structure_ == "margins that share nothing but the preference; pairs of differing difficulty"
        assert log_loss(model.posterior(matrix), (y + 1) / 2) < at_most


def test_reward_models_that_are_nearly_always_right_are_not_confounded_by_it():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=2000)
        matrix = of_margins(1.5 * x[:, None] + rng.normal(size=(2000, 8)))
        model = LabelModel().fit(matrix)
        assert log_loss(model.posterior(matrix), (np.sign(x) + 1) / 2) < 0.22  # .5 and more where they are


def test_a_judge_of_one_margin_beside_graded_ones_leaves_them_their_differing_difficulty():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    judge = np.where(rng.random(2000) < 0.7, x, -x) > 0
    graded = x[:, None] * [0.8, 0.8, 0.7, 0.6] + rng.normal(size=(2000, 4))
    matrix = of_margins(np.column_stack([np.where(judge, 10.0, -10.0) * (1 - 0.01 * rng.random(2000)), graded]))
    one_size = VoteMatrix(matrix.votes, np.sign(matrix.margins), matrix.names, matrix.pair_ids)
    for votes in (matrix, VoteMatrix(matrix.votes, np.where([True] + [False] * 4, one_size.margins, matrix.margins),
                                     matrix.names, matrix.pair_ids)):  # fmt: skip
        model = LabelModel().fit(votes)
        assert log_loss(model.posterior(votes), (np.sign(x) + 1) / 2) < 0.40
    assert model.learned_.consensus.model.difficulty == "half-normal"
    assert model.structure_ == "margins that share nothing but the preference; pairs of differing difficulty"


def test_rubrics_of_a_few_levels_are_still_modelled_by_their_margins():
    """Six judges of integer margins; nothing here is of one size."""
    rng = np.random.default_rng(3)
    y, shared = rng.choice([-1.0, 1.0], 600), rng.normal(size=600)
    scores = np.outer(y, [0.6, 0.6, 0.5, 0.4, 0.5, 0.3]) + np.outer(shared, [0.7, 0.5, 0.9, 0.7, 0.3, 0.9])
    scores = np.clip(np.round(scores + rng.normal(size=scores.shape)), -5, 5)
    votes = np.where(scores > 0, 0, np.where(scores < 0, 1, -1)).astype(np.int8)
    margins = np.where(scores == 0, np.nan, scores).astype(np.float32)
    matrix = VoteMatrix(votes, margins, tuple("abcdef"), np.array([f"p{i}" for i in range(600)]))
    model = LabelModel().fit(matrix)
    assert model.structure_.startswith("margins that share")
    assert log_loss(model.posterior(matrix), (y + 1) / 2) < 0.65  # .8 as votes that err independently


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_judge_that_often_says_its_largest_margin_is_not_taken_for_the_preference(share):
    rng = np.random.default_rng(0)
    y, scores, _, _ = margins_beside_verdicts(0, (0.7,))
    right = np.where(rng.random(len(y)) < 0.7, y, -y)
    size = np.where(rng.random(len(y)) < share, 10.0, 10 * rng.random(len(y)))
    matrix = of_margins(np.column_stack([scores, right * size]))
    model = LabelModel().fit(matrix)
    assert log_loss(model.posterior(matrix), (y + 1) / 2) < 0.37  # 1.0 and more where it is
    assert model.accuracy_[3] < 0.9


@pytest.mark.parametrize("seed", [7, 11])
def test_judges_whose_margins_are_log_odds_are_believed_and_not_their_opposite(seed):
    """Margins saturate, so that they say little more than the vote: these seeds ended with every voter wrong."""
    rng = np.random.default_rng(seed)
    y = rng.choice([-1.0, 1.0], 1500)
    seen = np.outer(y, [0.6, 0.6, 0.5, 0.6]) + rng.normal(size=(1500, 4))
    matrix = of_margins(6 * np.tanh(2 * seen) * (1 + 0.05 * rng.normal(size=seen.shape)))
    model = LabelModel().fit(matrix)
    assert log_loss(model.posterior(matrix), (y + 1) / 2) < 0.37
    assert (model.accuracy_ > 0.6).all()


def test_functions_that_seldom_fire_check_each_other_if_there_are_many():
    """Twenty of 5 % coverage: any two meet on a quarter of a per cent of the pairs."""
    rng = np.random.default_rng(0)
    y = rng.random(10_000) < 0.5
    right = [np.where((rng.random(len(y)) < share) == y, 0, 1) for share in np.linspace(0.55, 0.9, 20)]
    votes = np.stack([np.where(rng.random(len(y)) < 0.05, said, -1) for said in right], axis=1)
    model = LabelModel().fit(VoteMatrix.of(votes, [f"v{j:02}" for j in range(20)]))
    assert model.learned_.consensus.trust > 0.9
    assert "too few voters" not in model.assumption_
