"""The demo's report: one table, report.json and a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from labeling.figures import Figures, measure
from labeling.files import replacing, versions, write_json
from labeling.metrics import accuracy, ece, interval, log_loss, reliability
from labeling.pairs import Pairs
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row(Figures):
    """How well one way of judging tells which response is preferred, on the held-out pairs."""

    name: str
    p_a: FloatArray = field(repr=False)
    """P(A preferred) of each held-out pair, shape (n,)."""


@dataclass(frozen=True)
class Quality:
    """How good the weak labels of the pool are, against its hidden labels."""

    n_pairs: int
    """Pairs without gold whose true label is known to us."""
    coverage_share: float
    """Share of them on which a voter voted."""
    accuracy: float
    accuracy_surer_half: float
    """Accuracy on the half with the higher confidence."""
    log_loss: float
    ece: float


@dataclass(frozen=True)
class Gain:
    """Accuracy of the RM trained on weak labels minus that of the RM trained on gold alone, same held-out pairs."""

    accuracy: float
    accuracy_low: float
    """Lower end of the 95 % interval over groups; NaN with one group."""
    accuracy_high: float


def measured(name: str, p_a: FloatArray, test: Pairs) -> Row:
    """Measure probabilities (n,) against the gold of the held-out pairs."""
    return Row(**vars(measure(p_a, test.gold, test.groups)), name=name, p_a=p_a)


def longer_row(hidden: Pairs, test: Pairs) -> Row:
    """Measure 'always the longer response', as sure of itself as it is right on the gold pairs (at least 0.5)."""
    known = hidden.take(~np.isnan(hidden.gold) & (hidden.gold != 0.5) & (_lengths(hidden) != 0))
    right = float(((_lengths(known) > 0) == (known.gold > 0.5)).sum())
    confidence = max((right + 1) / (len(known) + 2), 0.5 + 1e-9)
    return measured("always longer", 0.5 + np.sign(_lengths(test)) * (confidence - 0.5), test)


def quality(p_a: FloatArray, pool: Pairs, hidden: Pairs, votes: VoteMatrix) -> Quality:
    """Measure the weak labels (n,) of the pool on the pairs whose label the label model did not see."""
    unseen = np.isnan(hidden.gold) & ~np.isnan(pool.gold)
    p, gold = p_a[unseen], pool.gold[unseen]
    confidence = np.abs(p - 0.5)
    surer = confidence >= np.median(confidence)
    covered = (votes.votes[unseen] >= 0).any(axis=1)
    return Quality(
        n_pairs=int(unseen.sum()),
        coverage_share=float(covered.mean()),
        accuracy=accuracy(p, gold),
        accuracy_surer_half=accuracy(p[surer], gold[surer]),
        log_loss=log_loss(p, gold),
        ece=ece(p, gold),
    )


def paired_gain(weak: Row, gold_only: Row, test: Pairs, seed: int) -> Gain:
    """Return the gain in accuracy, with an interval from resampling groups, both models on the same draw."""
    right_weak, right_gold = _right(weak.p_a, test.gold), _right(gold_only.p_a, test.gold)
    # `interval` resamples pairs of arrays: the metric is the mean difference on the decided pairs.
    decided = test.gold != 0.5
    halves = (0.5 + (right_weak - right_gold) / 2)[decided]
    low, high = interval(lambda p, _: float(2 * p.mean() - 1), halves, test.gold[decided], test.groups[decided], seed)
    return Gain(weak.accuracy - gold_only.accuracy, low, high)


def write_report(
    out: Path,
    options: dict[str, Any],
    rows: Sequence[Row],
    pool_quality: Quality,
    gain: Gain,
    gold: FloatArray,
    extra: dict[str, Any],
) -> Path:
    """Write report.json and reliability.png to a folder; return the path of report.json."""
    report = {
        "options": options,
        "rows": [{name: value for name, value in asdict(row).items() if name != "p_a"} for row in rows],
        "label_quality": asdict(pool_quality),
        "gain": asdict(gain),
        "versions": versions(),
        **extra,
    }
    write_json(out / "report.json", report)
    plot_reliability(out / "reliability.png", {row.name: (row.p_a, gold) for row in rows if np.ptp(row.p_a) > 0})
    return out / "report.json"


def print_table(console: Console, title: str, rows: Sequence[Row], pool_quality: Quality, gain: Gain) -> None:
    """Print the held-out rows, the quality of the weak labels, and the gain."""
    table = Table(title=title, title_justify="left")
    for column in ("held-out pairs", "accuracy", "95 % interval", "log-loss", "ECE"):
        table.add_column(column, justify="left" if column == "held-out pairs" else "right")
    for row in rows:
        spread = "-" if np.isnan(row.accuracy_low) else f"{row.accuracy_low:.3f} - {row.accuracy_high:.3f}"
        table.add_row(row.name, f"{row.accuracy:.3f}", spread, f"{row.log_loss:.3f}", f"{row.ece:.3f}")
    console.print(table)
    console.print(
        f"weak labels of the pool ({pool_quality.n_pairs} pairs): coverage {pool_quality.coverage_share:.1%}, accuracy "
        f"{pool_quality.accuracy:.3f} (surer half {pool_quality.accuracy_surer_half:.3f}), log-loss "
        f"{pool_quality.log_loss:.3f}, ECE {pool_quality.ece:.3f}"
    )
    console.print(
        f"weak labels changed the reward model's accuracy by {100 * gain.accuracy:+.1f} points "
        f"[{100 * gain.accuracy_low:+.1f}, {100 * gain.accuracy_high:+.1f}]"
    )


def plot_reliability(path: Path, curves: dict[str, tuple[FloatArray, FloatArray]]) -> None:
    """Draw how often the likelier response is preferred against the confidence in it, one line per (p_a, gold)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", label="perfectly calibrated")
    for name, (p_a, gold) in curves.items():
        diagram = reliability(p_a, gold)
        share = diagram.n_pairs / diagram.n_pairs.sum()
        shown = share >= 0.01  # the share right of a handful of pairs says nothing
        x, y = diagram.confidence[shown], diagram.preferred_share[shown]
        line = axes.plot(x, y, label=f"{name} (ECE {ece(p_a, gold):.3f})", alpha=0.8)[0]
        axes.scatter(x, y, s=300 * share[shown], color=line.get_color(), alpha=0.6)
    axes.set(
        xlabel="confidence max(p, 1 - p)",
        ylabel="share of pairs whose likelier response is preferred",
        title="Reliability on held-out pairs (dots: bins with 1 % of the pairs or more)",
        xlim=(0.49, 1.01),
        ylim=(0.28, 1.02),
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")  # over-confident curves end where it would lie
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120, metadata={"Software": None})


def _lengths(pairs: Pairs) -> FloatArray:
    a, b = (pc.utf8_length(pairs.table[name]).to_numpy() for name in ("response_a", "response_b"))
    return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)


def _right(p_a: FloatArray, gold: FloatArray) -> FloatArray:
    return np.where(p_a == 0.5, 0.5, (p_a > 0.5) == (gold > 0.5)).astype(np.float64)
