from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm.packing import Tree, alike, fill_rows, pack, shared_prefix, tree_of

CONVERSATION = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(lambda ids: np.array(ids, dtype=np.int32))
GROUPS = st.lists(st.lists(CONVERSATION, min_size=1, max_size=3), min_size=1, max_size=5)


@settings(max_examples=30)
@given(GROUPS)
def test_a_packed_row_holds_every_conversation_token_for_token(groups: list[list[np.ndarray]]) -> None:
    row, start, ends = pack(groups), 0, list[int]()
    for group, tree in zip(groups, row.trees, strict=True):
        beginning = slice(start, start + tree.prefix)
        start += tree.prefix
        for conversation, rest in zip(group, tree.rests, strict=True):
            own = slice(start, start + rest)
            for tensor, expected in ((row.input_ids, conversation), (row.position_ids, np.arange(len(conversation)))):
                assert [*tensor[0, beginning].tolist(), *tensor[0, own].tolist()] == expected.tolist()
            start += rest
            ends.append(start - 1)
    assert row.read_at.tolist() == ends
    assert row.input_ids.shape == row.position_ids.shape == (1, start)


@settings(max_examples=30)
@given(GROUPS)
def test_without_causality_nothing_is_shared_and_rewards_are_read_at_the_start(
    groups: list[list[np.ndarray]],
) -> None:
    row = pack(groups, causal=False)
    lengths = [len(ids) for group in groups for ids in group]
    assert row.read_at.tolist() == np.cumsum([0, *lengths[:-1]]).tolist()
    assert row.position_ids[0].tolist() == [i for length in lengths for i in range(length)]


@given(st.lists(CONVERSATION, min_size=1, max_size=4))
def test_what_is_shared_is_the_longest_common_beginning_that_leaves_each_a_token(group: list[np.ndarray]) -> None:
    prefix = shared_prefix(group)
    assert len({tuple(ids[:prefix]) for ids in group}) == 1
    assert all(len(ids) > prefix for ids in group)
    longer = {tuple(ids[: prefix + 1]) for ids in group}
    assert len(group) == 1 or len(longer) > 1 or min(len(ids) for ids in group) == prefix + 1


@given(st.lists(st.integers(1, 20), max_size=20), st.integers(1, 30))
def test_every_item_is_in_one_row_and_only_a_lone_item_exceeds_the_budget(sizes: list[int], budget: int) -> None:
    rows = fill_rows(sizes, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(len(row) == 1 or sum(sizes[i] for i in row) <= budget for row in rows)


def first_fit(sizes: list[int], budget: int) -> list[list[int]]:
    """First-fit decreasing as it is defined: every row is looked at for every item."""
    rows = list[list[int]]()
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = [row for row in rows if sum(sizes[i] for i in row) + sizes[item] <= budget]
        if not fitting:
            rows.append(fitting_row := [])
            fitting = [fitting_row]
        fitting[0].append(item)
    return [sorted(row) for row in rows]


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 60))
def test_rows_are_filled_first_fit_decreasing(sizes: list[int], budget: int) -> None:
    assert fill_rows(sizes, budget) == first_fit(sizes, budget)


@pytest.mark.slow
def test_a_hundred_thousand_items_are_put_into_rows_in_seconds() -> None:
    sizes = np.random.default_rng(0).integers(300, 1200, 100_000).tolist()
    begin = time.process_time()
    rows = fill_rows(sizes, 8192)
    assert time.process_time() - begin < 10  # looking at every row takes a minute
    assert len(rows) < 1.02 * sum(sizes) / 8192


@given(st.lists(CONVERSATION, max_size=12))
def test_grouping_holds_every_conversation_once_and_never_costs_tokens(conversations: list[np.ndarray]) -> None:
    groups = alike(conversations)
    assert sorted(i for group in groups for i in group) == list(range(len(conversations)))
    trees = [tree_of([conversations[i] for i in group]) for group in groups]
    assert sum(tree.n_tokens for tree in trees) <= sum(len(ids) for ids in conversations)


def test_conversations_that_share_only_a_system_prompt_do_not_break_up_those_that_share_more() -> None:
    system, first, second = [1, 1], [2, 2, 2, 2], [3, 3, 3, 3]
    conversations = [np.array([*system, *prompt, end]) for end in (7, 8) for prompt in (first, second)]
    assert alike(conversations) == [[0, 2], [1, 3]]


def test_a_tree_counts_its_tokens() -> None:
    assert tree_of([np.array([1, 2, 3]), np.array([1, 2, 4, 5])]) == Tree(2, (1, 2))
    assert (Tree(2, (1, 2)).n_tokens, Tree(2, (1, 2)).n_tokens_apart) == (5, 7)


def test_identical_conversations_keep_a_token_each() -> None:
    assert tree_of([np.array([1, 2])] * 2) == Tree(1, (1, 1))


def test_an_empty_step_has_no_rows() -> None:
    assert fill_rows([], 8) == []


@pytest.mark.parametrize("n", [1, 7])
def test_a_lone_conversation_shares_nothing(n: int) -> None:
    assert tree_of([np.zeros(n)]) == Tree(0, (n,))
