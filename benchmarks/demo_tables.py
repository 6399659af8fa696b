"""Run `weakpref demo` over data sets, gold sizes and seeds; write data/bench/demo_<set>.json; print README tables.

python benchmarks/demo_tables.py run ukp_convincing --seeds 0 1 2 3 4 --work runs/tables
python benchmarks/demo_tables.py collect ukp_convincing --work runs/tables
python benchmarks/demo_tables.py print
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "data" / "bench"
GOLD = (50, 150, 450)


def run(name: str, seeds: Sequence[int], gold: Sequence[int], work: Path, threads: int) -> None:
    """Run the demo for every seed and gold size; the RM on all labels of a seed is trained once."""
    import torch

    from augment.demo import DemoOptions, run_demo

    torch.set_num_threads(threads)
    data = None if name == "quickstart" else str(ROOT.parent / "shared" / "data" / f"{name}.parquet")
    for seed in seeds:
        done: Path | None = None
        for n in gold:
            out = work / f"{name}-{seed}-{n}"
            if done is not None and not (out / "baselines" / "all_labels").exists():
                shutil.copytree(done / "baselines" / "all_labels", out / "baselines" / "all_labels")
            run_demo(DemoOptions(data=data, gold=n, out=out, seed=seed), Console(width=120))
            done = out


def collect(name: str, work: Path) -> None:
    """Gather the reports of a data set into one JSON of means, standard errors and seeds."""
    reports = [json.loads(path.read_text()) for path in sorted(work.glob(f"{name}-*-*/report.json"))]
    settings = {json.dumps([{**r["options"]["config"], "seed": 0}, r["versions"]], sort_keys=True) for r in reports}
    if len(settings) != 1:
        raise SystemExit(f"{work} holds reports of {len(settings)} settings or versions; run into an empty folder")
    sizes = {report["options"]["gold"] for report in reports}
    runs = {(report["options"]["seed"], report["options"]["gold"]) for report in reports}
    complete = {seed for seed, _ in runs if all((seed, gold) in runs for gold in sizes)}
    reports = [report for report in reports if report["options"]["seed"] in complete]
    cells = []
    for gold in sorted({report["options"]["gold"] for report in reports}):
        chosen = [report for report in reports if report["options"]["gold"] == gold]
        cells.append(
            {
                "gold": gold,
                "seeds": sorted(report["options"]["seed"] for report in chosen),
                "rows": _rows(chosen),
                "label_quality": _figures([report["label_quality"] for report in chosen]),
                "gain": _spread([report["gain"]["accuracy"] for report in chosen]),
                "gain_each": [report["gain"] for report in chosen],
            }
        )
    record = {
        "data": name,
        "config": reports[0]["options"]["config"] | {"seed": "the seed of the run"},
        "counts": {key: reports[0]["counts"][key] for key in ("pool", "test")},
        "cells": cells,
        "versions": reports[0]["versions"],
    }
    (BENCH / f"demo_{name}.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _rows(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = [row["name"] for row in reports[0]["rows"]]
    return [
        {"name": name, **_figures([r for report in reports for r in report["rows"] if r["name"] == name])}
        for name in names
    ]


def _figures(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: _spread([one[key] for one in each]) for key, value in each[0].items() if isinstance(value, float)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error over seeds."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "standard_error": round(error, 4)}


def table(record: dict[str, Any]) -> str:
    """Return the Markdown table of one data set: a row per way of judging, a column per gold size."""
    cells = record["cells"]
    head = " | ".join(f"{cell['gold']} gold ({len(cell['seeds'])} seeds)" for cell in cells)
    lines = [f"| held-out accuracy / log-loss / ECE | {head} |", "|---" * (len(cells) + 1) + "|"]
    for i, row in enumerate(cells[0]["rows"]):
        lines.append(f"| {row['name']} | " + " | ".join(_cell(cell["rows"][i]) for cell in cells) + " |")
    gains = (_gain_cell([run["accuracy"] for run in cell["gain_each"]]) for cell in cells)
    lines.append("| gain of weak labels over gold only, points [95 % over seeds] | " + " | ".join(gains) + " |")
    labels = (_label_cell(cell["label_quality"]) for cell in cells)
    lines.append("| weak labels: coverage / accuracy / surer half / ECE | " + " | ".join(labels) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    accuracy = f"{row['accuracy']['mean']:.3f} ± {row['accuracy']['standard_error']:.3f}"
    return f"{accuracy} / {row['log_loss']['mean']:.3f} / {row['ece']['mean']:.3f}"


def _gain_cell(values: Sequence[float]) -> str:
    """Mean and Student's 95 % interval over seeds, in points; bold where the interval leaves out 0."""
    from scipy.stats import t

    points = 100 * np.array(values)
    half = float(t.ppf(0.975, len(points) - 1)) * float(points.std(ddof=1)) / np.sqrt(len(points))
    mean = float(points.mean())
    bold = "**" if abs(mean) > half else ""
    return f"{bold}{mean:+.1f}{bold} [{mean - half:+.1f}, {mean + half:+.1f}]"


def _label_cell(quality: dict[str, Any]) -> str:
    names = ("coverage_share", "accuracy", "accuracy_surer_half", "ece")
    return " / ".join(f"{quality[name]['mean']:.3f}" for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "collect", "print"])
    parser.add_argument("data", nargs="?", default="quickstart", help="file name in ../shared/data, or quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--gold", type=int, nargs="+", default=list(GOLD))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "tables")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    if options.what == "run":
        run(options.data, options.seeds, options.gold, options.work, options.threads)
    elif options.what == "collect":
        collect(options.data, options.work)
    else:
        for path in sorted(BENCH.glob("demo_*.json")):
            print(f"{path.name}\n\n{table(json.loads(path.read_text()))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
