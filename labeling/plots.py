"""Pictures of a label model, as PNG or SVG: evidence curves, dependence of voters, reliability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError, VotesError
from labeling.explain import HasLearned, HasPosterior, log_odds
from labeling.files import replacing
from labeling.metrics import ece, reliability
from labeling.summary import wilson
from labeling.votes import Vote, VoteMatrix

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CURVE_POINTS = 81
"""Most margins of a voter that its curve is drawn through, evenly spaced in rank."""
BLUE, ORANGE, GREY, INK = "#2166ac", "#d6741a", "#9a9a9a", "#333333"
STYLE: Any = {
    "svg.hashsalt": "weakpref",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "text.color": INK,
}


@dataclass(frozen=True)
class Curve:
    """What one voter adds alone, at some of what it said; > 0 favours A throughout."""

    voter: str
    lean: FloatArray
    """Shape (k,), increasing, in [-1, 1]: sign of the margin times the share of the voter's margins smaller in size."""
    added: FloatArray
    """Log-odds added at that margin, shape (k,)."""
    bare: dict[int, float]
    """Log-odds added by a vote without margin: by +1 (A) and -1 (B), where the voter gave such votes."""
    median_size: float
    """Median size of its margins; NaN without any."""


def curves(model: HasPosterior, votes: VoteMatrix) -> list[Curve]:
    """Return a curve per voter: the log-odds of rows on which it alone speaks, minus those where nobody does.

    The rows are what it said: at most `CURVE_POINTS` of its margins, and the votes it gave without a margin.
    Raises VotesError without rows.
    """
    if not len(votes):
        raise VotesError("0 rows of votes: there is nothing to draw curves through; pass the votes fitted on")
    said = [np.concatenate([_margin_rows(votes, j), _bare_rows(votes, j)]) for j in range(len(votes.names))]
    logits = log_odds(model.posterior(_alone(votes, said)))
    added = np.split(logits[1:] - logits[0], np.cumsum([len(rows) for rows in said])[:-1])
    return [_curve(votes, j, rows, added[j]) for j, rows in enumerate(said)]


def plot_evidence(model: HasPosterior, votes: VoteMatrix, path: str | Path) -> None:
    """Draw for every voter the log-odds it adds alone, from its strongest margin for B to its strongest for A.

    One panel a voter, those that can add most first. The line goes through the voter's margins by size; a dot is a vote
    without margin. Any fitted label model will do. Writes PNG or SVG by the suffix of `path`; raises DataError for
    another suffix.
    """
    columns = min(len(votes.names), max(3, math.ceil(math.sqrt(len(votes.names) * 0.8))))
    rows = math.ceil(len(votes.names) / columns)
    with drawing(path, max(1.0 + 2.1 * columns, 5.6), 0.9 + 1.8 * rows) as figure:
        drawn = sorted(curves(model, votes), key=lambda curve: (-_reach(curve), curve.voter))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for panel, curve in zip(panels, drawn, strict=False):
            _draw_curve(panel, curve)
        for k, panel in enumerate(panels):
            panel.set_visible(k < len(drawn))
            panel.tick_params(labelbottom=True)
        figure.suptitle("Log-odds that each voter adds alone (> 0 favours A)", fontsize=11)
        margins = "lean to B or A: share of the voter's margins that are smaller; dots: votes without margin"
        figure.supxlabel(margins, fontsize=8)


def plot_dependence(model: HasLearned, path: str | Path) -> None:
    """Draw how far any two of the m voters agree beyond what the preferred response explains, like ones side by side.

    Red: up to 1 = copies; blue: down to -1 = opposites. Writes PNG or SVG by the suffix of `path`; raises DataError for
    another suffix.
    """
    order = alike_together(model.dependence_)
    m, names = len(order), [_short(model.names_[j]) for j in order]
    values = np.where(np.eye(m, dtype=bool), np.nan, model.dependence_[np.ix_(order, order)])
    side = (0.45 if m <= 12 else 0.2) * m
    with drawing(path, 3.4 + max(side, 1.6), 2.6 + max(side, 1.6)) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
        axes.set(facecolor="#dddddd")
        axes.set_xticks(range(m), names, rotation=90, parse_math=False)
        axes.set_yticks(range(m), names, parse_math=False)
        for ticks in (axes.set_xticks, axes.set_yticks):
            ticks(np.arange(m - 1) + 0.5, minor=True)
        axes.tick_params(which="both", length=0, labelsize=8)
        axes.grid(which="minor", color="white", linewidth=0.8)
        for i, j in np.argwhere(~np.isnan(values)) if m <= 12 else ():
            shade = "white" if abs(values[i, j]) > 0.6 else INK
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=shade)
        figure.suptitle("Agreement beyond what the preference explains (1 = copies)", fontsize=10)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)


def plot_reliability(p_a: npt.ArrayLike, gold: npt.ArrayLike, path: str | Path) -> None:
    """Draw how often the likelier response is preferred against the confidence in it, and how often that is claimed.

    p_a and gold, shape (n,), are P(A preferred) in [0, 1], gold NaN where unlabelled. Dots are the bins of `ece`, sized
    by their pairs; bars are Wilson 95 % intervals, which take pairs as independent. Writes PNG or SVG by the suffix of
    `path`; raises DataError for another suffix, GoldError without gold.
    """
    diagram, error = reliability(p_a, gold), ece(p_a, gold)
    n = diagram.n_pairs
    p = np.asarray(p_a, dtype=np.float64)[~np.isnan(np.asarray(gold, dtype=np.float64))]
    spans = [wilson(round(share * k), int(k)) for share, k in zip(diagram.preferred_share, n, strict=True)]
    with drawing(path, 5.6, 6.4) as figure:
        axes, claimed = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        axes.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        axes.vlines(diagram.confidence, *np.transpose(spans), color=BLUE, alpha=0.7, label="95 % interval of a bin")
        axes.scatter(diagram.confidence, diagram.preferred_share, s=10 + 300 * n / n.sum(), color=BLUE, alpha=0.85)
        axes.set(ylabel="share whose likelier response is preferred", ylim=(-0.03, 1.03), xlim=(0.485, 1.015))
        axes.set_title(f"Reliability on {n.sum():,} gold pairs, ECE {error:.3f}", fontsize=10)
        axes.legend(loc="lower right", fontsize=8, frameon=False)
        claimed.hist(np.maximum(p, 1 - p), bins=np.linspace(0.5, 1, 21), color=BLUE, alpha=0.6, rwidth=0.9)
        claimed.set(xlabel="confidence max(p, 1 - p)", ylabel="pairs")
        for panel in (axes, claimed):
            panel.spines[["top", "right"]].set_visible(False)


@contextmanager
def drawing(path: str | Path, width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure, in inches, and write it: the same drawing gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise DataError(f"a plot is PNG or SVG: expected a path that ends in .png or .svg, found {path}; rename it")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        dated = {"Date": None} if suffix == ".svg" else {"Software": None}
        with replacing(path) as part:
            figure.savefig(part, format=suffix[1:], dpi=130, metadata=dated)


def _margin_rows(votes: VoteMatrix, j: int) -> IntArray:
    """Return rows on which voter j gives a margin, by increasing margin, evenly spaced in rank."""
    rows = np.flatnonzero(~np.isnan(votes.margins[:, j]))
    rows = rows[np.argsort(votes.margins[rows, j], kind="stable")]
    kept = np.linspace(0, len(rows) - 1, min(len(rows), CURVE_POINTS)).round().astype(np.int64)
    return rows[kept]


def _bare_rows(votes: VoteMatrix, j: int) -> IntArray:
    """Return a row on which voter j votes A without a margin and one on which it votes B, as far as there are."""
    bare = np.isnan(votes.margins[:, j])
    found = [np.flatnonzero(bare & (votes.votes[:, j] == vote))[:1] for vote in (Vote.A, Vote.B)]
    return np.concatenate(found)


def _alone(votes: VoteMatrix, said: list[IntArray]) -> VoteMatrix:
    """Return a row where nobody speaks, then for each voter the rows (k_j,) it said something on, all others silent."""
    rows = np.concatenate([np.zeros(1, dtype=np.int64), *said])
    voter = np.repeat(np.arange(len(said)), [len(lines) for lines in said])
    cells = (np.arange(1, len(rows)), voter)
    ballots = np.full((len(rows), len(said)), Vote.ABSTAIN, dtype=np.int8)
    margins = np.full(ballots.shape, np.nan, dtype=np.float32)
    ballots[cells], margins[cells] = votes.votes[rows[1:], voter], votes.margins[rows[1:], voter]
    groups = None if votes.groups is None else votes.groups[rows]
    return VoteMatrix(ballots, margins, votes.names, votes.pair_ids[rows], groups)


def _curve(votes: VoteMatrix, j: int, rows: IntArray, added: FloatArray) -> Curve:
    margins = votes.margins[rows, j].astype(np.float64)
    given = ~np.isnan(margins)
    sizes = np.abs(votes.margins[:, j].astype(np.float64))
    sizes = np.sort(sizes[sizes > 0])
    ends = [np.searchsorted(sizes, np.abs(margins[given]), side=side) for side in ("left", "right")]
    lean = np.sign(margins[given]) * sum(ends) / max(2 * len(sizes), 1)
    bare = dict(zip(votes.signs[rows[~given], j].tolist(), added[~given].tolist(), strict=True))
    return Curve(votes.names[j], lean, added[given], bare, float(np.median(sizes)) if len(sizes) else math.nan)


def _reach(curve: Curve) -> float:
    reach = [0.0, *np.abs(curve.added).tolist(), *(abs(added) for added in curve.bare.values())]
    return float(max(reach))


def _draw_curve(panel: Any, curve: Curve) -> None:
    panel.axhline(0, color=GREY, linewidth=0.6)
    panel.axvline(0, color=GREY, linewidth=0.6)
    panel.plot(curve.lean, curve.added, color=BLUE, linewidth=1.4, marker=".", markersize=3)
    panel.vlines(list(curve.bare), 0, list(curve.bare.values()), color=ORANGE, linewidth=1)
    panel.scatter(list(curve.bare), list(curve.bare.values()), color=ORANGE, s=28, zorder=3)
    if not math.isnan(curve.median_size):
        note = f"median size {curve.median_size:.3g}"
        panel.annotate(note, (0.97, 0.04), xycoords="axes fraction", ha="right", fontsize=6.5, color=GREY)
    panel.set_title(_short(curve.voter), fontsize=8.5, parse_math=False)
    panel.set_xticks([-1, 0, 1], ["B", "0", "A"])
    panel.tick_params(labelsize=7.5, color=GREY)
    panel.spines[["top", "right"]].set_visible(False)


def alike_together(dependence: FloatArray) -> IntArray:
    """Return an order of the voters (m,) that puts those with a large dependence, of either sign, side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    m = len(dependence)
    if m < 3:
        return np.arange(m)
    distance = 1 - np.nan_to_num(np.abs(dependence + dependence.T) / 2)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    order: IntArray = leaves_list(tree).astype(np.int64)
    return order


def _short(name: str, most: int = 28) -> str:
    """Return a name of at most `most` characters: start and end of it."""
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"
