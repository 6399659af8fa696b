"""Tables and plot of data/bench/evolve.json: writes them into docs/evolve.md, README.md and docs/evolve.png.

python benchmarks/evolve_tables.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evolve import ARMS, BASE, GOLD, ROOT, SETS, key, rows

CLAIM = 0.15, "full less 0.3", "+7.88"
"""What SER's paper claims, on average over other sets and models: share of labels, accuracy, gain over gold only."""
NOTHING = "(not measured yet)"
LEDGER = {
    "iteration": "iteration", "status": "status", "kept": "kept", "label_accuracy": "labels right",
    "label_ece": "their ECE", "trained_accuracy": "kept right", "length_drift": "length drift",
    "reward_length_correlation": "margin and length", "consistency_rate": "consistency",
    "held_out_log_loss": "log-loss on the seed", "test_accuracy": "test right", "test_ece": "test ECE",
}  # fmt: skip
"""Fields of the ledger that the docs show, and what they are called there."""


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half of Student's 95 % interval over seeds; NaN for fewer than three."""
    from scipy.stats import t

    x = np.array(values)
    if len(x) < 3:
        return float(x.mean()), float("nan")
    return float(x.mean()), float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


def measured(known: dict[str, Any], data: str, gold: float, arm: str) -> list[int]:
    """Return the seeds of which an arm is measured."""
    return [seed for seed in range(100) if key(data, gold, seed, arm) in known]


def sizes(known: dict[str, Any], data: str) -> list[float]:
    """Return the numbers of visible labels that are measured for some seed, a share last: SER's is always shown."""
    found = [gold for gold in GOLD if measured(known, data, gold, BASE) or (gold == CLAIM[0] and data == SETS[0])]
    return sorted(found, key=lambda gold: gold if gold > 1 else float("inf"))


def table(known: dict[str, Any], data: str) -> str:
    """Return the Markdown table of one set: accuracy / log-loss / ECE, and the gain over gold only, in points."""
    golds = sizes(known, data)
    if not golds:
        return NOTHING
    head = " | ".join(f"{label(gold)} | gain, points [95 % over seeds]" for gold in golds)
    lines = [f"| {data}: accuracy / log-loss / ECE (seeds) | {head} |", "|---" * (2 * len(golds) + 1) + "|"]
    lines += _rows(ARMS, lambda arm: [_cells(known, data, gold, arm) for gold in golds])
    if CLAIM[0] in golds:
        cells = [" | ".join(CLAIM[1:]) if gold == CLAIM[0] else "- | -" for gold in golds]
        lines.append(f"| *claimed for SER (other sets)* | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(arms: Sequence[str], cells: Callable[[str], list[str]]) -> list[str]:
    """Return a row an arm; those measured nowhere are left out."""
    made = {arm: cells(arm) for arm in arms}
    return [f"| {arm} | {' | '.join(row)} |" for arm, row in made.items() if set("".join(row)) - set("-| ")]


def label(gold: float) -> str:
    return f"{gold:g} gold" if gold >= 1 else f"{100 * gold:g} % gold"


def _cells(known: dict[str, Any], data: str, gold: float, arm: str) -> str:
    seeds = [seed for seed in measured(known, data, gold, arm) if key(data, gold, seed, BASE) in known]
    if not seeds:
        return "- | -"
    each = [known[key(data, gold, seed, arm)] for seed in seeds]
    base = [known[key(data, gold, seed, BASE)] for seed in seeds]
    accuracy, loss, error = (np.mean([row[name] for row in each]) for name in ("accuracy", "log_loss", "ece"))
    if arm == BASE:
        return f"{accuracy:.3f} / {loss:.3f} / {error:.3f} ({len(seeds)}) |"
    gain, half = spread([100 * (row["accuracy"] - other["accuracy"]) for row, other in zip(each, base, strict=True)])
    return f"{accuracy:.3f} / {loss:.3f} / {error:.3f} ({len(seeds)}) | {gain:+.1f}{_interval(gain, half)}"


def against(known: dict[str, Any], data: str) -> str:
    """Return how far ser+ws is ahead of every other arm, in points of accuracy, seed by seed; and of the gap to all."""
    golds = [gold for gold in sizes(known, data) if measured(known, data, gold, "ser+ws")]
    if not golds:
        return NOTHING
    lines = [
        "| ser+ws less | " + " | ".join(f"{label(gold)}, points [95 % over seeds] (seeds)" for gold in golds) + " |"
    ]
    lines += ["|---" * (len(golds) + 1) + "|"]
    others = [arm for arm in ARMS if arm not in ("ser+ws", "oracle")]
    lines += _rows(others, lambda arm: [_lead(known, data, gold, arm) for gold in golds])
    lines += ["| gold only, of the gap between full and gold only | "]
    lines[-1] += " | ".join(_closed(known, data, gold) for gold in golds) + " |"
    return "\n".join(lines)


def _lead(known: dict[str, Any], data: str, gold: float, arm: str) -> str:
    ours, theirs = _both(known, data, gold, "ser+ws", arm)
    if not len(ours):
        return "-"
    lead, half = spread(100 * (ours - theirs))
    return f"{lead:+.1f}{_interval(lead, half)} ({len(ours)})"


def _closed(known: dict[str, Any], data: str, gold: float) -> str:
    ours, base, full = _both(known, data, gold, "ser+ws", BASE, "full")
    if not len(ours):
        return "-"
    gap, half = spread(100 * (full - base))
    return f"{100 * (ours - base).mean():+.1f} of {gap:+.1f}{_interval(gap, half)} ({len(ours)})"


def _both(known: dict[str, Any], data: str, gold: float, *arms: str) -> list[Any]:
    """Return the accuracies of some arms on the seeds on which all are measured."""
    seeds = [s for s in measured(known, data, gold, arms[0]) if all(key(data, gold, s, arm) in known for arm in arms)]
    return [np.array([known[key(data, gold, seed, arm)]["accuracy"] for seed in seeds]) for arm in arms]


def _interval(mean: float, half: float) -> str:
    return "" if np.isnan(half) else f" [{mean - half:+.1f}, {mean + half:+.1f}]"


def labels_table(known: dict[str, Any], data: str) -> str:
    """Return what the ledgers say of the self-labels, iteration by iteration, means over seeds."""
    lines = [
        "| loop | iteration | runs | label accuracy / ECE | kept pairs right | kept share | length drift | length bias "
        "| test |",
        "|---" * 9 + "|",
    ]
    for gold in sizes(known, data):
        for arm in ("SER, paper", "SER, paper, 5 %", "SER, as released", "ser+ws", "ser+ws, seed votes"):
            ledgers = [known[key(data, gold, seed, arm)]["ledger"] for seed in measured(known, data, gold, arm)]
            for n in range(1, max(map(len, ledgers), default=0)):
                found = [ledger[n] for ledger in ledgers if len(ledger) > n]
                lines += [f"| {arm}, {label(gold)} | {n} | {len(found)} | {_label_cells(found)}"]
    return "\n".join(lines) if len(lines) > 2 else NOTHING


def ledger_table(known: dict[str, Any], data: str) -> str:
    """Return what two runs wrote down, iteration by iteration: those of the lowest seed with 150 labels visible."""
    seeds = [seed for seed in measured(known, data, 150, "ser+ws") if key(data, 150, seed, "SER, paper") in known]
    if not seeds:
        return NOTHING
    lines = ["| run | " + " | ".join(LEDGER.values()) + " | alarms |", "|---" * (len(LEDGER) + 2) + "|"]
    for arm in ("ser+ws", "SER, paper"):
        for row in known[key(data, 150, seeds[0], arm)]["ledger"]:
            cells = [_number(row.get(name)) for name in LEDGER]
            lines.append(f"| {arm} | {' | '.join(cells)} | {', '.join(row['alarms']) or '-'} |")
    return "\n".join(lines)


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _label_cells(found: Sequence[dict[str, Any]]) -> str:
    def mean(name: str) -> str:
        values = [row[name] for row in found if row.get(name) is not None]
        fewer = f" ({len(values)})" if len(values) < len(found) else ""
        return f"{np.mean(values):.3f}{fewer}" if values else "-"

    names = ("trained_accuracy", "kept_share", "length_drift", "length_bias", "test_accuracy")
    return f"{mean('label_accuracy')} / {mean('label_ece')} | " + " | ".join(mean(name) for name in names) + " |"


def tables() -> dict[str, str]:
    """Return the tables of docs/evolve.md by name, those of what is measured."""
    known = rows()
    made = {"": table, "-against": against, "-labels": labels_table}
    each = {f"{data}{suffix}": make(known, data) for data in SETS for suffix, make in made.items()}
    each |= {"ledger": ledger_table(known, SETS[0])}
    return {name: made for name, made in each.items() if made != NOTHING}


def write_tables(path: Path) -> None:
    """Put the tables between their marks in a Markdown file that has them."""
    text = path.read_text(encoding="utf-8")
    for name, made in tables().items():
        begin, end = f"<!-- table:{name} -->\n", "\n<!-- /table -->"
        head, found, rest = text.partition(begin)
        if found:
            text = head + begin + made + end + rest.split(end, 1)[1]
    path.write_text(text, encoding="utf-8")


def plot(known: dict[str, Any], path: Path) -> None:
    """Draw accuracy on held-out pairs by arm, a dot a seed, a row a set, a panel a number of labels with three seeds.

    The panels of a set have one scale.
    """
    from matplotlib.figure import Figure

    many = {data: [gold for gold in sizes(known, data) if len(measured(known, data, gold, BASE)) > 2] for data in SETS}
    shown = {data: golds for data, golds in many.items() if golds}
    if not shown:
        return
    width = max(map(len, shown.values()))
    figure = Figure(figsize=(4 * width + 1, 4 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), width, squeeze=False, sharey=True, sharex="row")
    panels = [(grid[i, j], data, gold) for i, data in enumerate(shown) for j, gold in enumerate(shown[data])]
    for empty in {*grid.flat} - {axes for axes, _, _ in panels}:
        empty.set_axis_off()
    for axes, data, gold in panels:
        for y, arm in enumerate(ARMS[::-1]):
            values = [known[key(data, gold, seed, arm)]["accuracy"] for seed in measured(known, data, gold, arm)]
            axes.scatter(values, [y] * len(values), alpha=0.5, color="tab:blue")
            if values:
                axes.plot([np.mean(values)] * 2, [y - 0.3, y + 0.3], color="black")
        axes.set(
            yticks=range(len(ARMS)),
            yticklabels=ARMS[::-1],
            ylim=(-0.5, len(ARMS) - 0.5),
            title=f"{data}, {label(gold)}",
            xlabel="accuracy",
        )
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def main() -> None:
    for path in (ROOT / "docs" / "evolve.md", ROOT / "README.md"):
        write_tables(path)
    plot(rows(), ROOT / "docs" / "evolve.png")


if __name__ == "__main__":
    main()
