"""What each built-in heuristic is worth: coverage and accuracy on labelled pairs, data/bench/heuristics.json.

python benchmarks/heuristics.py run      # reads ../shared/data and the quickstart data
python benchmarks/heuristics.py print    # the table of docs/voters.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from labeling import apply, heuristics, read_pairs, summary
from labeling.files import write_json

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "bench" / "heuristics.json"
SHARED = ("ukp_convincing", "hh_harmless", "pandalm")
SETS = {
    "quickstart": ROOT / "data" / "quickstart" / "pairs.parquet",
    **{name: ROOT.parent / "shared" / "data" / f"{name}.parquet" for name in SHARED},
}


def run() -> None:
    """Let the default heuristics vote on each set, and keep what the labels say of them."""
    found: dict[str, Any] = {}
    for name, path in SETS.items():
        pairs = read_pairs(path, on_bad_rows="drop")
        table = summary(apply(heuristics(), pairs), pairs)
        columns = ["coverage_share", "n_gold", "accuracy", "accuracy_low", "accuracy_high"]
        rows = {str(voter): dict(zip(columns, row, strict=True)) for voter, *row in table[columns].itertuples()}
        found[name] = {"pairs": len(pairs), "voters": rows}
    write_json(OUT, found)


def table(found: dict[str, Any]) -> str:
    """Return the table: accuracy where a heuristic votes, its interval, and how often it does."""
    rows = {voter.name: [_cell(found[name]["voters"][voter.name]) for name in found] for voter in heuristics()}
    lines = [f"| `{voter}` | {' | '.join(cells)} |" for voter, cells in rows.items()]
    return "\n".join([f"| heuristic | {' | '.join(found)} |", "|---|" + "---|" * len(found), *lines])


def _cell(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        return "-"
    accuracy, low, high = (row[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    return f"{accuracy:.2f} [{low:.2f}, {high:.2f}] ({row['coverage_share']:.0%})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "print"])
    if parser.parse_args().command == "run":
        run()
    else:
        found = json.loads(OUT.read_text(encoding="utf-8"))
        print(table({name: found[name] for name in SETS}))
