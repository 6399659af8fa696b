"""Length: bins, accuracies that count both kinds of pairs equally, correlation, and 'always longer' on other groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from labeling.pairs import Pairs
from rm.length_bias import BINS, always_longer, length_bias, length_bins, length_differences, signed_ranks

AsPairs = Callable[..., Pairs]
LENGTHS = [(100, 40), (100, 50), (100, 80), (100, 90), (50, 50), (90, 100), (70, 100), (20, 100)]


@pytest.fixture
def eight(as_pairs: AsPairs) -> Pairs:
    """Pairs whose responses have the lengths `LENGTHS`; A is preferred in all but the last, a tie."""
    rows = [
        ([{"role": "user", "content": f"Why {i}?"}], "a" * a, ("b" if a == b else "a") * b)
        for i, (a, b) in enumerate(LENGTHS)
    ]
    return as_pairs(rows, [1.0] * 7 + [0.5])


def test_pairs_are_binned_by_the_length_of_the_preferred_response_relative_to_the_longer_one(eight: Pairs) -> None:
    expected = [
        "longer by over 50 %", "longer by 20-50 %", "longer by up to 20 %", "longer by up to 20 %", "equal",
        "shorter by up to 20 %", "shorter by 20-50 %", "",
    ]  # fmt: skip
    assert length_bins(eight).tolist() == expected
    assert length_bins(eight.swap()).tolist() == expected
    assert set(expected) - {""} <= set(BINS)


def test_a_model_that_goes_by_length_is_right_in_half_of_the_length_controlled_pairs(eight: Pairs) -> None:
    found = length_bias(length_differences(eight), eight)
    assert (found.n_longer, found.n_shorter) == (4, 2)
    assert (found.accuracy_longer, found.accuracy_shorter, found.controlled_accuracy) == (1.0, 0.0, 0.5)
    assert found.correlation == pytest.approx(1.0)


def test_both_kinds_of_pairs_count_equally_however_many_there_are(eight: Pairs) -> None:
    margins = np.array([1.0, 1, 1, -1, 1, 1, -1, 1])
    found = length_bias(margins, eight)
    assert (found.accuracy_longer, found.accuracy_shorter) == (0.75, 0.5)
    assert found.controlled_accuracy == pytest.approx(0.625)
    assert found.controlled_accuracy_low < 0.625 < found.controlled_accuracy_high


def test_swapping_the_responses_changes_nothing(eight: Pairs) -> None:
    margins = np.array([1.0, 2, -1, -3, 1, 0.5, -1, 1])
    assert vars(length_bias(margins, eight)) == pytest.approx(vars(length_bias(-margins, eight.swap())))


def test_the_correlation_is_spearmans_with_each_pair_in_both_orders() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50).round(1), rng.integers(-5, 6, 50).astype(float)
    both = spearmanr(np.concatenate([x, -x]), np.concatenate([y, -y])).statistic
    a, b = signed_ranks(x), signed_ranks(y)
    assert (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) == pytest.approx(both)


def test_always_longer_is_as_sure_as_it_is_right_in_the_other_groups(eight: Pairs) -> None:
    p_a = always_longer(eight)
    # Without the first pair: 3 longer right, 2 wrong of 5; the equal pair and the tie tell nothing.
    assert p_a[0] == pytest.approx((3 + 1) / (5 + 2))
    assert p_a[5] == pytest.approx(1 - (4 + 1) / (5 + 2))
    assert p_a[4] == 0.5
    assert p_a[7] == pytest.approx(1 - (4 + 1) / (6 + 2))
