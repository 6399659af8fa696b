"""Near-duplicates: what is alike leaves one, whatever the order; what is not alike stays."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.near_duplicates import jaccard, near_duplicates
from labeling.errors import DataError

RIVERS = "Write a short story about three rivers that meet at a mill in the hills of northern Spain"


def test_of_texts_that_are_alike_one_is_kept_and_the_rest_are_counted():
    found = near_duplicates([RIVERS, RIVERS + ".", RIVERS.upper(), "Why is the sky blue?", " Why is the sky  blue? "])
    assert found.keep.sum() == 2
    assert (found.n_same, found.n_near) == (2, 1)
    assert len(set(found.kept_row[:3])) == 1
    assert found.keep[found.kept_row].all()


def test_which_texts_are_kept_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    words = RIVERS.split()
    texts = [" ".join(rng.permutation(words)[: rng.integers(12, 18)]) for _ in range(40)]
    texts += [text.replace("mill", "weir") for text in texts] + [text.upper() for text in texts[:20]]
    kept = {texts[i] for i in np.flatnonzero(near_duplicates(texts, threshold=0.6).keep)}
    assert 2 < len(kept) < len(texts) - 20
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts))
        mixed = [texts[i] for i in order]
        assert {mixed[i] for i in np.flatnonzero(near_duplicates(mixed, threshold=0.6).keep)} == kept


@settings(max_examples=30)
@given(st.lists(st.text(max_size=12), max_size=20), st.sampled_from([0.3, 0.8, 1.0]))
def test_every_text_left_out_is_like_the_one_that_stands_for_it(texts, threshold):
    found = near_duplicates(texts, threshold=threshold)
    assert found.keep.sum() + found.n_same + found.n_near == len(texts)
    assert found.keep[found.kept_row].all()
    again = near_duplicates([texts[i] for i in np.flatnonzero(found.keep)], threshold=threshold)
    assert again.keep.all()


def test_texts_below_the_threshold_stay_and_the_exact_similarity_decides():
    a, b = RIVERS, RIVERS.replace("northern Spain", "southern France")
    shingles = [frozenset(text.lower()[i : i + 5] for i in range(len(text) - 4)) for text in (a, b)]
    similarity = jaccard(*shingles)
    assert near_duplicates([a, b], threshold=similarity - 1e-9).keep.sum() == 1
    assert near_duplicates([a, b], threshold=similarity + 1e-9).keep.sum() == 2


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.95])
def test_nearly_all_pairs_at_the_threshold_are_found(threshold):
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        letters = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 404))
        cut = round(200 * (1 - threshold) / (1 + threshold))  # each side keeps (400 - 2 cut) of 400 shingles in all
        a, b = letters[: 400 - cut], letters[cut:400]
        sets = [frozenset(text[i : i + 5] for i in range(len(text) - 4)) for text in (a, b)]
        found.append(near_duplicates([a, b], threshold=jaccard(*sets)).n_near)
    assert np.mean(found) > 0.93


def test_empty_and_short_and_unspaced_texts_are_texts_like_others():
    assert near_duplicates(["", " ", "hi", "Hi", "\0"]).keep.sum() == 3
    assert (
        near_duplicates(
            ["请写一首关于大海的诗歌和故事吧", "请写一首关于大海的诗歌和故事呢", "为什么天空是蓝色的"], threshold=0.7
        ).keep.sum()
        == 2
    )
    assert near_duplicates([]).keep.shape == (0,)


def test_a_threshold_out_of_range_is_named():
    with pytest.raises(DataError, match=r"threshold is 0, expected a similarity in \(0, 1\]"):
        near_duplicates(["a"], threshold=0)


@pytest.mark.slow
def test_every_changed_copy_among_thousands_is_found_in_seconds(shared_data):
    import pyarrow.parquet as pq

    column = pq.read_table(shared_data / "ukp_convincing.parquet")["response_a"]
    texts = sorted(set(column.to_pylist()))
    copies = [f"{text} Indeed!" for text in texts if len(text) > 200]
    start = time.perf_counter()
    found = near_duplicates(texts + copies)
    assert time.perf_counter() - start < 20
    assert len(copies) > 200
    assert found.n_near >= len(copies)
