"""Splits by group, never by row, and the choice of the pairs that keep their gold label."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError, GoldError, GroupLeakError
from labeling.pairs import Pairs, check_pairs


def split_by_group(pairs: Pairs, test_share: float = 0.2, seed: int = 0) -> tuple[Pairs, Pairs]:
    """Split pairs into (train, test) so that no group and no prompt stands on both sides.

    Groups that share a prompt stay together. The test side gets about `test_share` of the pairs, as near as whole
    groups allow. The result depends on seed and content, not on the order of the rows.

    Raises DataError if everything hangs together, so that there is nothing to split.
    """
    check_pairs(pairs)
    if not 0.0 < test_share < 1.0:
        raise DataError(f"test_share must lie between 0 and 1, found {test_share}")
    component = _components(pairs.groups, pairs.prompt_texts.to_pylist())
    sizes = np.bincount(component)
    if len(sizes) < 2:
        raise DataError(
            f"cannot split {len(pairs)} pairs by group: all hang together by group or prompt "
            f"(groups: {', '.join(sorted(set(pairs.groups.tolist()))[:3]) or 'none'}); "
            "at least two are needed; give more prompts, or another `group` column"
        )
    order = np.argsort(_draws(_names(pairs.groups, component, len(sizes)), seed))
    test = np.isin(component, _fill(sizes, order, test_share * len(pairs)))
    return pairs.take(~test), pairs.take(test)


def joined_groups(pairs: Pairs) -> npt.NDArray[np.str_]:
    """Return the names (n,) of groups that share no prompt: groups that do are joined, under the first of their names.

    Where a group is narrower than a prompt (a batch of labels, an annotator), it alone keeps nothing apart.
    """
    component = _components(pairs.groups, pairs.prompt_texts.to_pylist())
    names = _names(pairs.groups, component, int(component.max(initial=-1)) + 1)
    return np.asarray(names, dtype=np.str_)[component]


def _components(groups: Sequence[str] | npt.NDArray[np.str_], prompts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return which connected component of the graph of groups and prompts each pair lies in, shape (n,), from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = np.unique(np.asarray(groups), return_inverse=True)
    codes: dict[str, int] = {}
    prompt = np.asarray([codes.setdefault(text, len(codes)) for text in prompts], dtype=np.int64)
    if not len(group):
        return np.zeros(0, dtype=np.int64)
    offset = int(group.max()) + 1
    nodes = offset + len(codes)
    edges = coo_array((np.ones(len(group), dtype=np.int8), (group, offset + prompt)), shape=(nodes, nodes))
    _, label = connected_components(edges, directed=False)
    _, component = np.unique(label[group], return_inverse=True)
    return component.astype(np.int64)


def _names(groups: npt.NDArray[np.str_], component: npt.NDArray[np.int64], n: int) -> list[str]:
    """Return the first group by name of each component: a name that no reordering of rows changes."""
    names = [""] * n
    for group, place in sorted(zip(groups.tolist(), component.tolist(), strict=True), reverse=True):
        names[place] = group
    return names


def _draws(names: Sequence[str], seed: int) -> npt.NDArray[np.uint64]:
    """Return a random number for each name, the same whatever the others are."""
    hashes = (hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in names)
    return np.asarray([int.from_bytes(digest, "big") for digest in hashes], dtype=np.uint64)


def _fill(sizes: npt.NDArray[np.int64], order: npt.NDArray[np.int64], wanted: float) -> list[int]:
    """Take components in order while they bring the sum nearer to `wanted`; at least one, never all."""
    taken: list[int] = []
    total = 0
    for i in order.tolist():
        if len(taken) < len(sizes) - 1 and abs(total + sizes[i] - wanted) < abs(total - wanted):
            taken.append(i)
            total += int(sizes[i])
    return taken or [min(order.tolist(), key=lambda i: abs(sizes[i] - wanted))]


def check_disjoint(train: Pairs, test: Pairs) -> None:
    """Raise GroupLeakError if a group or a prompt stands on both sides."""
    check_pairs(train, "train")
    check_pairs(test, "test")
    for what, left, right in (
        ("group", train.groups.tolist(), test.groups.tolist()),
        ("prompt", train.prompt_texts.to_pylist(), test.prompt_texts.to_pylist()),
    ):
        shared = sorted(set(left) & set(right))
        if shared:
            raise GroupLeakError(
                f"{len(shared)} {what}(s) stand on both sides of the split, the first is {_short(shared[0])}; expected "
                "none, or a model is tested on what it was trained on; split with split_by_group(pairs)"
            )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def gold_sample(pairs: Pairs, gold: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Choose which labelled pairs keep their label: a mask, shape (n,), true for the chosen.

    `gold` is a number of pairs (an integer), or a share of the labelled pairs (below 1). Every labelled pair, ties
    included, has the same chance, whatever the order of the rows; with the same seed a smaller sample lies in a larger.

    Raises GoldError if that is less than one pair, or more than are labelled.
    """
    check_pairs(pairs)
    labelled = np.flatnonzero(~np.isnan(pairs.gold))
    n = _how_many(gold, len(labelled))
    draws = _draws(pairs.pair_ids[labelled].tolist(), seed)
    mask = np.zeros(len(pairs), dtype=np.bool_)
    mask[labelled[np.argsort(draws)[:n]]] = True
    return mask


def _how_many(gold: float, labelled: int) -> int:
    whole = isinstance(gold, numbers.Integral) and not isinstance(gold, bool)
    if not whole and not (isinstance(gold, numbers.Real) and 0.0 < gold < 1.0):
        raise GoldError(f"gold must be a whole number of pairs, or a share between 0 and 1, found {gold!r}")
    if not labelled:
        raise GoldError("no pair has a gold label, so none can be sampled; give a `gold` column")
    n = int(gold) if whole else round(gold * labelled)
    if n < 1:
        raise GoldError(f"gold={gold!r} is less than one of {labelled} labelled pairs; ask for 1 or more")
    if n > labelled:
        raise GoldError(f"gold={gold!r} asks for {n} labelled pairs, but there are {labelled}; ask for fewer")
    return n
