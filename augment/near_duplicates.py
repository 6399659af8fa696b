"""Near-duplicates: of texts that share most of their character sequences one is kept, whatever the order of rows."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError

N_CHARS = 5
"""Characters of a shingle."""
N_HASHES = 128
"""Hashes of a signature."""
RECALL = 0.99
"""How likely a pair at the threshold is to become a candidate."""


@dataclass(frozen=True)
class NearDuplicates:
    """Which of n texts are kept; made by `near_duplicates`."""

    keep: npt.NDArray[np.bool_]
    """Shape (n,)."""
    kept_row: npt.NDArray[np.int64]
    """Shape (n,): the row that stands for each text, its own where it is kept."""
    n_same: int
    """Texts left out that are the same as another, but for case, white space and Unicode form."""
    n_near: int
    """Other texts left out: they are near-duplicates of a kept one."""


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8) -> NearDuplicates:
    """Return a mask of the texts to keep, so that no two kept ones have a Jaccard similarity of `threshold` or more.

    Similarity is that of the sets of 5-character shingles (in lower case, runs of white space as one blank).
    The texts are taken in the order of their content hashes, and each is kept unless it is like one kept before: which
    texts are kept depends neither on the order of the rows nor on a seed. Of equal texts the first row is kept.
    Likely pairs are found by MinHash LSH (Broder 1997; 128 hashes), then compared exactly: nothing is left out that is
    not similar, and a pair just at the threshold is overlooked once in a hundred times.

    Raises DataError for a threshold not in (0, 1].

    >>> near_duplicates(["Name a river.", "Why is the sky blue?", "name  a river."]).keep
    array([ True,  True, False])
    """
    if not 0 < threshold <= 1:
        raise DataError(f"threshold is {threshold}, expected a similarity in (0, 1]")
    plain = [_plain(text) for text in texts]
    first: dict[str, int] = {}
    for row in sorted(range(len(plain)), key=lambda row: (_digest(texts[row]), row)):
        first.setdefault(plain[row], row)
    stands_for = _stand_ins(list(first), threshold)
    kept_row = np.array([first[stands_for[text]] for text in plain], dtype=np.int64)
    keep = kept_row == np.arange(len(plain))
    n_same = len(plain) - len(first)
    return NearDuplicates(keep, kept_row, n_same, int((~keep).sum()) - n_same)


def _stand_ins(texts: Sequence[str], threshold: float) -> dict[str, str]:
    """Return for each of the distinct texts, in their order, the kept text that it is like: itself where it is kept."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=N_HASHES, params=bands(threshold))
    stands_for: dict[str, str] = {}
    kept: list[str] = []  # not their shingles, which take many times the memory
    for text in texts:
        shingles = _shingles(text)
        signature = MinHash(num_perm=N_HASHES)
        signature.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in sorted(shingles)])
        likely = sorted(index.query(signature))
        near = next((i for i in likely if jaccard(shingles, _shingles(kept[i])) >= threshold), None)
        if near is None:
            near = len(kept)
            index.insert(near, signature)
            kept.append(text)
        stands_for[text] = kept[near]
    return stands_for


def bands(threshold: float) -> tuple[int, int]:
    """Return bands b and rows r of the index: the most rows, thus fewest false candidates, that reach `RECALL`.

    Two texts of similarity s share a band with probability 1 - (1 - s^r)^b. Below a threshold of about 0.035 a single
    row a band is still not enough for `RECALL`, and the best there is.

    >>> bands(0.8)
    (21, 6)
    """
    sizes = [(N_HASHES // r, r) for r in range(N_HASHES // 2, 0, -1)]
    return next(((b, r) for b, r in sizes if 1 - (1 - threshold**r) ** b >= RECALL), sizes[-1])


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the size of the intersection of two sets over that of their union, 1 for two empty ones.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    both = len(a & b)
    union = len(a) + len(b) - both
    return both / union if union else 1.0


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _shingles(plain: str) -> frozenset[str]:
    return frozenset(plain[i : i + N_CHARS] for i in range(max(len(plain) - N_CHARS, 0) + 1))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
