"""The Markdown tables of docs/label_models.md, from label_models.json, few_labels.json, label_cost.json (data/bench).

python benchmarks/label_tables.py                          prints them
python benchmarks/label_tables.py docs/label_models.md     writes each between its marks `<!-- table:NAME -->` and
                                                           `<!-- /table -->`

Cells are medians over seeds. Where there is gold, a rival is shown as it is or with a temperature, whichever has the
lower held-out log-loss (a choice in its favour); `t` marks the latter.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from label_models import MODELS
from label_rivals import RIVALS
from scipy.stats import t

from labeling.files import replacing

BENCH = Path(__file__).resolve().parent.parent / "data" / "bench"
TEMPERATURE = " + temperature"
OURS = "LabelModel"
Record = Mapping[str, Any]
Cell = Mapping[str, Sequence[Record]]
"""Model -> one record a seed."""

SYNTHETIC = ("log_loss", "ece")
REAL = ("log_loss", "ece", "accuracy")
WORDS = {"log_loss": "log-loss", "ece": "ECE", "accuracy": "accuracy"}


def tables(bench: Path = BENCH) -> dict[str, str]:
    """Return the tables by the name of their marks; those without measurements are left out."""
    models, cost = _load(bench / "label_models.json"), _load(bench / "label_cost.json")
    made = {
        f"{name}-m{m}": synthetic_table(models.get("synthetic", {}), m, amount)
        for m in ("10", "25")
        for name, amount in (("no-gold", "0"), ("200-gold", "200"))
    }
    made |= {"real": real_table(models.get("real", {})), "cost": cost_table(cost.get("rows", {}))}
    made["few-labels"] = few_labels_table(_load(bench / "few_labels.json"))
    return {name: text for name, text in made.items() if text}


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def synthetic_table(scenarios: Mapping[str, Any], m: str, amount: str) -> str:
    """One column a scenario, log-loss / ECE, of m voters and an amount of gold."""
    cells = {name: by_m.get(m, {}).get(amount, {}) for name, by_m in scenarios.items()}
    return scores_table({name: cell for name, cell in cells.items() if cell}, SYNTHETIC)


def few_labels_table(sets: Mapping[str, Any]) -> str:
    """One row a set and amount of gold: how sure the model is, how right, the difference with its 95 % interval."""
    head = ["set", "gold", "seeds", "sure", "right", "sure less right [95 %]", "of a seed, from, to", "ECE"]
    rows = []
    cells = [(name, amount, cell[amount]) for name, cell in sets.items() for amount in sorted(cell, key=int)]
    for name, amount, records in cells:
        gaps = [record["sure"] - record["right"] for record in records]
        mean, n = statistics.mean(gaps), len(gaps)
        half = float(t.ppf(0.975, n - 1)) * statistics.stdev(gaps) / n**0.5
        sure, right, ece = (
            short(statistics.mean(record[key] for record in records)) for key in ("sure", "right", "ece")
        )
        difference = f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        rows.append([name, amount, str(n), sure, right, difference, f"{min(gaps):+.3f}, {max(gaps):+.3f}", ece])
    return markdown(head, rows) if rows else ""


def real_table(sets: Mapping[str, Any]) -> str:
    """One column a set and amount of gold, log-loss / ECE / accuracy."""
    cells = {}
    for name, by_m in sets.items():
        for m, by_amount in by_m.items():
            for amount, cell in by_amount.items():
                cells[f"{name}, {m} voters, {amount} gold"] = cell
    return scores_table(cells, REAL)


def scores_table(cells: Mapping[str, Cell], metrics: Sequence[str]) -> str:
    """Rows: oracle, our models, rivals; then what our label model is above the oracle and below its best rival."""
    if not cells:
        return ""
    rows = [("oracle", [score(cell.get("oracle", ()), metrics) for cell in cells.values()])]
    rows += [(name, [score(cell.get(name, ()), metrics) for cell in cells.values()]) for name in MODELS]
    rows += [(name, [better_score(cell, name, metrics) for cell in cells.values()]) for name in RIVALS]
    rows.append((f"{OURS} - oracle", [difference(cell, OURS, "oracle") for cell in cells.values()]))
    rows.append((f"{OURS} - best rival", [against_best(cell) for cell in cells.values()]))
    rows.append(("ECE that the number of pairs forces", [floor(cell) for cell in cells.values()]))
    head = [" / ".join(WORDS[metric] for metric in metrics), *cells]
    return markdown(head, [[name, *row] for name, row in rows if any(text != "-" for text in row)])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def measured(records: Sequence[Record]) -> list[Record]:
    """Return the records of the seeds on which the model did not fail."""
    return [record for record in records if "log_loss" in record]


def median(records: Sequence[Record], metric: str) -> float:
    return statistics.median(record[metric] for record in measured(records))


def score(records: Sequence[Record], metrics: Sequence[str]) -> str:
    if not measured(records):
        return "fails" if records else "-"
    return " / ".join(short(median(records, metric)) for metric in metrics)


def short(value: float) -> str:
    """Three decimals, no leading zero: .312, 1.20."""
    return f"{value:.3f}".lstrip("0") if abs(value) < 1 else f"{value:.2f}"


def better(cell: Cell, name: str) -> str:
    """Return the name with temperature where that row has the lower log-loss."""
    rows = [row for row in (name, name + TEMPERATURE) if measured(cell.get(row, ()))]
    return min(rows, key=lambda row: median(cell[row], "log_loss"), default=name)


def better_score(cell: Cell, name: str, metrics: Sequence[str]) -> str:
    row = better(cell, name)
    return score(cell.get(row, ()), metrics) + (" t" if row.endswith(TEMPERATURE) else "")


def against_best(cell: Cell) -> str:
    """Return the difference from the rival that our label model compares worst with, seed by seed, and its name."""
    compared = {row: gaps(cell, OURS, row) for row in (better(cell, name) for name in RIVALS)}
    medians = {row: statistics.median(values) for row, values in compared.items() if values}
    if not medians:
        return "-"
    row = max(medians, key=medians.__getitem__)
    return f"{difference(cell, OURS, row)} ({row.removesuffix(TEMPERATURE)})"


def gaps(cell: Cell, one: str, other: str) -> list[float]:
    """Return the differences in log-loss on the seeds both have."""
    losses = [{r["seed"]: r["log_loss"] for r in measured(cell.get(name, ()))} for name in (one, other)]
    return [losses[0][seed] - losses[1][seed] for seed in sorted(losses[0].keys() & losses[1].keys())]


def difference(cell: Cell, one: str, other: str) -> str:
    """Return the median difference in log-loss with its least and greatest value."""
    values = gaps(cell, one, other)
    return f"{statistics.median(values):+.3f} [{min(values):+.3f}, {max(values):+.3f}]" if values else "-"


def floor(cell: Cell) -> str:
    return short(median(cell[OURS], "ece_floor")) if measured(cell.get(OURS, ())) else "-"


def cost_table(rows: Mapping[str, Record]) -> str:
    """One row a measurement, ordered by pairs, voters and coverage."""
    if not rows:
        return ""
    ordered = sorted(rows.values(), key=lambda row: (row["n"], row["m"], -row["coverage"], row["model"] != "snorkel"))
    head = [
        "pairs",
        "voters",
        "coverage",
        "model",
        "CPU s",
        "of snorkel's",
        "peak MB",
        "of snorkel's",
        "MB before fitting",
    ]
    return markdown(head, [cost_row(row) for row in ordered])


def cost_row(row: Record) -> list[str]:
    shares = [f"{row[name]:.2f}" if name in row else "-" for name in ("cpu_ratio", "peak_ratio")]
    counts = [f"{row['n']:,}", str(row["m"]), str(row["coverage"]), row["model"]]
    return [*counts, f"{row['cpu_s']:.2f}", shares[0], f"{row['peak_mb']:,.0f}", shares[1], f"{row['loaded_mb']:,.0f}"]


def filled(text: str, made: Mapping[str, str]) -> str:
    """Return the document with every marked table replaced; raises KeyError for a mark that names no table."""
    pattern = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


def main(argv: Sequence[str] | None = None) -> None:
    paths = sys.argv[1:] if argv is None else argv
    made = tables()
    for path in map(Path, paths):
        text = filled(path.read_text(encoding="utf-8"), made)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    if not paths:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    main()
