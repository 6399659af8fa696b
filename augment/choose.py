"""Choosing pairs for a training budget: every gold pair, and weak ones from the surer half."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from labeling.arrays import check_order
from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import Pairs, check_pairs


def choose(pairs: Pairs, p_a: npt.ArrayLike, n: int, *, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Return a mask (n_pairs,) of at most n pairs: all with gold, then weak ones drawn from the surer half.

    p_a (n_pairs,) is P(A preferred). A trainer that can take few steps learns more from pairs whose label is likely
    right; drawing within that half, rather than taking its top, keeps easy pairs from crowding out the rest. Gold pairs
    are kept even if they are more than n. Of equally sure pairs the content hash says which are of that half; ties
    (0.5) never are. Warns where gold pairs alone are more than n. Raises DataError for n below 1, or p_a of another
    shape, outside [0, 1] or NaN for a weak pair.
    """
    check_pairs(pairs)
    check_order(p_a, "p_a")
    p = np.asarray(p_a, dtype=np.float64)
    if n < 1 or p.shape != (len(pairs),):
        raise DataError(f"n is {n} and p_a has shape {p.shape}; expected n of 1 or more and shape ({len(pairs)},)")
    if seed < 0:
        raise DataError(f"seed is {seed}; expected 0 or more")
    chosen = ~np.isnan(pairs.gold)
    if chosen.sum() > n:
        warnings.warn(
            f"{chosen.sum()} pairs have gold and all are chosen, though n is {n}; hide the labels that are held back "
            "with pairs.with_gold(gold)",
            WeakprefWarning,
            stacklevel=2,
        )
    weak = np.flatnonzero(~chosen)
    bad = weak[~((p[weak] >= 0) & (p[weak] <= 1))]
    if len(bad):
        raise DataError(
            f"p_a is {p[bad[0]]:g} in row {bad[0]} ({len(bad):,} such rows); expected P(A preferred) in [0, 1] "
            "wherever a pair has no gold"
        )
    # Drawn in the order of pair ids: the choice does not depend on the order of the rows.
    weak = weak[np.argsort(pairs.pair_ids[weak])]
    confidence = np.abs(p[weak] - 0.5)
    half = np.argsort(-confidence, kind="stable")[: (len(weak) + 1) // 2]
    surer = weak[np.sort(half[confidence[half] > 0])]
    room = min(max(n - int(chosen.sum()), 0), len(surer))
    if room:
        chosen[np.random.default_rng(seed).choice(surer, room, replace=False)] = True
    return chosen
