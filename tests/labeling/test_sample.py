"""What is kept of votes to learn from: every row counted, or shares of them; no order or exchange leaves a trace."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling import sample as sample_module
from labeling.sample import NOTHING, Collector, Sample, even_draws, first_sign
from labeling.vote_rows import VoteRows
from labeling.votes import VoteMatrix

NO_ROWS = np.array([], int)


def drawn(n=400, m=5, seed=0, margins=False, lean=0.5):
    """Votes of m voters, named out of order, on n pairs; the share `lean` of the votes is for A."""
    rng = np.random.default_rng(seed)
    votes = np.where(rng.random((n, m)) < lean, 0, 1).astype(np.int8)
    votes[rng.random((n, m)) < 0.4] = -1
    sizes = rng.gamma(2, 1, (n, m)).astype(np.float32) * np.where(votes == 0, 1, -1).astype(np.float32)
    sizes = np.where((votes >= 0) & margins, sizes, np.float32(np.nan))
    return VoteMatrix(votes, sizes, tuple(f"v{j}" for j in rng.permutation(m)), np.arange(n).astype(str))


def collected(*batches):
    collector = Collector()
    for votes in batches:
        collector.add(votes)
    return collector.sample()


def parts(votes, size):
    return [votes.take(np.arange(start, min(start + size, len(votes)))) for start in range(0, len(votes), size)]


def counted(sample):
    """How often each row of signs and margins stands in a sample, as it was before A and B were exchanged."""
    way = -1 if sample.exchanged else 1
    rows = zip((way * sample.signs).tolist(), np.nan_to_num(way * sample.margins).tolist(), strict=True)
    return sum((Counter({(*s, *g): c}) for (s, g), c in zip(rows, sample.counts, strict=True)), Counter())


def as_given(votes):
    order = np.argsort(votes.names)
    margins = np.nan_to_num(votes.margins[:, order]).tolist()
    return Counter((*s, *g) for s, g in zip(votes.signs[:, order].tolist(), margins, strict=True))


def same(one, other):
    fields = ("signs", "margins", "counts")
    return all(np.array_equal(getattr(one, f), getattr(other, f), equal_nan=f == "margins") for f in fields)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_even_draws_fall_on_a_row_as_often_as_its_count_says(counts, size):
    chosen, hits = even_draws(np.array(counts, float), size)
    expected = np.zeros(len(counts))
    expected[chosen] = hits
    assert hits.sum() == size
    assert np.abs(expected - size * np.array(counts) / sum(counts)).max() < 1 + 1e-9


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("lean", [0.3, 0.5, 0.7])
def test_few_rows_are_all_kept_and_counted(margins, lean):
    votes = drawn(margins=margins, lean=lean)
    sample = collected(votes)
    assert counted(sample) == as_given(votes)
    assert sample.counts.sum() == 400


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("limits", [10**6, 50], ids=["all", "thinned"])
@given(seed=st.integers(0, 10**6))
def test_no_order_of_rows_or_voters_and_no_exchange_leaves_a_trace(margins, limits, seed):
    votes = drawn(200, margins=margins, seed=seed)
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_ROWS", "MAX_MARGIN_ROWS", "MAX_PATTERNS"):
            patch.setattr(sample_module, name, limits)
        kept = collected(votes)
        shuffled = votes.take(rng.permutation(200)).select([votes.names[j] for j in rng.permutation(5)])
        assert same(collected(shuffled), kept)
        exchanged = collected(votes.swap())
    assert same(exchanged, kept)
    net = kept.counts @ kept.signs
    assert exchanged.exchanged != kept.exchanged or not net.any()


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("size", [7, 150, 400])
def test_a_stream_in_any_batches_is_the_whole(margins, size):
    votes = drawn(margins=margins)
    assert same(collected(*parts(votes, size)), collected(votes))


def test_a_stream_of_which_some_batches_have_margins_keeps_all_of_both():
    bare, with_margins = drawn(100, seed=1), drawn(100, margins=True, seed=2).select(drawn(seed=1).names)
    sample = collected(bare, with_margins, bare)
    assert counted(sample) == as_given(bare) + as_given(bare) + as_given(with_margins)


def test_pairs_with_and_without_margins_keep_their_shares_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(sample_module, "MAX_MARGIN_ROWS", 500)
    bare, with_margins = drawn(3000, seed=1), drawn(2000, margins=True, seed=2).select(drawn(seed=1).names)
    for limit in (10**6, 200):
        monkeypatch.setattr(sample_module, "MAX_ROWS", limit)
        sample = collected(bare, with_margins)
        with_some = ~np.isnan(sample.margins).all(axis=1) | (sample.signs == 0).all(axis=1)
        assert sample.counts[with_some].sum() / sample.counts.sum() == pytest.approx(0.4, abs=0.05)


def test_empty_batches_and_no_batches_add_nothing():
    votes = drawn()
    assert collected() is NOTHING
    assert collected(votes.take(NO_ROWS)) is NOTHING
    assert same(collected(votes.take(NO_ROWS), votes, votes.take(NO_ROWS)), collected(votes))


def test_a_row_that_nobody_votes_on_is_counted_too():
    votes = drawn()
    votes.votes[:30] = -1
    assert counted(collected(votes))[(0,) * 10] == as_given(votes)[(0,) * 10] >= 30


@pytest.mark.parametrize("kind", ["patterns", "margins"])
def test_thinning_keeps_the_shares_of_what_is_said(kind, monkeypatch):
    for name in ("MAX_ROWS", "MAX_MARGIN_ROWS"):
        monkeypatch.setattr(sample_module, name, 2000)
    votes = drawn(20_000, m=9, margins=kind == "margins", lean=0.7)
    sample = collected(votes)
    assert len(sample.counts) <= sample.counts.sum() == 2000
    way, order = -1 if sample.exchanged else 1, np.argsort(votes.names)
    given_share = np.stack([(votes.signs == s).mean(axis=0) for s in (1, -1, 0)])[:, order]
    kept_share = np.stack([sample.counts @ (way * sample.signs == s) for s in (1, -1, 0)]) / 2000
    np.testing.assert_allclose(kept_share, given_share, atol=0.045)
    together = votes.signs[:, order].astype(float)
    products = (sample.signs * sample.counts[:, None]).T @ sample.signs / 2000
    np.testing.assert_allclose(products, together.T @ together / 20_000, atol=0.06)


def test_a_stream_with_too_many_patterns_keeps_its_shares(monkeypatch):
    monkeypatch.setattr(sample_module, "MAX_PATTERNS", 1000)
    votes = drawn(20_000, m=12, lean=0.6)
    sample = collected(*parts(votes, 2000))
    share = sample.counts @ (sample.signs == (-1 if sample.exchanged else 1)) / sample.counts.sum()
    assert len(sample.counts) <= 2 * 1000
    assert sample.counts.sum() == pytest.approx(20_000, rel=0.1)
    np.testing.assert_allclose(share, (votes.signs == 1).mean(axis=0)[np.argsort(votes.names)], atol=0.06)


def test_every_batch_of_a_long_stream_with_margins_has_its_share(monkeypatch):
    monkeypatch.setattr(sample_module, "MAX_MARGIN_ROWS", 600)
    names = ("x", "y", "z")
    batches = []
    for k, n in enumerate((1000, 4000, 500, 500)):
        margins = np.full((n, 3), k + 1, np.float32) + np.random.default_rng(k).random((n, 3), np.float32) / 2
        batches.append(VoteMatrix(np.zeros((n, 3), np.int8), margins, names, np.arange(n).astype(str)))
    sample = collected(*batches)
    of_batch = np.bincount(np.abs(sample.margins[:, 0]).astype(int), minlength=5)[1:]
    assert len(sample.counts) == 600
    np.testing.assert_allclose(of_batch, [100, 400, 50, 50], atol=12)


def test_the_first_vote_of_a_row_is_that_of_the_first_voter_who_votes_then_who_leans():
    nan = np.nan
    signs = np.int8([[0, -1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
    margins = np.float32([[5, 1, 1], [nan, -2, 3], [nan, nan, 0], [-1, nan, nan]])
    assert first_sign(signs, margins).tolist() == [-1, -1, 0, 1]


def test_a_sample_is_thinned_only_where_there_is_more():
    sample = Sample(np.eye(4, 2, dtype=np.int8), np.full((4, 2), np.nan, np.float32), np.array([1.0, 5.0, 1.0, 1.0]))
    assert sample.thinned(4) is sample
    fewer = sample.thinned(2)
    assert (fewer.signs.tolist(), fewer.counts.tolist()) == ([[0, 1]], [2])


SIGNS = np.int8([[-1, 1, 0], [0, 1, -1], [0, 0, 0]])
SCORES = np.array([[-0.5, 0.0, 0.7], [0.0, 2.0, -1.0], [0.3, 0.0, 0.0]])


def test_strengths_are_those_of_votes_and_leanings_fall_back_on_the_vote():
    rows = VoteRows(SIGNS, SCORES, np.ones(3))
    assert rows.strengths.tolist() == [[0.5, 0, 0], [0, 2, 1], [0, 0, 0]]
    assert rows.leanings.tolist() == [[-0.5, 1, 0.7], [0, 2, -1], [0.3, 0, 0]]


def test_rows_are_turned_so_that_the_first_vote_is_for_a():
    rows = VoteRows(SIGNS, SCORES, np.arange(3.0)).turned()
    assert rows.signs.tolist() == [[1, -1, 0], [0, 1, -1], [0, 0, 0]]
    np.testing.assert_array_equal(rows.scores, [[0.5, 0, -0.7], [0, 2, -1], [0.3, 0, 0]])
    assert rows.counts.tolist() == [0, 1, 2]
    assert same_rows(rows.turned(), rows)


def same_rows(one, other):
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in ("signs", "scores", "counts"))


def test_a_part_of_rows_is_drawn_at_even_distances():
    rows = VoteRows(SIGNS, SCORES, np.array([6.0, 2.0, 0.0]))
    assert rows.part(3) is rows
    part = VoteRows(np.repeat(SIGNS, 2, axis=0), np.repeat(SCORES, 2, axis=0), np.array([6.0, 0, 2, 0, 0, 0])).part(4)
    assert same_rows(part, VoteRows(SIGNS[:2], SCORES[:2], np.array([3.0, 1.0])))
