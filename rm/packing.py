"""Conversations packed into rows without padding, what several of them begin with standing there once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tree:
    """Conversations that begin alike, laid out as [beginning | rest of the first | rest of the second | ...].

    >>> Tree(100, (20, 30)).n_tokens, Tree(100, (20, 30)).n_tokens_apart
    (150, 250)
    """

    prefix: int
    """Tokens all of them begin with, 0 or more."""
    rests: tuple[int, ...]
    """Tokens of each after that, 1 or more."""

    @property
    def n_tokens(self) -> int:
        """Tokens in the row."""
        return self.prefix + sum(self.rests)

    @property
    def n_tokens_apart(self) -> int:
        """Tokens of the conversations written out."""
        return len(self.rests) * self.prefix + sum(self.rests)


@dataclass(frozen=True)
class PackedRow:
    """One row of tokens that holds the conversations of some trees, one tree after the other."""

    input_ids: torch.Tensor
    """int64 (1, n_tokens)."""
    position_ids: torch.Tensor
    """int64 (1, n_tokens): the position of each token in its own conversation."""
    read_at: torch.Tensor
    """int64 (n,): where the reward of each conversation is read, in order of the trees: its last token, or its first
    one for encoders."""
    trees: tuple[Tree, ...]

    def to(self, device: torch.device | str) -> PackedRow:
        """Return the same row on a device."""
        ids, positions, read_at = (t.to(device) for t in (self.input_ids, self.position_ids, self.read_at))
        return PackedRow(ids, positions, read_at, self.trees)


def shared_prefix(conversations: Sequence[Ids]) -> int:
    """Return how many first tokens all conversations have in common; each keeps at least one token of its own.

    >>> shared_prefix([np.array([5, 6, 7]), np.array([5, 6, 8, 9])]), shared_prefix([np.array([5]), np.array([5, 6])])
    (2, 0)
    """
    first, shortest = conversations[0], min(len(ids) for ids in conversations) - 1
    for ids in conversations[1:]:
        differ = np.flatnonzero(first[:shortest] != ids[:shortest])
        shortest = int(differ[0]) if len(differ) else shortest
    return shortest


def tree_of(conversations: Sequence[Ids], share: bool = True) -> Tree:
    """Return the tree of some conversations; without `share` they stand side by side."""
    prefix = shared_prefix(conversations) if share and len(conversations) > 1 else 0
    return Tree(prefix, tuple(len(ids) - prefix for ids in conversations))


def pack(groups: Sequence[Sequence[Ids]], *, causal: bool = True) -> PackedRow:
    """Return the row of some groups of conversations, each group a tree.

    In a model that is not causal a beginning depends on what follows it, so there nothing is shared, and the reward is
    read at the first token.
    """
    trees, ids, positions, read_at, start = [], list[Ids](), list[npt.NDArray[np.int64]](), list[int](), 0
    for group in groups:
        tree = tree_of(group, share=causal)
        trees.append(tree)
        ids.append(group[0][: tree.prefix])
        positions.append(np.arange(tree.prefix))
        start += tree.prefix
        for conversation, rest in zip(group, tree.rests, strict=True):
            ids.append(conversation[tree.prefix :])
            positions.append(np.arange(tree.prefix, tree.prefix + rest))
            read_at.append(start + rest - 1 if causal else start)
            start += rest
    return PackedRow(
        torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        torch.from_numpy(np.concatenate(positions))[None],
        torch.tensor(read_at),
        tuple(trees),
    )


def fill_rows(n_tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Return which items go into which row so that no row exceeds `budget` tokens: first-fit decreasing.

    An item above the budget has a row of its own. Items of a row are in their order; the longest row comes first.

    >>> fill_rows([5, 3, 4, 9], budget=8)
    [[3], [0, 1], [2]]
    """
    leaves = 1 << max(len(n_tokens) - 1, 0).bit_length()
    most = [max(budget, *n_tokens, 0)] * (2 * leaves)  # most[node]: the most room of the rows below it; leaves are rows
    rows = list[list[int]]()
    for item in sorted(range(len(n_tokens)), key=lambda i: -n_tokens[i]):
        node = 1
        while node < leaves:  # down to the first row with room
            node = 2 * node if most[2 * node] >= n_tokens[item] else 2 * node + 1
        if node - leaves == len(rows):
            rows.append([])
            most[node] = budget
        rows[node - leaves].append(item)
        most[node] -= n_tokens[item]
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
    return [sorted(row) for row in rows]


def alike(conversations: Sequence[Ids], budget: int | None = None) -> list[list[int]]:
    """Return conversations grouped by what they begin with: the indices of each group.

    They are sorted by their tokens, so that those that begin alike are neighbours; a neighbour joins a group as long as
    the group then shares no fewer tokens than before, and, given a `budget`, has a tree of no more tokens than that.

    >>> alike([np.array([1, 2, 3, 4]), np.array([9, 9]), np.array([1, 2, 3, 5])])
    [[0, 2], [1]]
    """
    order = sorted(range(len(conversations)), key=lambda i: conversations[i].astype(">u4").tobytes())
    groups, prefix, total = list[list[int]](), 0, 0
    for i in order:
        if groups:
            group = groups[-1]
            common = shared_prefix([conversations[group[-1]], conversations[i]])
            joint = min(prefix, common) if len(group) > 1 else common
            fits = budget is None or total + len(conversations[i]) - joint * len(group) <= budget
            if fits and joint * len(group) > prefix * (len(group) - 1):
                group.append(i)
                prefix, total = joint, total + len(conversations[i])
                continue
        groups.append([i])
        prefix, total = 0, len(conversations[i])
    return groups
