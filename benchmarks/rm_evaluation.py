"""Two seeds of a MiniLM reward model on ukp_convincing: calibrated, compared, as an ensemble, averaged, as voters.

    python benchmarks/rm_evaluation.py RUNS [STAGE ...]     # RUNS keeps the reward models: none is trained twice

Debates are split three ways: 14 to train on, 4 to fit the temperature on, 6 to measure on. Writes
data/bench/rm_evaluation.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import rm
from augment import export
from labeling import LabelModel, apply, gold_sample, heuristics, read_pairs, split_by_group
from labeling.figures import Figures, measure
from labeling.files import versions, write_json
from labeling.pairs import Pairs
from rm.comparison import compare_probabilities
from rm.evaluation import evaluate_rewards

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "data" / "bench" / "rm_evaluation.json"
DATA = ROOT.parent / "shared" / "data" / "ukp_convincing.parquet"
CONFIG = {
    "model": "minilm", "max_steps": 100, "learning_rate": 5e-5, "head_learning_rate": 1e-3, "max_length": 256,
}  # fmt: skip
SEEDS = (0, 1)
GOLD = 50
"""Labels the label model sees of the pairs to measure on."""


def few(pairs: Pairs, n: int, generator: np.random.Generator) -> Pairs:
    return pairs.take(np.sort(generator.choice(len(pairs), n, replace=False)))


def parts() -> tuple[Pairs, Pairs, Pairs]:
    """Pairs to train on, to calibrate on, to measure on."""
    train, rest = split_by_group(read_pairs(DATA), test_share=0.4, seed=0)
    held, test = split_by_group(rest, test_share=0.6, seed=0)
    generator = np.random.default_rng(0)
    chosen = few(train, 2000, generator)
    measured = few(test, 1500, generator)
    return chosen, few(held, 400, generator), measured


def trained(runs: Path, train: Pairs) -> list[Path]:
    folders = [runs / f"rm{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        if not folder.is_dir():
            data = export(runs / "train_data", train, train.gold)
            rm.train(data, rm.RewardConfig(**CONFIG, seed=seed), out=folder)
    return folders


def ensemble(folders: list[Path], test: Pairs) -> dict[str, Any]:
    said = rm.Ensemble.load(folders).judge(test)
    agree = said.disagreement_share == 0
    calm = said.std <= np.median(said.std)
    cuts = {"all": agree | ~agree, "members agree": agree, "members disagree": ~agree, "calm": calm, "spread": ~calm}
    return {name: asdict(measure(said.p_a[rows], test.gold[rows], test.groups[rows])) for name, rows in cuts.items()}


def voting(folders: list[Path], test: Pairs) -> dict[str, Any]:
    """The label model on style heuristics alone and with the reward models beside, cross-fitted on `GOLD` labels."""
    known = gold_sample(test, GOLD, seed=0)
    hidden = test.with_gold(np.where(known, test.gold, np.nan))
    votes = apply([*heuristics(), *(rm.RewardVoter.load(folder) for folder in folders)], hidden)
    found: dict[str, Any] = {"gold": int(known.sum()), "self_labels": list(votes.self_labels)}
    posteriors = {}
    for name, names in (("heuristics", votes.names[: -len(folders)]), ("with reward models", votes.names)):
        model = LabelModel().fit(votes.select(names), hidden.gold)
        posteriors[name] = model.posterior(votes.select(names))[~known]
        found[name] = asdict(measure(posteriors[name], test.gold[~known], test.groups[~known]))
    unseen = test.take(~known)
    found["difference"] = asdict(
        compare_probabilities(posteriors["with reward models"], posteriors["heuristics"], unseen)
    )
    return found


def each(folders: list[Path], gold: Pairs, test: Pairs) -> dict[str, Any]:
    found = {}
    for folder in folders:
        fit = asdict(rm.calibrate(folder, gold))
        found[folder.name] = {"calibration": fit, "evaluation": rm.evaluate(folder, test).record()}
    return found


def averaged(folders: list[Path], gold: Pairs, test: Pairs) -> dict[str, Any]:
    folder = folders[0].parent / "averaged"
    if not folder.is_dir():
        rm.average(folders, folder)
    raw = evaluate_rewards(rm.score(folder, test), test)
    fit = rm.calibrate(folder, gold)
    return {"raw": figures(raw), "calibration": asdict(fit), "calibrated": figures(rm.evaluate(folder, test))}


def figures(result: Figures) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Figures.__dataclass_fields__}


STAGES = {
    "each": each,
    "compared": lambda folders, _, test: asdict(rm.compare(folders[0], folders[1], test)),
    "ensemble": lambda folders, _, test: ensemble(folders, test),
    "averaged": averaged,
    "voting": lambda folders, _, test: voting(folders, test),
}


def main(runs: Path, *stages: str) -> None:
    train, gold, test = parts()
    folders = trained(runs, train)
    record = json.loads(OUT.read_text(encoding="utf-8")) if stages and OUT.is_file() else {}
    for stage in stages or STAGES:
        record[stage] = STAGES[stage](folders, gold, test)
    counts = {"train": len(train), "gold": len(gold), "test": len(test)}
    write_json(OUT, record | {"config": CONFIG, "pairs": counts, "versions": versions()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
