"""Comparing label models: nobody is judged on gold it saw, failures become rows, differences are paired."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from labeling.compare import BEST_VOTER, SHARE_OF_VOTES, BestVoter, Comparison, compare
from labeling.dawid_skene import OneCoin
from labeling.errors import DataError, GoldError, VotesError, WeakprefWarning
from labeling.majority import MajorityVote
from labeling.votes import VoteMatrix

FIGURES = ["accuracy", "log_loss", "ece", "brier", "behind"]


def simulate(n=120, accuracies=(0.9, 0.7, 0.6), n_groups=12, labelled=72, coverage=0.9, seed=0):
    """Independent voters; gold on the first rows; few groups, so that intervals are quick."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 2, n).astype(float)
    right = rng.random((n, len(accuracies))) < np.array(accuracies)
    votes = np.where(right, 1 - gold[:, None], gold[:, None]).astype(np.int8)
    votes[rng.random(votes.shape) > coverage] = -1
    names = tuple(f"v{j}" for j in range(len(accuracies)))
    ids, groups = np.array([f"p{i}" for i in range(n)]), np.array([f"g{i % n_groups}" for i in range(n)])
    labels = np.where(np.arange(n) < labelled, gold, np.nan)
    return VoteMatrix(votes, np.full(votes.shape, np.nan, np.float32), names, ids, groups), labels


class Memory:
    """Knows the gold of every group it was fitted on, and nothing else: posterior 0.5 for other groups."""

    def fit(self, votes, gold=None):
        self.seen = set(votes.groups[~np.isnan(gold)])
        self.rows = len(votes)
        return self

    def posterior(self, votes):
        return np.where(np.isin(votes.groups, list(self.seen)), 0.999, 0.5)


class Refuses:
    """Raises whatever it is given."""

    def __init__(self, error):
        self.error = error

    def fit(self, votes, gold=None):
        raise self.error


class Warns(MajorityVote):
    """Warns of something at every fit."""

    def __init__(self, category):
        self.category = category

    def fit(self, votes, gold=None):
        warnings.warn("it did not converge", self.category, stacklevel=2)
        return self


def test_no_model_is_judged_on_gold_of_a_group_it_saw():
    votes, gold = simulate()
    assert compare(votes, gold, {"memory": Memory}).loc["memory", "log_loss"] == pytest.approx(np.log(2))


def test_every_fit_sees_all_votes_and_the_gold_of_the_other_folds():
    votes, gold = simulate()
    fits = []

    class Spy(MajorityVote):
        def fit(self, votes, gold=None):
            fits.append((len(votes), int((~np.isnan(gold)).sum())))
            return self

    compare(votes, gold, {"spy": Spy}, n_folds=4)
    assert [n for n, _ in fits] == [120] * 4
    assert sum(72 - n_gold for _, n_gold in fits) == 72


@pytest.mark.parametrize("ids", [True, False])
def test_pairs_without_groups_are_their_own(ids):
    votes, gold = simulate()
    alone = VoteMatrix(votes.votes, votes.margins, votes.names, votes.pair_ids)
    alone = alone if ids else VoteMatrix.of(votes.votes, votes.names)
    table = compare(alone, np.where(np.arange(120) < 16, gold, np.nan), {})
    assert table[FIGURES].notna().all(axis=None)


def test_the_best_comes_first_and_two_baselines_are_always_there():
    votes, gold = simulate()
    table = compare(votes, gold, {"one-coin": OneCoin, "memory": Memory})
    assert set(table.index) == {"one-coin", "memory", SHARE_OF_VOTES, BEST_VOTER}
    assert table["log_loss"].is_monotonic_increasing
    assert table["behind"].iloc[0] == 0
    assert table["behind"].tolist() == pytest.approx((table["log_loss"] - table["log_loss"].iloc[0]).tolist())
    for name in FIGURES:
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_a_difference_is_measured_on_the_same_pairs():
    class Nearly(BestVoter):
        def posterior(self, votes):
            return 0.5 + (super().posterior(votes) - 0.5) * 0.98

    votes, gold = simulate()
    table = compare(votes, gold, {"nearly": Nearly})
    row = table.loc["nearly"] if table.index[0] == BEST_VOTER else table.loc[BEST_VOTER]
    assert row["behind_high"] - row["behind_low"] < 0.1 * (row["log_loss_high"] - row["log_loss_low"])


def test_the_interval_of_an_ece_of_zero_starts_at_zero_though_every_draw_is_above():
    confidence, place = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], 20), np.tile(np.arange(20), 5)
    gold = np.where(place < np.round(20 * confidence), np.arange(100) % 2, 1 - np.arange(100) % 2).astype(float)
    p_a = np.where(np.arange(100) % 2 == 1, confidence, 1 - confidence)
    votes = VoteMatrix(
        np.zeros((100, 1), np.int8), np.full((100, 1), np.nan, np.float32), ("x",), np.arange(100).astype(str)
    )

    class Told(MajorityVote):
        def posterior(self, votes):
            return p_a[votes.pair_ids.astype(int)]

    row = compare(votes, gold, {"told": Told}).loc["told"]
    assert row["ece"] == pytest.approx(0, abs=1e-12)
    assert row["ece_low"] <= row["ece"] < row["ece_high"]


def test_a_model_that_refuses_this_data_gives_its_reason_instead_of_figures():
    votes, gold = simulate()
    refusing = {"gold": lambda: Refuses(GoldError("too\n few")), "voters": lambda: Refuses(VotesError("3 or more"))}
    table = compare(votes, gold, refusing)
    assert table.index[-2:].tolist() == ["gold", "voters"]
    assert table["note"][-2:].tolist() == ["too few", "3 or more"]
    assert table.loc["gold", [*FIGURES, "seconds"]].isna().all()


def test_a_model_whose_posterior_is_no_probability_gives_no_figures():
    class Broken(MajorityVote):
        def posterior(self, votes):
            return np.full(len(votes), np.nan)

    votes, gold = simulate()
    assert "must be a probability" in compare(votes, gold, {"broken": Broken}).loc["broken", "note"]


def test_other_errors_are_not_hidden():
    votes, gold = simulate()
    with pytest.raises(ZeroDivisionError):
        compare(votes, gold, {"bug": lambda: Refuses(ZeroDivisionError())})


def test_what_a_model_warns_of_is_noted_once():
    votes, gold = simulate()
    assert compare(votes, gold, {"w": lambda: Warns(WeakprefWarning)}).loc["w", "note"] == "it did not converge"


def test_warnings_of_others_pass():
    votes, gold = simulate()
    with pytest.warns(RuntimeWarning, match="did not converge"):
        compare(votes, gold, {"w": lambda: Warns(RuntimeWarning)})


@pytest.mark.parametrize("change", ["rows", "voters", "responses"])
def test_the_order_of_rows_voters_and_responses_does_not_matter(change):
    votes, gold = simulate()
    rows = np.random.default_rng(1).permutation(len(votes))
    turned = {
        "rows": (votes.take(rows), gold[rows]),
        "voters": (votes.select(votes.names[::-1]), gold),
        "responses": (votes.swap(), 1 - gold),
    }[change]
    one, other = compare(votes, gold, {}), compare(*turned, {})
    assert one.index.tolist() == other.index.tolist()
    np.testing.assert_allclose(one[FIGURES].to_numpy(), other[FIGURES].to_numpy(), atol=1e-12)


def test_the_best_voter_counts_an_abstention_as_half_right():
    signs = np.array([[1, 1, 1]] + [[1, 1, 0]] * 5 + [[1, 0, 0]] * 2 + [[-1, 0, 0]] * 2)
    votes = VoteMatrix(
        np.where(signs == 0, -1, (1 - signs) // 2).astype(np.int8), np.full(signs.shape, np.nan, np.float32),
        ("often", "rarely", "once"), np.arange(10).astype(str),
    )  # fmt: skip
    gold = np.array([1.0] * 6 + [0.0, 0.5] + [1.0, np.nan])
    model = BestVoter().fit(votes, gold)  # often: 6 right, 2 wrong; rarely: 6 right; once: 1 right
    assert model.name_ == "rarely"
    assert model.confidence_ == pytest.approx(7 / 8)
    assert model.posterior(votes).tolist() == [7 / 8] * 6 + [0.5] * 4
    assert BestVoter().fit(votes.select(["often", "once"]), gold).name_ == "often"


def test_the_best_voter_is_never_surer_than_it_was_right_and_never_turned():
    votes, gold = simulate(accuracies=(0.1, 0.2))
    p_a = BestVoter().fit(votes, gold).posterior(votes)
    assert (p_a == 0.5).all()


def test_the_best_voter_is_named_and_chosen_on_other_folds():
    votes, gold = simulate()
    assert compare(votes, gold, {}).loc[BEST_VOTER, "note"] == "on all gold it is v0"


def test_a_comparison_prints_intervals_and_notes():
    votes, gold = simulate()
    table = compare(votes, gold, {"none": lambda: Refuses(VotesError("no such voters"))})
    printed = str(table)
    assert isinstance(table, Comparison)
    best = table.iloc[0]
    assert f"{best['accuracy']:.3f} [{best['accuracy_low']:.3f}, {best['accuracy_high']:.3f}]" in printed
    assert "best " in printed
    assert printed.splitlines()[-1] == "none: no such voters"


@pytest.mark.parametrize(
    ("labelled", "n_groups", "words"),
    [
        (0, 12, "no gold label: .*label some pairs .* fit LabelModel"),
        (9, 12, r"9 gold labels are no tie, expected 10 or more to compare on; label some pairs"),
        (72, 1, "all 72 gold pairs are of the group g0, expected 2 groups or more"),
    ],
)
def test_too_little_gold_is_refused_with_the_way_out(labelled, n_groups, words):
    votes, gold = simulate(labelled=labelled, n_groups=n_groups)
    with pytest.raises(GoldError, match=words):
        compare(votes, gold, {})


def test_gold_none_is_no_gold():
    votes, _ = simulate()
    with pytest.raises(GoldError, match="no gold label"):
        compare(votes, None, {})


def test_ties_do_not_count_as_gold_to_compare_on():
    votes, gold = simulate()
    with pytest.raises(GoldError, match="9 gold labels are no tie"):
        compare(votes, np.where(np.arange(120) < 9, gold, np.where(np.isnan(gold), np.nan, 0.5)), {})


def test_one_fold_is_no_cross_fitting():
    votes, gold = simulate()
    with pytest.raises(DataError, match="n_folds is 1, expected 2 or more"):
        compare(votes, gold, {}, n_folds=1)


def test_gold_of_one_class_in_all_but_one_fold_still_compares_the_baselines():
    votes, gold = simulate()
    lonely = np.where(np.isnan(gold), np.nan, 1.0)
    lonely[0] = 0.0
    table = compare(votes, lonely, {"one-coin": OneCoin})
    assert table.loc[[SHARE_OF_VOTES, BEST_VOTER], "log_loss"].notna().all()
    assert "gold labels prefer response A" in table.loc["one-coin", "note"]
