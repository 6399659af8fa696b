"""What is shown of label models: the report on a fitted one, and the table of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from labeling.compare import Comparison
from labeling.explain import voter_table
from labeling.files import check_report, manifest, replacing, sha256, write_json
from labeling.label_model import LabelModel
from labeling.plots import plot_dependence, plot_evidence, plot_reliability
from labeling.votes import VoteMatrix

COLUMNS = {"accuracy": "accuracy", "log_loss": "log-loss", "behind": "behind best", "ece": "ECE", "brier": "Brier"}
"""Columns of a comparison and how they are headed."""
FILES = ("model.json", "voters.csv", "evidence.png", "dependence.png", "reliability.png")


def write_label_report(folder: Path, model: LabelModel, votes: VoteMatrix, inputs: Mapping[str, str]) -> str:
    """Write `FILES` and manifest.json to a folder; return in one line what the label model learned of its voters.

    reliability.png is of the cross-fitted gold pairs, and absent without them. Other files there are left alone; a
    folder with the manifest of something else is refused (DataError).
    """
    check_report(folder, "fit")
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    model.save(folder / "model.json")
    with replacing(folder / "voters.csv") as part:
        voter_table(model).to_csv(part, float_format="%.6g", lineterminator="\n")
    plot_evidence(model, votes, folder / "evidence.png")
    plot_dependence(model, folder / "dependence.png")
    calibration = model.calibration_
    if calibration is not None:
        plot_reliability(calibration.p_a, calibration.gold, folder / "reliability.png")
    found = None if calibration is None else calibration.figures()
    record = manifest("fit", inputs=inputs, seed=None, counts={"pairs": len(votes), "calibration": found})
    files = {name: sha256(folder / name) for name in FILES if (folder / name).is_file()}
    write_json(folder / "manifest.json", record | {"files": files})
    return f"{folder}: {learned(model)}"


def learned(model: LabelModel) -> str:
    """Say in one line which model of the votes was chosen, who weighs most, who is most alike, what that rests on."""
    table = voter_table(model).dropna(subset="accuracy")
    heaviest = table.loc[table["weight"].abs().sort_values(ascending=False, kind="stable").index[:3]]
    weights = ", ".join(f"{row.Index} {row.weight:+.2f}" for row in heaviest.itertuples())
    alike = ""
    if len(table) > 1:
        first = str(table["dependence"].idxmax())
        alike = f"; most alike {first} and {table['nearest'][first]} ({table['dependence'][first]:+.2f})"
    return f"{model.structure_}; most weight {weights}{alike}; {model.assumption_}"


def print_comparison(console: Console, title: str, table: Comparison) -> None:
    """Print label models side by side, the best first, in 80 columns, then what there is to say of each."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False, collapse_padding=True)
    for k, column in enumerate(("label model", *COLUMNS.values(), "seconds")):
        shown.add_column(column, justify="right" if k else "left", no_wrap=True)
    for name, row in table.iterrows():
        seconds = "-" if np.isnan(row["seconds"]) else f"{row['seconds']:.2f}"
        shown.add_row(escape(str(name)), *(_cell(row, column) for column in COLUMNS), seconds)
    console.print(shown)
    for name, note in table["note"].items():
        if note:
            console.print(f"{name}: {note}", markup=False, highlight=False)


def _cell(row: pd.Series, column: str) -> str:
    """Return a figure with its interval below."""
    value, low, high = (float(row[name]) for name in (column, f"{column}_low", f"{column}_high"))
    if np.isnan(value):
        return "-"
    if column == "behind" and low == high == 0:
        return "best"
    spread = f"\n[dim]{low:.2f}{' to ' if column == 'behind' else '-'}{high:.2f}[/dim]"
    return f"{value:.3f}{'' if np.isnan(low) else spread}"
