"""What is left of an evaluation: report.json, report.md, a reliability diagram, accuracy by length difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from labeling.figures import Figures
from labeling.files import check_report, manifest, replacing, sha256, write_json
from labeling.pairs import Pairs
from labeling.plots import BLUE, GREY, ORANGE, drawing, plot_reliability
from rm.evaluation import BY_LENGTH, Evaluation
from rm.length_bias import BINS

HEAD = ("pairs", "ties", "accuracy", "log-loss", "Brier", "ECE")
FILES = ("report.json", "report.md", "reliability.png", "length.png")


def write_evaluation(
    folder: str | Path, result: Evaluation, pairs: Pairs, inputs: Mapping[str, str], seed: int = 0
) -> None:
    """Write `FILES` and manifest.json to a folder; `pairs` are those evaluated on, `inputs` the hashes of the files.

    The same evaluation gives the same bytes. Other files there are left alone; a folder with the manifest of something
    else, as a reward model's, is refused (DataError).
    """
    out = Path(folder)
    check_report(out, "evaluate")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", result.record())
    with replacing(out / "report.md") as part:
        part.write_text(f"# Evaluation of a reward model\n\n{markdown(result)}\n", encoding="utf-8")
    plot_reliability(result.p_a, pairs.gold, out / "reliability.png")
    plot_length(result, out / "length.png")
    record = manifest("evaluate", inputs=inputs, seed=seed, counts={"pairs": result.n, "ties": result.n_ties})
    write_json(out / "manifest.json", record | {"files": {name: sha256(out / name) for name in FILES}})


def markdown(result: Evaluation) -> str:
    """Return an evaluation as Markdown tables, intervals in brackets."""
    calibrated = result.temperature != 1.0
    rows: dict[str, Figures] = {
        "reward model" if not calibrated else f"reward model, temperature {result.temperature:.3g}": result
    }
    rows |= {"reward model, temperature 1": result.uncalibrated} if calibrated else {}
    parts = [table("", {**rows, **result.rivals}), _length_text(result)]
    for column, slices in groupby(result.slices, key=lambda part: part.column):
        values = {part.value: part.figures for part in slices}
        if len(values) > 1:
            parts.append(table(column, values))
    return "\n\n".join(parts)


def table(title: str, rows: Mapping[str, Figures]) -> str:
    """Return figures as a Markdown table, one row a name; the head of the first column is `title`."""
    return markdown_table(
        (title, *HEAD),
        (
            (
                name,
                f"{row.n:,}",
                f"{row.n_ties:,}",
                spanned(row.accuracy, row.accuracy_low, row.accuracy_high),
                spanned(row.log_loss, row.log_loss_low, row.log_loss_high),
                spanned(row.brier, row.brier_low, row.brier_high),
                spanned(row.ece, row.ece_low, row.ece_high),
            )
            for name, row in rows.items()
        ),
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def spanned(value: float, low: float, high: float) -> str:
    """Return a figure with its interval in brackets; '-' where it is NaN.

    >>> spanned(0.75, 0.7, 0.8)
    '0.750 [0.700, 0.800]'
    """
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def plot_length(result: Evaluation, path: str | Path) -> None:
    """Draw accuracy by length difference, with 95 % intervals over groups and the number of pairs below."""
    found = {part.value: part.figures for part in result.slices if part.column == BY_LENGTH}
    at = [place for place, name in enumerate(BINS) if name in found]
    rows = [found[BINS[place]] for place in at]
    values = np.array([row.accuracy for row in rows])
    low, high = (np.array([getattr(row, f"accuracy_{end}") for row in rows]) for end in ("low", "high"))
    with drawing(path, 7.2, 5.4) as figure:
        axes, pairs = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        axes.vlines(at, low, high, color=BLUE, alpha=0.7, label="95 % interval over groups")
        axes.scatter(at, values, color=BLUE, s=40, zorder=3, label="reward model")
        longer = [0.5 if name == "equal" else float(name.startswith("longer")) for name in BINS]
        axes.scatter(range(len(BINS)), longer, color=ORANGE, marker="_", s=160, label="always longer")
        axes.set(ylabel="accuracy", ylim=(-0.04, 1.04), xlim=(-0.6, len(BINS) - 0.4))
        controlled = result.length.controlled_accuracy
        axes.set_title(f"Accuracy by length difference (length-controlled: {controlled:.3f})", fontsize=10)
        axes.legend(loc="lower right", fontsize=8, frameon=False)
        pairs.bar(at, [row.n for row in rows], color=BLUE, alpha=0.6)
        pairs.set(ylabel="pairs", xlabel="the preferred response is")
        pairs.set_xticks(range(len(BINS)), [name.replace(" by ", "\nby ") for name in BINS], fontsize=7.5)
        for panel in (axes, pairs):
            panel.spines[["top", "right"]].set_visible(False)


def _accuracies(title: str, rows: Mapping[str, Figures]) -> str:
    return markdown_table(
        (title, "pairs", "accuracy"),
        (
            (name, f"{row.n:,}", spanned(row.accuracy, row.accuracy_low, row.accuracy_high))
            for name, row in rows.items()
        ),
    )


def _length_text(result: Evaluation) -> str:
    length = result.length
    controlled = (length.controlled_accuracy, length.controlled_accuracy_low, length.controlled_accuracy_high)
    return (
        f"Length: accuracy {spanned(length.accuracy_longer, np.nan, np.nan)} where the preferred response is longer "
        f"({length.n_longer:,} pairs), {spanned(length.accuracy_shorter, np.nan, np.nan)} where it is shorter "
        f"({length.n_shorter:,}); both counting equally {spanned(*controlled)}. Rank correlation of the difference in "
        f"reward with that in length {spanned(length.correlation, length.correlation_low, length.correlation_high)}."
    )
