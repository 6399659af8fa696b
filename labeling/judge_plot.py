"""A picture of a judge: either order beside the other, or the scores, and the margins where gold says who is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from labeling.errors import DataError
from labeling.files import replacing
from labeling.pairs import Pairs
from labeling.plots import BLUE, GREY, ORANGE, STYLE
from labeling.verdicts import Verdicts


def plot_verdicts(verdicts: Verdicts, pairs: Pairs, path: str | Path) -> None:
    """Draw what a judge said of the pairs as PNG or SVG, by the suffix; raises DataError for another suffix.

    Left, the log-odds of A shown second against those of A shown first: in the shaded quarters both orders agree;
    position bias is the distance from the diagonal; or the histogram of scores. Right, the margins against gold.
    """
    import matplotlib
    from matplotlib.figure import Figure

    kind = Path(path).suffix.lower()
    if kind not in (".png", ".svg"):
        raise DataError(f"a plot is PNG or SVG: expected a path that ends in .png or .svg, found {path}; rename it")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        if np.isnan(verdicts.scores).all():
            _draw_orders(left, verdicts)
        else:
            _draw_scores(left, verdicts)
        _draw_margins(right, verdicts, pairs)
        figure.suptitle(verdicts.name, fontsize=11, parse_math=False)
        with replacing(path) as part:
            figure.savefig(part, format=kind[1:], dpi=130, metadata={"Date": None} if kind == ".svg" else None)


def _draw_orders(axes: Any, verdicts: Verdicts) -> None:
    first, second = verdicts.shown_first, verdicts.shown_second
    sizes = np.abs(np.concatenate([first, second, [1.0]]))
    reach = 1.05 * float(np.nanmax(sizes))
    for corner in (0, -reach):
        axes.fill_between([corner, corner + reach], corner, corner + reach, color="#eeeeee", linewidth=0)
    axes.plot([-reach, reach], [-reach, reach], color=GREY, linewidth=0.8)
    axes.scatter(first, second, s=8, color=BLUE, alpha=0.5, linewidths=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="log-odds of A, shown first")
    axes.set_ylabel("log-odds of A, shown second")
    axes.set_title(f"Both orders: bias {verdicts.position_bias:.2f} log-odds", fontsize=9)


def _draw_scores(axes: Any, verdicts: Verdicts) -> None:
    scores = verdicts.scores[~np.isnan(verdicts.scores)]
    axes.hist(scores, bins=np.arange(-0.25, 5.5, 0.5), color=BLUE)
    axes.set(xlabel="score", ylabel="responses")
    axes.set_title(f"Scores; {verdicts.n_unparsed:,} of {verdicts.n_samples:,} samples unparsed", fontsize=9)


def _draw_margins(axes: Any, verdicts: Verdicts, pairs: Pairs) -> None:
    """Draw how the margin towards the preferred response is spread: right of 0 the judge is right."""
    gold = pairs.gold
    decided = ~np.isnan(gold) & (gold != 0.5) & ~np.isnan(verdicts.margins)
    towards = np.where(gold > 0.5, 1, -1)[decided] * verdicts.margins[decided]
    reach = float(np.abs(towards).max()) if towards.size and towards.any() else 1.0
    edges = np.linspace(-reach, reach, 21)
    axes.hist(towards[towards > 0], bins=edges, color=BLUE, label="right")
    axes.hist(towards[towards < 0], bins=edges, color=ORANGE, label="wrong")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="margin towards the preferred response", ylabel="gold pairs")
    axes.set_title(f"Margins on {int(decided.sum()):,} gold pairs", fontsize=9)
    axes.legend(frameon=False)
