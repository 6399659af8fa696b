"""Arrays that callers hand over: labels, row numbers and masks, taken only where they cannot mean anything else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from labeling.errors import DataError, GoldError, WeakprefError


def check_order(values: object, what: str, error: type[WeakprefError] = DataError) -> None:
    """Raise `error` for a pandas Series whose index 0 ... n-1 is in another order: its rows may be, too."""
    if not isinstance(values, pd.Series) or values.index.dtype.kind not in "iu":
        return
    index = values.index.to_numpy()
    if (np.diff(index) < 0).any() and np.array_equal(np.sort(index), np.arange(len(index))):
        raise error(
            f"{what} is a Series whose index is in another order than the rows; add .sort_index(), or .to_numpy() "
            "where it is in the order of the pairs as it stands"
        )


def as_labels(gold: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return gold labels as float64, NaN for None; raises GoldError for booleans, texts and a Series in another order.

    Booleans cannot say which pairs are unlabelled: a mask of the labelled pairs would label every pair.
    """
    check_order(gold, "gold", GoldError)
    array = np.asarray(gold)
    if array.dtype.kind == "b":
        raise GoldError(
            "gold is booleans, which cannot say unlabelled; pass np.where(mask, pairs.gold, np.nan) for a mask of the "
            "pairs that keep their label, or gold.astype(float) if every pair is labelled"
        )
    texts = array.dtype.kind in "US" or (array.dtype == np.object_ and any(isinstance(v, str) for v in array.ravel()))
    try:
        if not texts:
            return np.asarray(gold, dtype=np.float64)
        why = "they are texts"
    except (TypeError, ValueError) as error:
        why = str(error)
    raise GoldError(
        f"gold labels are no numbers ({why}); expected 1 where A is preferred, 0 where B is, 0.5 for a tie, NaN where "
        "unlabelled, as in pairs.gold"
    )


def as_rows(rows: npt.ArrayLike | slice, n: int) -> npt.NDArray[np.int64]:
    """Return row numbers (k,) in [0, n) for row numbers, a boolean mask (n,) or a slice.

    Raises DataError for a mask of another shape, numbers that are not whole or beyond the end, and anything else.
    """
    if isinstance(rows, slice):
        return np.arange(n)[rows]
    check_order(rows, "rows")
    index = np.asarray(rows)
    if index.size and index.dtype == np.object_ and all(isinstance(value, bool | np.bool_) for value in index.ravel()):
        index = index.astype(np.bool_)
    if index.dtype.kind == "b":
        if index.shape != (n,):
            raise DataError(f"a mask has shape {index.shape}; expected ({n},), one a pair")
        return np.flatnonzero(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise DataError(
            f"rows are {index.dtype} of shape {index.shape}; expected row numbers (k,), whole, or a boolean mask "
            f"({n},) without nulls"
        )
    outside = (index < 0) | (index >= n)
    if outside.any():
        raise DataError(f"row {index[outside][0]} is asked for, and rows are numbered 0 to {n - 1}")
    return index.astype(np.int64)
