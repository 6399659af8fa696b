"""Distinct rows of votes with counts: a form that no order of rows or voters, and no exchange of responses, changes.

Votes are read as signs: +1 = A, -1 = B, 0 = abstain. A row and its mirror (all signs negated) are one pattern, written
so that the first vote cast, in the order of the voters' names, is +1. A row's code is the number its signs spell in
balanced ternary, so that the mirror's code is its negative. What is fitted on patterns in their fixed order is the same
to the last bit however the rows and voters were ordered. A model that tells A from B is fitted on `oriented` patterns,
which are the same for votes and for exchanged votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.votes import VoteMatrix, signs_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SignArray = npt.NDArray[np.int8]
NumberArray = npt.NDArray[Any]

WORD = 33
"""Voters in one word of a code: 3^33 < 2^53, so that float64 holds every partial sum exactly."""
MAX_TABLE = 1 << 20
"""Up to so many possible codes are counted in a table, which needs no memory per row; more are sorted."""
BLOCK = 1 << 14
"""Rows turned into codes at a time, so that they stay in the processor's cache."""
BATCH = 1 << 18
"""Rows counted at a time."""


@dataclass(frozen=True)
class Patterns:
    """Distinct rows of votes up to exchange of the responses: k patterns in increasing order of their code."""

    names: tuple[str, ...]
    """The m voters, sorted."""
    signs: SignArray
    """Shape (k, m): +1, -1 or 0, the first that is not 0 is +1; the row where nobody votes comes first, if at all."""
    forward: IntArray
    """Shape (k,): how many rows read as `signs`, labelled or not."""
    backward: IntArray
    """Shape (k,): how many rows read as -`signs`; 0 where nobody votes."""
    labelled: IntArray
    """Shape (2, k): how many of the forward and of the backward rows have a gold label."""
    lead: FloatArray
    """Shape (2, k): sum of gold - 0.5 over the labelled forward and backward rows."""
    exchanged: bool = False
    """Whether A and B were exchanged throughout to reach the fixed orientation."""
    symmetric: bool = False
    """Whether exchanging A and B changes nothing, so that whatever tells A from B must be nothing too."""


def find_patterns(votes: VoteMatrix, lead: FloatArray | None = None) -> Patterns:
    """Return the patterns of the rows as they stand; `lead` (n,) is `checks.gold_lead`, NaN where unlabelled."""
    order = name_order(votes.names)
    places = _places(len(order))[np.argsort(order)]
    words: IntArray
    tallies: NumberArray
    if places.shape[1] > 1:
        words, tallies = _gathered(_words(votes.votes, places), _forward_only(np.ones((1, len(votes)))))
    elif 3 ** len(order) <= MAX_TABLE:
        words, tallies = _counted(votes.votes, places)
    else:
        words, tallies = _sorted(_words(votes.votes, places))
    if lead is not None and not np.isnan(lead).all():
        known = np.flatnonzero(~np.isnan(lead))
        gold = _forward_only(np.stack([np.zeros(len(known)), np.ones(len(known)), lead[known]]))
        tallies = np.concatenate([np.pad(tallies, ((0, 2), (0, 0), (0, 0))), gold], axis=2)
        words, tallies = _gathered(np.concatenate([words, _words(votes.votes[known], places)]), tallies)
    return _made(tuple(votes.names[j] for j in order), words, tallies)


def merged(parts: Sequence[Patterns]) -> Patterns:
    """Return the patterns of all rows of several vote matrices of the same voters, none of them oriented yet."""
    words = [_words(part.signs, _places(len(part.names)), are_signs=True) for part in parts]
    tallies = [np.stack([np.stack([p.forward, p.backward]), p.labelled, p.lead]) for p in parts]
    return _made(parts[0].names, *_gathered(np.concatenate(words), np.concatenate(tallies, axis=2)))


def oriented(patterns: Patterns) -> Patterns:
    """Return the patterns with A and B exchanged if need be, so that votes and exchanged votes give the same.

    The first pattern with more rows one way than the other has more forward; if there is none, labelled rows decide,
    then what they say. If nothing decides, the data are symmetric.
    """
    cast = slice(_silent(patterns), None)
    leanings = (
        (patterns.forward - patterns.backward)[cast],
        (patterns.labelled[0] - patterns.labelled[1])[cast],
        patterns.lead[0] + patterns.lead[1],
    )
    first = [float(leaning[np.flatnonzero(leaning)[0]]) for leaning in leanings if leaning.any()]
    if not first:
        return replace(patterns, symmetric=True)
    return _exchanged(patterns) if first[0] < 0 else patterns


def row_sums(votes: VoteMatrix, says: FloatArray, start: float = 0.0) -> FloatArray:
    """Return start + the sum over voters of what each vote adds, shape (n,); `says` (m, 3) for votes A, B, abstain.

    Voters are added one by one in the order of their names: no row's sum depends on where the row or the voter stands.
    """
    sums = np.full(len(votes), start)
    for rows in _batches(len(votes), BATCH):
        block, part = votes.votes[rows], sums[rows]
        for j in name_order(votes.names):
            part += says[j][block[:, j]]  # -1 = abstain takes the last
    return sums


def name_order(names: Sequence[str]) -> IntArray:
    """Return the positions (m,) of the voters in the order of their names."""
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)


def _batches(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _places(m: int) -> FloatArray:
    """Return what a sign is worth in each word of a code, (m, words): powers of 3, largest for the first voter."""
    places = np.zeros((m, -(-m // WORD)))
    for word in range(places.shape[1]):
        members = np.arange(word * WORD, min((word + 1) * WORD, m))
        places[members, word] = 3.0 ** np.arange(len(members))[::-1]
    return places


def _words(votes: SignArray, places: FloatArray, are_signs: bool = False) -> IntArray:
    """Return the codes (n, words) of rows of votes (n, m), or of rows that are signs already."""
    words = np.empty((len(votes), places.shape[1]), dtype=np.int64)
    for rows in _batches(len(votes), BLOCK):
        block = votes[rows]
        signs = block if are_signs else signs_of(block)
        words[rows] = signs.astype(np.float64) @ places
    return words


def _counted(votes: SignArray, places: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the turned codes (k, 1) and tallies (1, 2, k) of votes (n, m) from a table of all codes there can be."""
    largest = int(places.sum())
    table = np.zeros(2 * largest + 1, dtype=np.int64)
    for rows in _batches(len(votes), BATCH):
        table += np.bincount(_words(votes[rows], places)[:, 0] + largest, minlength=len(table))
    tallies = np.stack([table[largest:], table[largest::-1]])
    tallies[1, 0] = 0
    codes = np.flatnonzero(tallies[0] + tallies[1])
    return codes[:, None], tallies[None, :, codes]


def _sorted(words: IntArray) -> tuple[IntArray, IntArray]:
    """Return the turned codes (k, 1) and tallies (1, 2, k) of codes (n, 1), which are overwritten, by sorting them."""
    keys = words[:, 0]
    backward = keys < 0
    np.abs(keys, out=keys)
    keys <<= 1
    keys |= backward  # twice the turned code, plus one if it was turned
    keys.sort()
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    counts, keys = np.diff(starts, append=len(keys)), keys[starts]
    new = np.diff(keys >> 1, prepend=-1) != 0
    codes = keys[new, None] >> 1
    tallies = np.zeros((1, 2, len(codes)), dtype=np.int64)
    tallies[0, keys & 1, np.cumsum(new) - 1] = counts
    return codes, tallies


def _gathered(words: IntArray, tallies: NumberArray) -> tuple[IntArray, FloatArray]:
    """Return the distinct turned codes (k, words) of codes (r, words), and the sums (t, 2, k) of tallies (t, 2, r).

    A tally is rows and, where there is gold, labelled rows and lead, each forward and backward; turning exchanges them.
    """
    turn = words[np.arange(len(words)), (words != 0).argmax(axis=1)] < 0
    distinct, index = np.unique(np.where(turn[:, None], -words, words), axis=0, return_inverse=True)
    tally = np.where(turn, tallies[:, ::-1], tallies)
    sums = [[np.bincount(index.ravel(), way, len(distinct)) for way in kind] for kind in tally]
    return distinct, np.array(sums)


def _forward_only(tallies: FloatArray) -> FloatArray:
    """Return tallies (t, 2, r) of rows that all read as they stand, from (t, r)."""
    return np.stack([tallies, np.zeros_like(tallies)], axis=1)


def _made(names: tuple[str, ...], words: IntArray, tallies: NumberArray) -> Patterns:
    signs = _spelled(words, len(names))
    forward, backward = tallies[0].astype(np.int64)
    if len(tallies) == 3:
        return Patterns(names, signs, forward, backward, tallies[1].astype(np.int64), tallies[2])
    labelled: IntArray = np.broadcast_to(np.int64(0), (2, len(signs)))  # takes no memory
    lead: FloatArray = np.broadcast_to(np.float64(0), (2, len(signs)))
    return Patterns(names, signs, forward, backward, labelled, lead)


def _spelled(words: IntArray, m: int) -> SignArray:
    """Return the signs (k, m) whose codes are `words` (k, words)."""
    signs = np.empty((len(words), m), dtype=np.int8)
    places = _places(m).astype(np.int64)
    for rows in _batches(len(words), BLOCK):
        rest = words[rows].T.copy()
        for j, word in enumerate(places.argmax(axis=1)):
            place = places[j, word]
            sign = (2 * rest[word] > place).view(np.int8) - (2 * rest[word] < -place).view(np.int8)
            rest[word] -= sign * place
            signs[rows, j] = sign
    return signs


def _silent(patterns: Patterns) -> int:
    """Return 1 if the first pattern is the row where nobody votes, else 0."""
    return int(not patterns.signs[:1].any())


def _exchanged(patterns: Patterns) -> Patterns:
    cast = np.arange(len(patterns.signs)) >= _silent(patterns)  # the silent row is its own mirror and stays forward
    return replace(
        patterns,
        forward=np.where(cast, patterns.backward, patterns.forward),
        backward=np.where(cast, patterns.forward, patterns.backward),
        labelled=np.where(cast, patterns.labelled[::-1], patterns.labelled),
        lead=-np.where(cast, patterns.lead[::-1], patterns.lead),
        exchanged=not patterns.exchanged,
    )
