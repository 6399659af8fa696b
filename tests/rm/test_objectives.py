from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from labeling.errors import DataError
from rm.objectives import LOSSES, Objective, bradley_terry, geometric, hinge, ipo, label_smoothing, unbiased

every_loss = pytest.mark.parametrize("name", LOSSES)
logits = st.floats(-30, 30)
shares = st.floats(0, 1)
flips = st.floats(0, 0.49)


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def loss(name: str, h: float, q: float, parameter: float | None = None) -> float:
    return Objective(name, parameter).pair_losses(double(h), double(q)).item()


def slope(name: str, h: float, q: float) -> float:
    margin = double(h).requires_grad_()
    Objective(name).pair_losses(margin, double(q)).backward()
    return float(margin.grad)


def l(h: float) -> float:  # noqa: E743
    return -logsigmoid(double(h)).item()


@every_loss
@given(logits, shares)
def test_swapping_the_responses_leaves_the_loss_as_it_is(name: str, h: float, q: float) -> None:
    assert math.isclose(loss(name, h, q), loss(name, -h, 1 - q), rel_tol=1e-9, abs_tol=1e-9)


@every_loss
def test_a_tie_has_no_gradient_at_no_margin(name: str) -> None:
    assert slope(name, 0.0, 0.5) == pytest.approx(0.0, abs=1e-12)


@every_loss
def test_a_sure_pair_pulls_its_responses_apart(name: str) -> None:
    assert slope(name, 0.0, 1.0) < 0 < slope(name, 0.0, 0.0)


@pytest.mark.parametrize("name", ["bradley-terry", "geometric"])
@given(h=logits)
def test_certainty_is_plain_bradley_terry(name: str, h: float) -> None:
    assert math.isclose(loss(name, h, 1.0), l(h), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("name", ["label-smoothing", "unbiased"])
@given(h=logits, q=shares)
def test_labels_that_are_never_wrong_need_no_correction(name: str, h: float, q: float) -> None:
    assert math.isclose(loss(name, h, q, 1e-12), loss("bradley-terry", h, q), rel_tol=1e-9, abs_tol=1e-9)


@given(logits, flips)
def test_a_consistency_rate_below_one_is_label_smoothing(h: float, e: float) -> None:
    """CREAM: C l(h) + (1 - C) l(-h) with C = 1 - e."""
    smoothed = label_smoothing(double(h), double(1.0), e).item()
    assert math.isclose(loss("bradley-terry", h, 1 - e), smoothed, abs_tol=1e-9)
    assert math.isclose((1 - e) * l(h) + e * l(-h), smoothed, abs_tol=1e-9)


@given(logits, shares, flips)
def test_the_unbiased_loss_expects_the_clean_one_over_flipped_labels(h: float, q: float, e: float) -> None:
    seen = (1 - e) * unbiased(double(h), double(q), e) + e * unbiased(double(h), double(1 - q), e)
    assert math.isclose(seen.item(), loss("bradley-terry", h, q), rel_tol=1e-6, abs_tol=1e-6)


@given(logits, flips)
def test_the_unbiased_loss_of_a_sure_label_is_that_of_robust_dpo(h: float, e: float) -> None:
    expected = ((1 - e) * l(h) - e * l(-h)) / (1 - 2 * e)
    assert math.isclose(unbiased(double(h), double(1.0), e).item(), expected, rel_tol=1e-9, abs_tol=1e-9)


@given(logits, flips, shares)
def test_smoothing_biased_labels_and_undoing_it_gives_the_label_back(h: float, e: float, q: float) -> None:
    flipped = (1 - e) * double(q) + e * (1 - double(q))
    assert math.isclose(unbiased(double(h), flipped, e).item(), loss("bradley-terry", h, q), rel_tol=1e-6, abs_tol=1e-6)


def test_the_minimum_of_bradley_terry_lies_at_the_logit_of_the_share() -> None:
    assert slope("bradley-terry", math.log(0.7 / 0.3), 0.7) == pytest.approx(0.0, abs=1e-12)


@given(st.floats(-5, 5), st.floats(0.1, 5))
def test_the_hinge_is_sers_for_sure_labels(h: float, delta: float) -> None:
    assert hinge(double(h), double(1.0), delta).item() == pytest.approx(max(0.0, delta - h), abs=1e-12)


def test_the_hinge_is_flat_beyond_its_margin() -> None:
    assert slope("hinge", 1.5, 1.0) == 0
    assert slope("hinge", 0.5, 0.8) == pytest.approx(-0.8 + 0.2)


@given(logits)
def test_a_tie_teaches_the_geometric_loss_nothing(h: float) -> None:
    assert slope("geometric", h, 0.5) == 0
    assert geometric(double(h), double(0.5)).item() == pytest.approx(math.log(2))


def test_the_gradient_of_the_geometric_loss_shrinks_with_doubt() -> None:
    assert slope("geometric", 0.0, 0.75) == pytest.approx(0.5 * slope("geometric", 0.0, 1.0))


@given(logits, shares, st.floats(0.05, 2))
def test_ipo_pulls_the_margin_to_its_bound_in_proportion_to_the_label(h: float, q: float, tau: float) -> None:
    """Azar et al.'s squared distance to 1 / (2 tau) over labels drawn with q, up to a constant."""
    m = 1 / (2 * tau)
    target = (2 * q - 1) * m
    constant = 4 * q * (1 - q) * m**2
    assert math.isclose(ipo(double(h), double(q), tau).item(), (h - target) ** 2 + constant, rel_tol=1e-9, abs_tol=1e-9)
    assert ipo(double(h), double(1.0), tau).item() == pytest.approx((h - m) ** 2)


def test_ipos_default_leaves_the_probability_of_unsure_pairs_near_their_label() -> None:
    for q in (0.45, 0.5, 0.6):
        h = (2 * q - 1) / (2 * LOSSES["ipo"].default)
        assert slope("ipo", h, q) == pytest.approx(0.0, abs=1e-12)
        assert 1 / (1 + math.exp(-h)) == pytest.approx(q, abs=0.002)


def test_a_weight_of_two_is_the_row_twice() -> None:
    chosen, rejected, q = torch.tensor([0.3, -1.0]), torch.tensor([0.1, 0.2]), torch.tensor([0.9, 0.6])
    objective = Objective(center_rewards=0.1)
    twice = objective(*(x[[0, 1, 1]] for x in (chosen, rejected, q)), torch.ones(3))
    assert torch.isclose(objective(chosen, rejected, q, torch.tensor([1.0, 2.0])), twice)


def test_centring_adds_the_square_of_the_sum_of_rewards() -> None:
    chosen, rejected, q = torch.tensor([2.0, 1.0]), torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.5])
    plain, centred = (Objective(center_rewards=c)(chosen, rejected, q, torch.ones(2)) for c in (0.0, 0.01))
    assert (centred - plain).item() == pytest.approx(0.01 * (3.0**2 + 0.0), rel=1e-5)
    assert plain.item() == pytest.approx(bradley_terry(chosen - rejected, q).sum().item())


@pytest.mark.parametrize(
    ("name", "parameter", "words"),
    [
        ("hinges", None, "objective is 'hinges', expected one of bradley-terry, geometric, hinge"),
        ("geometric", 0.1, "objective_parameter is 0.1, but geometric has none"),
        ("unbiased", 0.5, "objective_parameter is 0.5, expected e of unbiased above 0 and below 0.5"),
        ("hinge", 0.0, "objective_parameter is 0.0, expected delta of hinge above 0$"),
        ("ipo", float("nan"), "objective_parameter is nan, expected tau of ipo above 0$"),
    ],
)
def test_an_objective_there_is_not_is_named(name: str, parameter: float | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Objective(name, parameter)
