"""Pictures of a label model: what they show, and that the same input gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from labeling.antisymmetric import sigmoid
from labeling.errors import DataError, GoldError, VotesError
from labeling.plots import alike_together, curves, plot_dependence, plot_evidence, plot_reliability
from labeling.votes import VoteMatrix

STARTS = {"png": b"\x89PNG", "svg": b"<?xml"}


class Weighted:
    """Log-odds = bias + sum of weight times margin, or times the vote where there is no margin."""

    def __init__(self, weights, bias=0.0):
        self.weights, self.bias = np.array(weights), bias

    def posterior(self, votes):
        return sigmoid(self.bias + np.where(np.isnan(votes.margins), votes.signs, votes.margins) @ self.weights)


def some_votes(n=200):
    """A voter with margins, one without, one with both, one that never speaks."""
    rng = np.random.default_rng(0)
    margins = np.full((n, 4), np.nan, dtype=np.float32)
    margins[:, 0] = rng.normal(size=n)
    margins[: n // 2, 2] = rng.integers(-3, 4, n // 2)
    votes = np.where(np.isnan(margins), rng.integers(-1, 2, (n, 4)), np.where(margins > 0, 0, 1)).astype(np.int8)
    votes[:, 3] = -1
    ids = np.array([f"p{i}" for i in range(n)])
    return VoteMatrix(votes, margins, ("margins", "votes", "both", "$silent_{$"), ids, np.repeat("g", n))


def learned(m, dependence=None):
    names = tuple(f"judge-{j}/a prompt with a name of some length, {j}" for j in range(m))
    dependence = np.eye(m) if dependence is None else dependence
    return SimpleNamespace(names_=names, accuracy_=np.ones(m), weights_=np.ones(m), dependence_=dependence)


def draw(kind, path):
    if kind == "evidence":
        plot_evidence(Weighted([0.5, 1.0, -0.2, 0.0]), some_votes(), path)
    elif kind == "dependence":
        plot_dependence(learned(5), path)
    else:
        p_a = np.linspace(0, 1, 300)
        plot_reliability(p_a, np.where(np.arange(300) % 7 == 0, np.nan, np.arange(300) % 3 > 0), path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("kind", ["evidence", "dependence", "reliability"])
def test_the_same_picture_is_the_same_bytes_in_the_format_of_its_suffix(tmp_path, kind, suffix):
    for name in ("one", "two"):
        draw(kind, tmp_path / f"{name}.{suffix}")
    one = (tmp_path / f"one.{suffix}").read_bytes()
    assert one.startswith(STARTS[suffix])
    assert one == (tmp_path / f"two.{suffix}").read_bytes()
    assert b"dc:date" not in one
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{suffix}", f"two.{suffix}"]


@pytest.mark.parametrize("kind", ["evidence", "dependence", "reliability"])
def test_another_suffix_is_refused_and_nothing_written(tmp_path, kind):
    with pytest.raises(DataError, match=r"expected a path that ends in .png or .svg, found .*plot.pdf"):
        draw(kind, tmp_path / "plot.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_drawing_leaves_pyplot_and_the_users_settings_alone(tmp_path):
    code = (
        "import sys, matplotlib, numpy as np\n"
        "from labeling.plots import STYLE, plot_reliability\n"
        "before = [matplotlib.rcParams[name] for name in STYLE]\n"
        f"plot_reliability(np.array([0.2, 0.9]), np.array([0, 1]), {str(tmp_path / 'r.png')!r})\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or [matplotlib.rcParams[name] for name in STYLE] != before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_curve_is_what_the_voter_adds_alone_along_its_margins():
    margins, votes, both, silent = curves(Weighted([0.5, 1.0, -0.2, 3.0]), some_votes())
    sizes = some_votes().margins[:, 0]
    assert (np.diff(margins.lean) > 0).all()
    assert (np.diff(margins.added) > 0).all()
    assert margins.added[[0, -1]] == pytest.approx(0.5 * np.array([sizes.min(), sizes.max()]), rel=1e-5)
    assert np.abs(margins.lean).max() <= 1
    assert margins.median_size == pytest.approx(np.median(np.abs(sizes)))
    assert not margins.bare
    assert votes.bare == pytest.approx({1: 1.0, -1: -1.0})
    assert not len(votes.added)
    assert both.bare == pytest.approx({1: -0.2, -1: 0.2})
    assert both.added[[0, -1]] == pytest.approx([0.6, -0.6])
    assert both.added[both.lean == 0] == pytest.approx(0)
    assert not len(silent.added)
    assert not silent.bare


def test_what_is_believed_when_nobody_speaks_is_no_voters_doing():
    plain, biased = (curves(Weighted([0.5, 1.0, -0.2, 3.0], bias), some_votes()) for bias in (0.0, 2.0))
    for one, other in zip(plain, biased, strict=True):
        assert one.added == pytest.approx(other.added)
        assert one.bare == pytest.approx(other.bare)


def test_a_margin_too_small_to_vote_on_keeps_its_abstention():
    class VotesOnly:
        def posterior(self, votes):
            return sigmoid(votes.signs.sum(axis=1).astype(float))

    size = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    votes = np.where(np.abs(size) < 0.5, -1, np.where(size > 0, 0, 1)).astype(np.int8)
    curve = curves(VotesOnly(), VoteMatrix(votes, size, ("x",), np.arange(41).astype(str)))[0]
    assert curve.added == pytest.approx(np.where(np.abs(size[:, 0]) < 0.5, 0, np.sign(size[:, 0])))


def test_no_votes_have_no_curves():
    with pytest.raises(VotesError, match="0 rows of votes"):
        curves(Weighted([1.0] * 4), some_votes(0))


def test_voters_that_depend_on_each_other_stand_side_by_side():
    dependence = np.eye(6)
    dependence[[0, 4, 1, 5], [4, 0, 5, 1]] = [0.9, 0.9, -0.8, -0.8]
    order = alike_together(dependence).tolist()
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(1) - order.index(5)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 65])
def test_one_voter_or_sixty_five_can_be_drawn(tmp_path, m):
    draws = np.random.default_rng(0).normal(size=(100, m))
    plot_dependence(learned(m, np.corrcoef(draws.T).reshape(m, m)), tmp_path / "d.png")
    votes = VoteMatrix(
        np.where(draws > 0, 0, 1).astype(np.int8), draws.astype(np.float32), learned(m).names_,
        np.arange(100).astype(str),
    )  # fmt: skip
    plot_evidence(Weighted(np.ones(m)), votes, tmp_path / "e.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_reliability_needs_gold(tmp_path):
    with pytest.raises(GoldError, match="no gold label at all"):
        plot_reliability([0.2, 0.7], [np.nan, np.nan], tmp_path / "r.png")
