"""Does self-improvement improve anything? SER, ser+ws and their controls on held-out groups, with few labels visible.

python benchmarks/evolve.py run --data ukp_convincing --gold 150 50 --seeds 0 1 2 3 4
python benchmarks/evolve.py left --data ukp_convincing --gold 150 50    # what is not measured yet
python benchmarks/evolve.py table                                       # the tables of docs/evolve.md and README.md
python benchmarks/evolve.py plot                                        # draws docs/evolve.png

Reads ../shared/data. Every row goes into data/bench/evolve.json when it is there, and is not measured again: the run
can be stopped at any time. A seed draws the split (a fifth of the pairs, by group, tests), the visible labels and the
order of training. All reward models are MiniLM, trained with the settings of `weakpref demo` but for fewer steps: 60 of
16 pairs, three lowest layers frozen, 128 tokens. Arms:

gold only       the seed's labels, 60 steps
equal steps     the seed's labels, for as many steps as SER takes over its three iterations: 240
SER, paper      three iterations as in the paper; SER, as released likewise
weak only       labels of the heuristics merged by LabelModel (iteration 1 of ser+ws)
ser+ws          the default method, at most two iterations of two parts; the reward model it names
ser+ws, seed votes  the same where the seed's reward model votes too
oracle          the pairs that reward model trained on, with their true labels
full            all labels of the pool, 60 steps: 960 of them are seen

Two runs can share the work, each with seeds or numbers of labels of its own; `--arms` measures some arms only. Under
--work a cell's models are kept, some 2 GB each.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from augment.demo import MAX_TEST_PAIRS, REWARD_CONFIG, TEST_SHARE
from augment.evolve import Evolved, evolve, stated
from augment.evolve_controls import Effort, control
from augment.evolve_ground import lay_out
from augment.evolve_options import EvolveOptions
from augment.evolve_run import claim
from augment.evolve_training import export_seed, held_out_figures, train
from augment.export import ExportOptions, export
from augment.self_labels import read_self_labels
from labeling import read_pairs, split_by_group
from labeling.errors import WeakprefWarning
from labeling.files import write_json
from labeling.pairs import Pairs

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "bench" / "evolve.json"
LOCK = Path(tempfile.gettempdir()) / "evolve-rows.lock"
"""Held while a row is written: another run may write its own."""
SETS = ("ukp_convincing", "hh_harmless")
GOLD = (150, 50, 450, 0.15)
ARMS = (
    "gold only", "equal steps", "SER, paper", "SER, as released", "weak only", "ser+ws", "ser+ws, seed votes", "oracle",
    "full",
)  # fmt: skip
STEPS = 60
"""Optimizer steps of every training but those of equal steps."""
BASE = "gold only"
"""The arm that gains are measured against, seed by seed."""
LOOPS: dict[str, dict[str, Any]] = {
    "SER, paper": {"method": "ser", "preset": "paper"},
    "SER, as released": {"method": "ser", "preset": "as_released"},
    "weak only": {"method": "ser+ws", "iterations": 1},
    "ser+ws": {"method": "ser+ws", "iterations": 2, "folds": 2},
    "ser+ws, seed votes": {"method": "ser+ws", "iterations": 2, "folds": 2, "seed_votes": True},
}
LABEL_FIGURES = (
    "label_accuracy", "label_ece", "trained_accuracy", "kept_share", "length_drift", "reward_length_correlation",
    "consistency_rate", "alarms",
)  # fmt: skip

LEDGER = {
    "iteration": "iteration", "status": "status", "kept": "kept", "label_accuracy": "labels right",
    "label_ece": "their ECE", "trained_accuracy": "kept right", "length_drift": "length drift",
    "reward_length_correlation": "margin and length", "consistency_rate": "consistency",
    "held_out_log_loss": "log-loss on the seed", "test_accuracy": "test right", "test_ece": "test ECE",
}  # fmt: skip
"""Fields of the ledger that the docs show, and what they are called there."""


def key(data: str, gold: float, seed: int, arm: str) -> str:
    return f"{data} gold={gold:g} seed={seed} {arm}"


def rows() -> dict[str, Any]:
    return json.loads(OUT.read_text()) if OUT.is_file() else {}


def left(data: str, golds: Sequence[float], seeds: Sequence[int]) -> Iterator[tuple[float, int, str]]:
    """Yield what is not measured yet, seed by seed."""
    known = rows()
    for seed in seeds:
        for gold in golds:
            yield from ((gold, seed, arm) for arm in ARMS if key(data, gold, seed, arm) not in known)


class Cell:
    """All arms of one set, number of labels and seed; each is measured once."""

    def __init__(self, data: str, gold: float, seed: int, work: Path) -> None:
        self.data, self.gold, self.seed = data, gold, seed
        self.home = work / f"{data}-{gold:g}-{seed}"
        self.shared = work / f"{data}-full-{seed}"
        pairs = read_pairs(ROOT.parent / "shared" / "data" / f"{data}.parquet", on_bad_rows="drop")
        self.pairs, test = split_by_group(pairs, TEST_SHARE, seed)
        test = test.take(~np.isnan(test.gold))
        chosen = np.random.default_rng(seed).permutation(len(test))[:MAX_TEST_PAIRS]
        self.test: Pairs = test.take(np.sort(chosen))
        # Every visible label trains in every arm, so that none has fewer of them.
        self.config = replace(REWARD_CONFIG, max_steps=STEPS)
        self.options = EvolveOptions(config=self.config, gold=gold, seed=seed, watch_share=0.0)

    def run(self, arms: Sequence[str]) -> None:
        """Measure these arms, in the order in which they need one another; models that others start from are kept."""
        known = rows()
        for arm in (arm for arm in ARMS if arm in arms and key(self.data, self.gold, self.seed, arm) not in known):
            with self.clock(arm):
                self.note(arm, self.measure(arm))

    def measure(self, arm: str) -> dict[str, Any]:
        if arm == BASE:
            return self.figures(held_out_figures([self.first / "rm"], self.test))
        if arm == "equal steps":
            return self.control(arm, "equal-steps", self.loop("weak only"), (1 + self.options.iterations) * STEPS)
        if arm == "oracle":
            return self.control(arm, "oracle", self.loop("ser+ws"), 0)
        return self.full() if arm == "full" else self.row(self.loop(arm))

    @cached_property
    def first(self) -> Path:
        """Where all loops start: the reward model of the seed's labels."""
        home = self.home / "first"
        ground = lay_out(self.pairs, replace(self.options, method="ser"), None, None)
        if not (home / "kept").exists():
            export_seed(home / "kept", ground, self.seed)
        if not (home / "rm").exists():
            train(home / "kept", self.options.trainer(0), home / "rm")
        return home

    def loop(self, arm: str) -> Evolved:
        """Run a loop, or go on with it; what it begins with is copied from those that begin alike."""
        options = replace(self.options, **LOOPS[arm])
        out = self.home / arm.replace(", ", "-").replace(" ", "-")
        ground = lay_out(self.pairs, options, None, None)
        claim(out, stated(self.pairs, options, self.test, ground.votes), resume=True)
        for name in ("kept", "rm"):
            copy(self.first / name, out / "iteration-0" / name)
        if arm == "ser+ws":
            copy(self.loop("weak only").path / "iteration-1", out / "iteration-1")
        return evolve(self.pairs, out, options, test=self.test, resume=True)

    def row(self, found: Evolved) -> dict[str, Any]:
        """Return the figures of the iteration to use."""
        row = found.rows[found.best]
        each = {name: row[name] for name in LABEL_FIGURES if name in row}
        return self.figures(row) | {"iteration": found.best, "stopped": found.stopped, "ledger": found.rows} | each

    def control(self, arm: str, name: Any, found: Evolved, steps: int) -> dict[str, Any]:
        home, n = self.home / arm.replace(" ", "-"), found.best
        options = replace(self.options, method="ser+ws")
        ground = lay_out(self.pairs, replace(options, method="ser"), None, None)
        labels = read_self_labels(found.path / f"iteration-{max(n, 1)}" / "self_labels.parquet", ground.pairs.pair_ids)
        effort = Effort(labels, options.trainer(n), steps, n)
        data, config = control(name, effort, ground, home / "data", self.seed)
        if not (home / "rm").is_dir():
            train(data, config, home / "rm")
        return self.figures(held_out_figures([home / "rm"], self.test)) | {"steps": config.max_steps}

    def full(self) -> dict[str, Any]:
        """All labels: the same whatever is visible, so it is trained once a seed."""
        for known, row in rows().items():
            if known.startswith(f"{self.data} ") and known.endswith(f"seed={self.seed} full"):
                return dict(row)
        labelled = self.pairs.take(~np.isnan(self.pairs.gold))
        export(self.shared / "data", labelled, labelled.gold, options=ExportOptions(seed=self.seed))
        train(self.shared / "data", replace(self.config, seed=self.seed), self.shared / "rm")
        row = self.figures(held_out_figures([self.shared / "rm"], self.test))
        shutil.rmtree(self.shared)
        return row

    def figures(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[f"test_{name}"] for name in ("n", "accuracy", "log_loss", "ece")}

    def note(self, arm: str, row: dict[str, Any]) -> None:
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = rows()
            known.setdefault(key(self.data, self.gold, self.seed, arm), row)
            write_json(OUT, known)

    @contextmanager
    def clock(self, arm: str) -> Iterator[None]:
        begin = time.process_time(), time.perf_counter()
        yield
        cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
        name = f"{self.data} gold={self.gold:g} seed={self.seed}"
        print(f"{name} {arm}: {cpu:.0f} CPU-s, {wall:.0f} s", flush=True)


def copy(there: Path, here: Path) -> None:
    """Copy a folder unless it is here."""
    if not here.exists():
        part = here.with_name(f".{here.name}.part")
        shutil.copytree(there, part)
        part.rename(here)


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
    """Return the numbers of visible labels that are measured for some seed, a share last."""
    found = [gold for gold in GOLD if measured(known, data, gold, BASE)]
    return sorted(found, key=lambda gold: gold if gold > 1 else float("inf"))


def table(known: dict[str, Any], data: str) -> str:
    """Return the Markdown table of one set: accuracy / log-loss / ECE, and the gain over gold only, in points."""
    golds = sizes(known, data)
    if not golds:
        return "(not measured yet)"
    head = " | ".join(f"{label(gold)} | gain, points [95 % over seeds]" for gold in golds)
    lines = [f"| {data}: accuracy / log-loss / ECE (seeds) | {head} |", "|---" * (2 * len(golds) + 1) + "|"]
    lines += [f"| {arm} | " + " | ".join(_cells(known, data, gold, arm) for gold in golds) + " |" for arm in ARMS]
    return "\n".join(lines)


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
    golds = sizes(known, data)
    if not golds:
        return "(not measured yet)"
    lines = [
        "| ser+ws less | " + " | ".join(f"{label(gold)}, points [95 % over seeds] (seeds)" for gold in golds) + " |"
    ]
    lines += ["|---" * (len(golds) + 1) + "|"]
    others = [arm for arm in ARMS if arm not in ("ser+ws", "oracle", "full")] + ["full"]
    lines += [f"| {arm} | " + " | ".join(_lead(known, data, gold, arm) for gold in golds) + " |" for arm in others]
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
        "| loop | iteration | runs | label accuracy / ECE | kept pairs right | kept share | length drift | test |",
        "|---" * 8 + "|",
    ]
    for gold in sizes(known, data):
        for arm in ("SER, paper", "SER, as released", "ser+ws", "ser+ws, seed votes"):
            ledgers = [known[key(data, gold, seed, arm)]["ledger"] for seed in measured(known, data, gold, arm)]
            for n in range(1, max(map(len, ledgers), default=0)):
                found = [ledger[n] for ledger in ledgers if len(ledger) > n]
                lines += [f"| {arm}, {label(gold)} | {n} | {len(found)} | {_label_cells(found)}"]
    return "\n".join(lines) if len(lines) > 2 else "(not measured yet)"


def ledger_table(known: dict[str, Any], data: str) -> str:
    """Return what two runs wrote down, iteration by iteration: those of the lowest seed with 150 labels visible."""
    seeds = [seed for seed in measured(known, data, 150, "ser+ws") if key(data, 150, seed, "SER, paper") in known]
    if not seeds:
        return "(not measured yet)"
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
        return f"{np.mean(values):.3f}" if values else "-"

    names = ("trained_accuracy", "kept_share", "length_drift", "test_accuracy")
    return f"{mean('label_accuracy')} / {mean('label_ece')} | " + " | ".join(mean(name) for name in names) + " |"


def tables() -> dict[str, str]:
    """Return the tables of docs/evolve.md by name."""
    known = rows()
    made = {"": table, "-against": against, "-labels": labels_table}
    each = {f"{data}{suffix}": make(known, data) for data in SETS for suffix, make in made.items()}
    return each | {"ledger": ledger_table(known, SETS[0])}


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
    """Draw accuracy on held-out pairs by arm, a dot a seed, a panel a set and number of labels with three seeds."""
    from matplotlib.figure import Figure

    panels = [(data, gold) for data in SETS for gold in GOLD if len(measured(known, data, gold, BASE)) > 2]
    if not panels:
        return
    figure = Figure(figsize=(4 * len(panels) + 1, 4), layout="constrained")
    for axes, (data, gold) in zip(np.ravel(figure.subplots(1, len(panels), squeeze=False)), panels, strict=True):
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "left", "table", "plot"])
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--gold", nargs="+", type=float, default=list(GOLD))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "evolve-bench")
    options = parser.parse_args(argv)
    golds = [int(gold) if gold >= 1 else gold for gold in options.gold]
    if options.what == "table":
        for path in (ROOT / "docs" / "evolve.md", ROOT / "README.md"):
            write_tables(path)
        return 0
    if options.what == "plot":
        plot(rows(), ROOT / "docs" / "evolve.png")
        return 0
    if options.what == "left":
        for data in options.data:
            waiting = list(left(data, golds, options.seeds))
            print(f"{data}: {len(waiting)} of {len(golds) * len(options.seeds) * len(ARMS)} cells are left")
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("default", WeakprefWarning)
        for data in options.data:
            for seed in options.seeds:
                for gold in golds:
                    Cell(data, gold, seed, options.work).run(options.arms)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
