from __future__ import annotations

import numpy as np
import pytest

from labeling.errors import DataError
from rm.order import LengthGrouped, Mixture, Shuffled


def grouped(lengths: np.ndarray, step_size: int = 16) -> LengthGrouped:
    return LengthGrouped(Mixture.of([len(lengths)], None), 0, lengths, step_size)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("n", [3, 33, 100, 1000])
def test_an_epoch_holds_every_pair_once_in_an_order_of_its_own(n: int, group: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, n)
    sampler = grouped(lengths) if group else Shuffled(Mixture.of([n], None), seed=0)
    first = list(sampler)
    assert first == list(sampler)
    assert sorted(first) == list(range(n))
    sampler.set_epoch(1)
    assert n <= 16 or list(sampler) != first


def test_an_incomplete_step_comes_last_and_shifts_no_other() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 100)
    for step in np.split(np.array(list(grouped(lengths)))[:96], 6):
        assert (np.diff(lengths[step]) >= 0).all()


def test_grouping_leaves_less_padding_than_chance() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1600)
    longest = [lengths[rows].max() for rows in np.split(np.array(list(grouped(lengths))), 100)]
    assert np.mean(longest) < 60 < lengths[:16].max()


def test_a_mixed_epoch_has_each_set_in_its_share() -> None:
    mixture = Mixture.of([900, 100], (0.7, 0.3))
    assert mixture.drawn == (700, 300)
    rows = mixture.epoch(seed=0, epoch=3)
    assert ((rows < 900).sum(), (rows >= 900).sum()) == (700, 300)


def test_a_pair_comes_again_only_when_all_others_of_its_set_have_come() -> None:
    mixture = Mixture.of([9, 4], (0.5, 0.5))
    rows = np.concatenate([mixture.epoch(seed=1, epoch=epoch) for epoch in range(20)])
    counts = np.bincount(rows, minlength=13)
    assert np.ptp(counts[:9]) <= 1
    assert np.ptp(counts[9:]) <= 1


def test_another_seed_gives_another_order() -> None:
    mixture = Mixture.of([50], None)
    assert mixture.epoch(0, 0).tolist() != mixture.epoch(1, 0).tolist()


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.0), (0.2, 0.3, 0.5)])
def test_shares_that_do_not_fit_the_sets_are_an_error(shares: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="expected 2 shares above 0: one for each set of pairs"):
        Mixture.of([5, 5], shares)


def test_fillers_make_up_the_last_step_and_stand_for_no_pair() -> None:
    sampler = Shuffled(Mixture.of([5], None), seed=0, multiple=4)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 8
    assert sorted(rows[:5]) == list(range(5))
    assert rows[5:] == [5 + rows[4]] * 3
