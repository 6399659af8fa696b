"""Log-loss, ECE and accuracy of label models, ours and published ones, on synthetic and on real votes.

python benchmarks/label_models.py synthetic [--only confounder] [--m 10 25] [--gold 0 50 200 1000] [--seeds 5]
python benchmarks/label_models.py real [--only judge_votes] [--seeds 5]
python benchmarks/label_models.py print

Synthetic: n = 10^4 pairs to fit on and 10^4 fresh ones to score, from one draw of 2 n; gold is on random pairs of the
first. Real, from ../shared/data: `judge_votes`, 64 gold pairs drawn 4 times a seed, the others scored, every model
fitted on the votes of all; and the built-in heuristics on three sets of pairs, 30 % of the pairs scored, of groups and
prompts of their own, 15 % of the others gold. Rivals get a row each with a temperature fitted on the same gold.

Writes data/bench/label_models.json: synthetic or real -> scenario -> m -> n_gold -> model -> one record a seed. What is
there already is kept; `--again` measures it anew. `--models` names the models to run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import label_rivals as rivals
import numpy as np
import numpy.typing as npt
import pandas as pd
from label_scenarios import SCENARIOS

from labeling.apply import apply
from labeling.files import replacing, versions
from labeling.heuristics import heuristics
from labeling.metrics import accuracy, ece, log_loss
from labeling.read import read_pairs
from labeling.split import gold_sample, split_by_group
from labeling.votes import VoteMatrix

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "data" / "bench" / "label_models.json"

MODELS = {
    "LabelModel": "labeling.label_model",
    "OneCoin": "labeling.dawid_skene",
    "DawidSkene": "labeling.dawid_skene",
    "LogisticModel": "labeling.logistic_model",
    "SparseLowRank": "labeling.sparse_low_rank",
    "NoiseAware": "labeling.noise_aware",
}
"""Our own models, class and module; modules that are not there are left out."""
NEEDS_GOLD = frozenset({"LogisticModel", "NoiseAware"}) | rivals.READS_GOLD
"""Not run without gold."""

N = 10_000
JUDGE_GOLD, JUDGE_DRAWS = 64, 4
GOLD_SHARE, TEST_SHARE = 0.15, 0.3
STYLE_SETS = ("ukp_convincing", "hh_harmless", "pandalm")
SLOW_S = 30.0
"""A rival that takes longer runs on the first seed only."""
FLOOR_DRAWS = 200


@dataclass(frozen=True)
class Task:
    """Votes, which rows are fitted on, which of these have gold, and which are scored."""

    name: str
    seed: int
    votes: VoteMatrix
    gold: FloatArray
    """Shape (n,): every row's true label; models see those of `known` only."""
    fit: IntArray
    known: dict[str, IntArray]
    """Rows with gold, by the name of the amount."""
    test: IntArray | None = None
    """None: all rows without gold."""
    oracle: FloatArray | None = None

    def scored(self, amount: str) -> IntArray:
        if self.test is not None:
            return self.test
        return np.setdiff1d(np.arange(len(self.gold)), self.known[amount])

    def labels(self, amount: str, rows: IntArray) -> FloatArray | None:
        """Gold of the rows, NaN where models may not see it; None without any."""
        if not len(self.known[amount]):
            return None
        values = np.full(len(self.gold), np.nan)
        values[self.known[amount]] = self.gold[self.known[amount]]
        return values[rows]


def synthetic_tasks(names: Sequence[str], ms: Sequence[int], amounts: Sequence[int], seeds: int) -> Iterator[Task]:
    for name in names:
        for m in ms:
            for seed in range(seeds):
                sample = SCENARIOS[name](2 * N, m, seed)
                order = np.random.default_rng([seed, 1]).permutation(N)
                known = {str(k): np.sort(order[:k]) for k in amounts}
                fit, test = np.arange(N), np.arange(N, 2 * N)
                yield Task(name, seed, sample.votes, sample.gold, fit, known, test, sample.oracle)


def real_tasks(names: Sequence[str], seeds: int) -> Iterator[Task]:
    for name in names:
        yield from judge_tasks(JUDGE_DRAWS * seeds) if name == "judge_votes" else style_tasks(name, seeds)


def judge_tasks(draws: int) -> Iterator[Task]:
    """Verdicts in [-1, 1] are margins and their signs the votes; 0 and null abstain. A group is a prompt."""
    table = pd.read_parquet(DATA / "judge_votes.parquet")
    columns = [name for name in table.columns if name.startswith("v:")]
    margins = table[columns].to_numpy(dtype=np.float32)
    votes = np.where(margins > 0, 0, np.where(margins < 0, 1, -1)).astype(np.int8)
    groups = pd.factorize(table["prompt"].map(str))[0].astype(str)
    ids = np.arange(len(table)).astype(str)
    matrix = VoteMatrix(votes, margins, tuple(name[2:] for name in columns), ids, groups)
    for seed in range(draws):
        known = np.sort(np.random.default_rng(seed).choice(len(table), JUDGE_GOLD, replace=False))
        gold = table["gold"].to_numpy(dtype=np.float64)
        yield Task("judge_votes", seed, matrix, gold, np.arange(len(table)), {str(JUDGE_GOLD): known})


def style_tasks(name: str, seeds: int) -> Iterator[Task]:
    pairs = read_pairs(DATA / f"{name}.parquet")
    votes = apply(heuristics(), pairs, progress=False)
    for seed in range(seeds):
        train, _ = split_by_group(pairs, TEST_SHARE, seed)
        fitted = np.isin(pairs.pair_ids, train.pair_ids)
        fit, test = np.flatnonzero(fitted), np.flatnonzero(~fitted & ~np.isnan(pairs.gold))
        known = fit[gold_sample(pairs.take(fitted), GOLD_SHARE, seed)]
        yield Task(name, seed, votes, pairs.gold, fit, {f"{GOLD_SHARE:.0%}": known}, test)


def own_models() -> dict[str, Callable[[], rivals.Model]]:
    return {
        name: getattr(importlib.import_module(module), name) for name, module in MODELS.items() if find_spec(module)
    }


def posterior(model: str, task: Task, amount: str) -> tuple[FloatArray, float]:
    """Fit a model and return its posterior for every row of the task (n,), with the CPU seconds of both."""
    rows = task.fit
    if model in rivals.TRANSDUCTIVE:
        rows = np.union1d(task.fit, task.scored(amount))
    fresh = (own_models() | rivals.RIVALS)[model]()
    start = time.process_time()
    fresh.fit(task.votes.take(rows), task.labels(amount, rows))
    p_a = np.full(len(task.votes), np.nan)
    asked = rows if model in rivals.TRANSDUCTIVE else np.arange(len(task.votes))
    p_a[asked] = fresh.posterior(task.votes.take(asked))
    return p_a, time.process_time() - start


def figures(p_a: FloatArray, task: Task, amount: str, seconds: float) -> Record:
    """Return the metrics on the scored rows."""
    rows = task.scored(amount)
    p, q = p_a[rows], task.gold[rows]
    scores = {"log_loss": round(log_loss(p, q), 5), "ece": round(ece(p, q), 5), "accuracy": round(accuracy(p, q), 5)}
    return {"seed": task.seed, **scores, "seconds": round(seconds, 2)}


def ece_floor(p_a: FloatArray, seed: int) -> float:
    """Return the mean ECE that p_a (n,) has on gold drawn from p_a itself: what this many rows force."""
    rng = np.random.default_rng(seed)
    drawn = [ece(p_a, (rng.random(len(p_a)) < p_a).astype(np.float64)) for _ in range(FLOOR_DRAWS)]
    return round(float(np.mean(drawn)), 5)


def measure(model: str, task: Task, amount: str, kept: dict[str, tuple[FloatArray, float]]) -> dict[str, Record]:
    """Return the records of a model, and of the model with a temperature if it is a rival and there is gold."""
    try:
        p_a, seconds = kept[model] if model in kept else posterior(model, task, amount)
    except Exception as error:
        if model not in rivals.RIVALS:
            raise
        return {model: {"seed": task.seed, "error": f"{type(error).__name__}: {error}"[:200]}}
    if model in rivals.RIVALS and model not in rivals.READS_GOLD and task.test is not None:
        kept[model] = p_a, seconds
    records = {model: figures(p_a, task, amount, seconds)}
    known = task.known[amount]
    if model not in rivals.RIVALS:
        records[model]["ece_floor"] = ece_floor(p_a[task.scored(amount)], task.seed)
    elif len(known) and model != rivals.SEES_LABELS:
        slope = rivals.temperature(p_a[known], task.gold[known])
        records[f"{model} + temperature"] = figures(rivals.tempered(p_a, slope), task, amount, seconds)
    return records


def run(kind: str, tasks: Iterator[Task], models: Sequence[str], again: bool, out: Path) -> None:
    """Measure every model on every task, write after each task."""
    for task in tasks:
        cells = load(out).get(kind, {}).get(task.name, {}).get(str(len(task.votes.names)), {})
        found: dict[str, dict[str, Record]] = {}
        kept: dict[str, tuple[FloatArray, float]] = {}
        for amount in task.known:
            there = cells.get(amount, {})
            found[amount] = {} if task.oracle is None else {"oracle": figures(task.oracle, task, amount, 0.0)}
            for model in models:
                mine = there.get(model, [])
                done = any(record["seed"] == task.seed for record in mine)
                useless = model in NEEDS_GOLD and not len(task.known[amount])
                if (done and not again) or useless:
                    continue
                if model in rivals.RIVALS and too_slow(mine, task.seed):
                    found[amount][model] = {"seed": task.seed, "skipped": f"over {SLOW_S:.0f} s on an earlier seed"}
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore" if model in rivals.RIVALS else "default")
                    found[amount] |= measure(model, task, amount, kept)
                show(task, amount, model, found[amount][model])
        store(out, kind, task, found)


def too_slow(records: Sequence[Record], seed: int) -> bool:
    return any(record["seed"] < seed and record.get("seconds", 0) > SLOW_S for record in records)


def show(task: Task, amount: str, model: str, record: Record) -> None:
    scores = " ".join(f"{record[key]:.4f}" for key in ("log_loss", "ece", "accuracy") if key in record)
    rest = record.get("error", f"{record.get('seconds')} s")
    where = f"{task.name:18} m={len(task.votes.names)} gold={amount:5} seed={task.seed}"
    print(f"{where} {model:36} {scores} {rest}", flush=True)


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def store(path: Path, kind: str, task: Task, found: dict[str, dict[str, Record]]) -> None:
    """Add the records of a task to the file, in place of those of the same model and seed."""
    report = load(path)
    report["versions"] = report.get("versions", {}) | versions() | rivals.versions()  # of rivals, as last measured
    cells = report.setdefault(kind, {}).setdefault(task.name, {}).setdefault(str(len(task.votes.names)), {})
    for amount, records in found.items():
        cell = cells.setdefault(amount, {})
        for model, record in records.items():
            others = [one for one in cell.get(model, []) if one["seed"] != task.seed]
            cell[model] = sorted([*others, record], key=lambda one: one["seed"])
    text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False)
    with replacing(path) as part:
        part.write_text(re.sub(r"\{[^{}\[\]]*\}", _one_line, text) + "\n", encoding="utf-8")


def _one_line(record: re.Match[str]) -> str:
    return re.sub(r"\s+", " ", record[0])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["synthetic", "real", "print"])
    parser.add_argument("--only", nargs="+", help="scenarios or sets")
    parser.add_argument("--m", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--gold", type=int, nargs="+", default=[0, 50, 200, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=[*own_models(), *rivals.RIVALS])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    if options.what == "print":
        from label_tables import tables

        print("\n\n".join(tables().values()))
    elif options.what == "synthetic":
        tasks = synthetic_tasks(options.only or list(SCENARIOS), options.m, options.gold, options.seeds)
        run("synthetic", tasks, options.models, options.again, options.out)
    elif not DATA.exists():
        print("../shared/data does not exist; the real sets cannot be measured here", file=sys.stderr)
        return 2
    else:
        tasks = real_tasks(options.only or ["judge_votes", *STYLE_SETS], options.seeds)
        run("real", tasks, options.models, options.again, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
