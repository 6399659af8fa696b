"""Scores of candidates: how alike two of them rank, what pairs are labelled with for that, and what is counted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.pair_candidates import Pairing, pair_candidates
from augment.self_iteration import _write_pairs
from augment.self_reward import SelfReward
from augment.self_scores import agreement, histogram, rankings, soft_label
from labeling.consistency import RATES
from labeling.errors import WeakprefWarning
from labeling.pairs import prompt_id

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(2)]


def test_a_histogram_counts_every_score_once() -> None:
    assert sum(histogram(np.array([0.0, 5.0, 2.5, 1.49, np.nan])).values()) == 4


def test_agreement_counts_a_response_once_and_leaves_out_what_has_no_score(candidates) -> None:
    table = candidates(["a", "b", "a", "", "c"])
    j = np.array([1.0, 2, 1, np.nan, 3] * 2)
    k = np.array([1.0, 2, 1, np.nan, 3, 3.0, 2, 3, np.nan, 1])
    rates = agreement(table, j, k)
    assert {kind: rate.rates.tolist() for kind, rate in rates.items()} == {kind: [1.0, 0.0] for kind in RATES}
    assert agreement(candidates(["a", "a"]), np.arange(4.0), np.arange(4.0)) == {}


def test_a_response_drawn_twice_is_ranked_by_its_mean_as_it_is_in_pairs(candidates) -> None:
    table = candidates(["a", "b", "c", "a"])
    j = np.array([9.0, 6, 0, 1] * 2)  # a has 5 in the mean
    assert rankings(table, j[None])[0].values.tolist() == [5, 6, 0] * 2
    pairs = pair_candidates(table, j, Pairing("best-worst")).table.to_pylist()
    assert [{row["response_a"], row["response_b"]} for row in pairs] == [{"b", "c"}] * 2


def test_one_long_response_does_not_make_the_rankings_of_all_others_long(candidates) -> None:
    table = candidates(["a", "b" * 100_000, "a"])
    first, _ = rankings(table, np.array([[1.0, 2, 1] * 2] * 2))
    assert first.candidates.tolist() == [0, 1, 0, 1]
    assert first.candidates.nbytes + first.prompt_ids.nbytes < 1_000


def test_each_pair_is_labelled_with_the_rate_of_its_own_prompt_whatever_was_skipped(candidates) -> None:
    table = candidates(["a", "b", "c"])
    rates = agreement(table, np.array([1.0, 2, 3] * 2), np.array([1.0, 2, 3, 2, 1, 3]))["kendall"]
    first, second = (prompt_id(prompt) for prompt in PROMPTS[:2])
    np.testing.assert_allclose(soft_label(rates, np.array([second]), per_prompt=True)[0], [2 / 3])
    np.testing.assert_allclose(soft_label(rates, np.array([second, first]), per_prompt=True)[0], [2 / 3, 1])
    np.testing.assert_allclose(soft_label(rates, np.array([second, first]), per_prompt=False)[0], [5 / 6, 5 / 6])


def test_a_rate_below_a_half_is_raised_to_it_with_a_warning(candidates) -> None:
    table = candidates(["a", "b", "c"])
    rates = agreement(table, np.array([1.0, 2, 3] * 2), np.array([3.0, 2, 1] * 2))["kendall"]
    with pytest.warns(WeakprefWarning, match="below 0.5"):
        q, n_raised = soft_label(rates, rates.prompt_ids, per_prompt=False)
    assert (q.tolist(), n_raised) == ([0.5, 0.5], 2)


def test_pairs_whose_rate_was_raised_are_counted_beside_them(tmp_path, candidates) -> None:
    table = candidates(["a", "b", "c"])
    pq.write_table(table, tmp_path / "candidates.parquet")
    scores = pa.table({"score": [1.0, 2, 3] * 2, "score_before": [1.0, 2, 3, 3, 2, 1]})
    pq.write_table(scores, tmp_path / "scores.parquet")
    with pytest.warns(WeakprefWarning, match="below 0.5 in 1 of 2 cases"):
        _write_pairs(tmp_path, SelfReward("cream", per_prompt=True))
    facts = json.loads((tmp_path / "pairs.json").read_text())
    assert (facts["n_pairs"], facts["n_clamped"], facts["q"]) == (2, 1, 0.75)
