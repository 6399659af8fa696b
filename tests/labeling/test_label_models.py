"""One suite over all label models, and what only `LabelModel` promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.errors import GoldError, VotesError, WeakprefWarning
from labeling.label_model import LabelModel
from labeling.majority import MajorityVote
from labeling.metrics import accuracy, ece, log_loss
from labeling.sample import MAX_MARGIN_ROWS, MAX_ROWS, Collector
from labeling.snorkel_model import SnorkelLabelModel
from labeling.votes import VoteMatrix, write_votes

MODELS = [MajorityVote, SnorkelLabelModel, LabelModel]


def simulate(n=2000, accuracies=(0.8, 0.7, 0.65, 0.6, 0.5), coverage=0.8, margins=False, seed=0):
    """Voters independent given the preference; with margins, a voter leans further when it is right."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n).astype(float)
    m = len(accuracies)
    right = rng.random((n, m)) < np.array(accuracies)
    vote = np.where(right, 1 - gold[:, None], gold[:, None]).astype(np.int8)
    size = np.where(right, rng.gamma(4, 1, (n, m)), rng.gamma(2, 1, (n, m))).astype(np.float32)
    margin = np.where(vote == 0, size, -size).astype(np.float32)
    silent = rng.random((n, m)) > coverage
    vote[silent] = -1
    margin[silent] = np.nan
    if not margins:
        margin[:] = np.nan
    groups = np.array([f"g{i // 4}" for i in range(n)])
    ids = np.array([f"p{i}" for i in range(n)])
    return VoteMatrix(vote, margin, tuple(f"v{j}" for j in range(m)), ids, groups), gold


def some_gold(gold, n_gold, seed=0):
    labels = np.full(len(gold), np.nan)
    rows = np.random.default_rng(seed).choice(len(gold), n_gold, replace=False)
    labels[rows] = gold[rows]
    return labels


@pytest.mark.parametrize("model", MODELS)
def test_the_posterior_is_a_probability_for_every_row(model):
    votes, gold = simulate(500)
    p_a = model().fit(votes, some_gold(gold, 50)).posterior(votes)
    assert p_a.shape == (500,)
    assert p_a.dtype == np.float64
    assert ((p_a >= 0) & (p_a <= 1)).all()


@pytest.mark.parametrize("model", MODELS)
def test_where_nobody_votes_the_posterior_is_one_half(model):
    votes, _ = simulate(500)
    margins = np.ones_like(votes.margins)  # a margin too small to vote on
    silent = VoteMatrix(np.full_like(votes.votes, -1), margins, votes.names, votes.pair_ids)
    assert (model().fit(votes).posterior(silent) == 0.5).all()


@pytest.mark.parametrize("model", MODELS)
def test_voters_better_than_chance_beat_chance_without_gold(model):
    votes, gold = simulate(2000)
    assert accuracy(model().fit(votes).posterior(votes), gold) > 0.7


@pytest.mark.parametrize("model", MODELS)
def test_fitting_twice_gives_the_same_posterior_to_the_last_bit(model):
    votes, gold = simulate(500)
    labels = some_gold(gold, 100)
    assert (model().fit(votes, labels).posterior(votes) == model().fit(votes, labels).posterior(votes)).all()


@pytest.mark.parametrize("model", [MajorityVote, LabelModel])
@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("n_gold", [0, 60])
def test_swapping_the_responses_mirrors_the_posterior_exactly(model, margins, n_gold):
    votes, gold = simulate(400, margins=margins)
    labels = some_gold(gold, n_gold)
    p_a = model().fit(votes, labels).posterior(votes)
    swapped = model().fit(votes.swap(), 1 - labels).posterior(votes.swap())
    assert (swapped == 1 - p_a).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n_gold=st.integers(0, 40), soft=st.booleans(), grouped=st.booleans())
def test_swapping_any_part_of_the_pairs_mirrors_just_those(seed, n_gold, soft, grouped):
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
    seed, margins, leaning, n_gold, soft, few
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


def test_gold_turns_a_voter_that_is_worse_than_chance():
    votes, gold = simulate(2000, accuracies=(0.2, 0.6, 0.55))
    model = LabelModel().fit(votes, some_gold(gold, 150))
    assert model.weights_[0] < -0.5
    assert accuracy(model.posterior(votes), gold) > 0.68


def test_margins_say_more_than_votes():
    votes, gold = simulate(4000, accuracies=(0.65, 0.65, 0.65), margins=True)
    bare = VoteMatrix(votes.votes, np.full_like(votes.margins, np.nan), votes.names, votes.pair_ids, votes.groups)
    labels = some_gold(gold, 300)
    with_margins = log_loss(LabelModel().fit(votes, labels).posterior(votes), gold)
    assert with_margins < log_loss(LabelModel().fit(bare, labels).posterior(bare), gold) - 0.02


@pytest.mark.parametrize("n_gold", [200, 1000])
def test_with_gold_the_posterior_is_calibrated_on_other_groups(n_gold):
    gaps = []
    for seed in range(5):
        votes, gold = simulate(6000, seed=seed)
        train, test = np.arange(3000), np.arange(3000, 6000)
        model = LabelModel().fit(votes.take(train), some_gold(gold[train], n_gold, seed))
        gaps.append(ece(model.posterior(votes.take(test)), gold[test]))
    assert np.median(gaps) < 0.04


def test_a_voter_repeated_eight_times_makes_nobody_surer_when_gold_says_so():
    votes, gold = simulate(3000, accuracies=(0.62, 0.7, 0.7))
    copies = VoteMatrix(
        np.repeat(votes.votes, [8, 1, 1], axis=1), np.repeat(votes.margins, [8, 1, 1], axis=1),
        tuple(f"v{j}" for j in range(10)), votes.pair_ids, votes.groups,
    )  # fmt: skip
    labels = some_gold(gold, 200)
    assert ece(LabelModel().fit(copies, labels).posterior(copies), gold) < 0.06
    assert ece(SnorkelLabelModel().fit(copies).posterior(copies), gold) > 0.2


@pytest.mark.parametrize(("n_gold", "bound"), [(0, 10 / 11), (5, 15 / 16), (50, 60 / 61)])
def test_no_posterior_is_surer_than_gold_and_agreement_vouch_for(n_gold, bound):
    votes, gold = simulate(52, accuracies=(0.8,) * 4, coverage=1)  # so few pairs that agreement vouches for nothing
    model = LabelModel().fit(votes, some_gold(gold, n_gold))
    p_a = model.posterior(votes)
    assert np.maximum(p_a, 1 - p_a).max() <= bound
    assert model.max_logit_ == pytest.approx(np.log(bound / (1 - bound)))


def test_a_useless_voter_gets_next_to_no_weight_with_gold():
    votes, gold = simulate(3000, accuracies=(0.8, 0.7, 0.5))
    model = LabelModel().fit(votes, some_gold(gold, 500))
    assert abs(model.weights_[2]) < 0.25 < model.weights_[1]


def test_the_calibration_reports_cross_fitted_quality_close_to_the_truth():
    votes, gold = simulate(5000)
    model = LabelModel().fit(votes, some_gold(gold, 400))
    hidden = np.isnan(some_gold(gold, 400))
    p_a = model.posterior(votes)[hidden]
    assert model.calibration_ is not None
    assert model.calibration_.n_gold == 400
    assert model.calibration_.accuracy == pytest.approx(accuracy(p_a, gold[hidden]), abs=0.05)
    assert model.calibration_.log_loss == pytest.approx(log_loss(p_a, gold[hidden]), abs=0.05)


def test_gold_of_one_group_only_is_used_but_not_called_calibrated():
    votes, _ = simulate(400)
    labels = np.full(400, np.nan)
    labels[:8] = [0, 1, 0, 1, 0, 1, 0, 1]
    one = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids, np.full(400, "same"))
    assert LabelModel().fit(one, labels).calibration_ is None


def test_gold_ties_count_as_one_half():
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
def test_bad_gold_is_refused_with_the_way_out(gold, words):
    votes, _ = simulate(4)
    with pytest.raises(GoldError, match=words):
        LabelModel().fit(votes, np.array(gold, dtype=float))


def test_no_gold_may_be_none_or_all_nan():
    votes, _ = simulate(300)
    a, b = LabelModel().fit(votes), LabelModel().fit(votes, np.full(300, np.nan))
    assert (a.posterior(votes) == b.posterior(votes)).all()
    assert a.calibration_ is None


def test_other_voters_than_those_fitted_are_refused():
    votes, _ = simulate(300)
    for model in (LabelModel(), SnorkelLabelModel()):
        with pytest.raises(VotesError, match=r"fitted on the voters v0, v1.*found v1, v0"):
            model.fit(votes).posterior(votes.select(["v1", "v0", "v2", "v3", "v4"]))


def test_no_rows_or_no_voters_is_nothing_to_learn_from():
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="0 rows and 5 voters; apply voters"):
        LabelModel().fit(votes.take(np.array([], dtype=int)))


def test_snorkel_needs_three_voters():
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="3 voters or more, found 2; use LabelModel"):
        SnorkelLabelModel().fit(votes.select(["v0", "v1"]))


def test_the_snorkel_wrapper_gives_snorkels_own_probabilities():
    from snorkel.labeling.model import LabelModel as Snorkel

    votes, _ = simulate(500, coverage=1)
    theirs = Snorkel(cardinality=2, verbose=False)
    theirs.fit(
        votes.to_snorkel(), class_balance=[0.5, 0.5], n_epochs=100, lr=0.01, l2=0.5, seed=123, progress_bar=False
    )
    ours = SnorkelLabelModel().fit(votes).posterior(votes)
    np.testing.assert_array_equal(ours, theirs.predict_proba(votes.to_snorkel())[:, 0])


def test_fitting_snorkel_leaves_the_global_generators_alone():
    votes, _ = simulate(50)
    np.random.seed(7)
    SnorkelLabelModel().fit(votes)
    after = np.random.random()
    np.random.seed(7)
    assert after == np.random.random()


def test_a_posterior_before_fitting_says_what_to_do():
    votes, _ = simulate(10)
    with pytest.raises(VotesError, match="call fit"):
        LabelModel().posterior(votes)


def test_one_voter_is_enough():
    votes, gold = simulate(500)
    p_a = LabelModel().fit(votes.select(["v0"]), some_gold(gold, 100)).posterior(votes.select(["v0"]))
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


def test_a_saved_model_gives_the_same_posterior_to_the_last_bit(tmp_path):
    for margins in (False, True):
        votes, gold = simulate(600, margins=margins)
        model = LabelModel().fit(votes, some_gold(gold, 60))
        model.save(tmp_path / "model.json")
        again = LabelModel.load(tmp_path / "model.json")
        assert np.array_equal(again.posterior(votes), model.posterior(votes))
        assert again.calibration_.figures() == model.calibration_.figures()
        assert again.names_ == model.names_
        assert again.structure_ == model.structure_
        for name in ("accuracy_", "weights_", "dependence_"):
            assert np.array_equal(getattr(again, name), getattr(model, name))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    votes, gold = simulate(300)
    for name in ("a", "b"):
        LabelModel().fit(votes, some_gold(gold, 40)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_saved_model_is_refused_by_name(tmp_path):
    path = tmp_path / "model.json"
    with pytest.raises(VotesError, match=r"model.json does not exist; write it with LabelModel.save"):
        LabelModel.load(path)
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "model": {"names_": 3}}'):
        path.write_text(text)
        with pytest.raises(VotesError, match="is no saved label model"):
            LabelModel.load(path)
    path.write_text('{"format": 99, "model": {}}')
    with pytest.raises(VotesError, match="has format 99, expected 1; fit the model again"):
        LabelModel.load(path)
    with pytest.raises(VotesError, match="not fitted"):
        LabelModel().save(path)


def parts(votes, size):
    return [votes.take(np.arange(start, min(start + size, len(votes)))) for start in range(0, len(votes), size)]


@pytest.mark.parametrize("margins", [False, True])
def test_a_stream_of_batches_gives_what_the_whole_gives(margins, tmp_path):
    votes, gold = simulate(900, margins=margins)
    labels = some_gold(gold, 80)
    whole = LabelModel().fit(votes, labels).posterior(votes)
    assert np.array_equal(LabelModel().fit(iter(parts(votes, 250)), labels).posterior(votes), whole)
    write_votes(tmp_path / "votes.parquet", votes, labels)
    assert np.array_equal(LabelModel().fit(tmp_path / "votes.parquet").posterior(votes), whole)


def test_a_long_stream_is_learned_from_in_bounded_memory():
    kept = []
    collector = Collector()
    for seed in range(40):
        votes, _ = simulate(5000, accuracies=(0.8,) * 12, margins=seed % 2 == 0, seed=seed)
        collector.add(votes)
        kept.append(len(collector.sample().counts))
    assert max(kept) <= MAX_ROWS + MAX_MARGIN_ROWS


@pytest.mark.parametrize(
    ("batches", "gold", "error", "words"),
    [
        ([], None, VotesError, "nothing to learn from: no batch of votes holds a row"),
        ([10, 10], [1.0, 0.0], GoldError, r"gold has shape \(2,\), expected one label for each"),
        ([10], [1.0] * 11, GoldError, r"gold has shape \(11,\), expected \(10,\)"),
    ],
)
def test_a_stream_that_cannot_be_learned_from_is_refused(batches, gold, error, words):
    with pytest.raises(error, match=words):
        LabelModel().fit([simulate(n)[0] for n in batches], gold)


def test_batches_of_other_voters_are_refused():
    votes, _ = simulate(50)
    with pytest.raises(VotesError, match=r"fitted on the voters v0.*found v1"):
        LabelModel().fit([votes, votes.select(["v1", "v0", "v2", "v3", "v4"])])


def learned_voter(votes, p_a, seed=0):
    """A reward model trained on the posterior: its margins follow it, with some noise."""
    z = np.log(p_a / (1 - p_a)) + np.random.default_rng(seed).normal(0, 0.3, len(p_a))
    return VoteMatrix(
        np.column_stack([votes.votes, np.where(z > 0, 0, 1)]).astype(np.int8),
        np.column_stack([votes.margins, z]).astype(np.float32),
        (*votes.names, "rm"), votes.pair_ids, votes.groups,
    )  # fmt: skip


@pytest.mark.parametrize("n_gold", [0, 200])
def test_a_voter_trained_on_the_models_own_labels_makes_it_no_surer(n_gold):
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
    [(["nobody"], "self_labels names nobody, but the voters are v0"), (["v0", "v1", "v2", "v3", "v4"], "every voter")],
)
def test_self_labels_must_name_some_voters_and_leave_others(named, words):
    with pytest.raises(VotesError, match=words):
        LabelModel(self_labels=named).fit(simulate(50)[0])


@pytest.mark.parametrize("kind", ["constant", "random"])
@pytest.mark.parametrize("n_gold", [0, 100])
def test_a_voter_that_says_nothing_changes_no_posterior_by_more_than_noise(kind, n_gold):
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


def test_nobody_voting_at_all_leaves_everything_at_one_half():
    votes, gold = simulate(100)
    silent = VoteMatrix(np.full_like(votes.votes, -1), votes.margins, votes.names, votes.pair_ids)
    assert (LabelModel().fit(silent).posterior(silent) == 0.5).all()
    assert (LabelModel().fit(silent, some_gold(gold, 20)).posterior(silent) == 0.5).all()


def test_a_fit_that_did_not_converge_warns_by_name(monkeypatch):
    monkeypatch.setattr("labeling.latent_class_fit.MAX_STEPS", 1)
    with pytest.warns(WeakprefWarning, match="LabelModel: the likelihood of the votes was still rising"):
        LabelModel().fit(simulate(500)[0])


def test_the_model_says_what_it_rests_on():
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


def test_silent_constant_and_leaning_voters_together_break_nothing():
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


def test_weights_do_not_depend_on_which_side_a_voter_votes_for():
    votes, _ = simulate(4000)
    rng = np.random.default_rng(1)
    _, gold = simulate(4000)
    only_a = np.where((gold == 1) & (rng.random(4000) < 0.6), 0, -1)
    only_b = np.where((gold == 0) & (rng.random(4000) < 0.6), 1, -1)
    both = with_columns(votes, [only_a, only_b])
    weights = LabelModel().fit(both).weights_
    assert weights[-2:].min() > 0.5
    assert np.array_equal(LabelModel().fit(both.swap()).weights_, weights)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
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


def test_few_gold_pairs_are_called_too_few_and_leave_wide_intervals():
    votes, gold = simulate(2000, accuracies=(0.9, 0.9, 0.9, 0.9, 0.9), coverage=1)
    free = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids)
    model = LabelModel().fit(free, some_gold(gold, 12))
    figures = model.calibration_.figures()
    assert "12 gold pairs, too few" in model.assumption_
    assert 0 <= figures["accuracy_low"] < 0.9
    assert figures["accuracy_high"] <= 1
    assert figures["log_loss_low"] >= 0
    assert figures["ece_low"] >= 0


def test_ties_and_pairs_nobody_votes_on_make_the_model_no_surer():
    votes, gold = simulate(1000)
    labels = some_gold(gold, 40)
    more = np.where(np.isnan(labels), 0.5, labels)
    assert LabelModel().fit(votes, more).max_logit_ == LabelModel().fit(votes, labels).max_logit_
