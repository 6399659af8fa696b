"""What few gold labels can tell: how sure LabelModel is, and how right, on real pairs and the built-in heuristics.

python benchmarks/few_labels.py [--gold 50 150 450] [--seeds 10]     writes data/bench/few_labels.json
python benchmarks/label_tables.py docs/label_models.md               writes the table

Reads ../shared/data. A seed draws the split (a fifth of the pairs, by group, is set aside as in benchmarks/evolve.py)
and the gold pairs among the others; the model is fitted on all others' votes and asked of those that are labelled and
not gold. A tie counts as half right, whatever is said of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeling import LabelModel, apply, heuristics, metrics, read_pairs
from labeling.files import write_json
from labeling.split import gold_sample, split_by_group
from labeling.votes import VoteMatrix

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "data" / "bench" / "few_labels.json"
SETS = ("hh_harmless", "pandalm", "ukp_convincing")
TEST_SHARE = 0.2


def figures(votes: VoteMatrix, gold: Any, known: Any) -> dict[str, float]:
    """Return what the model fitted with some gold says of the pairs whose gold it did not see."""
    labels = np.full(len(gold), np.nan)
    labels[known] = gold[known]
    rest = np.setdiff1d(np.flatnonzero(~np.isnan(gold)), known)
    p, q = LabelModel().fit(votes, labels).posterior(votes)[rest], gold[rest]
    sure, right = np.maximum(p, 1 - p).mean(), np.where(p >= 0.5, q, 1 - q).mean()
    return {"sure": sure, "right": right, "ece": metrics.ece(p, q), "log_loss": metrics.log_loss(p, q)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gold", nargs="+", type=int, default=[50, 150, 450])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(argv)
    found: dict[str, Any] = {}
    for name in SETS:
        pairs = read_pairs(DATA / f"{name}.parquet", on_bad_rows="drop")
        votes = apply(heuristics(), pairs, progress=False)
        for amount in options.gold:
            for seed in range(options.seeds):
                train, _ = split_by_group(pairs, TEST_SHARE, seed)
                rows = np.flatnonzero(np.isin(pairs.pair_ids, train.pair_ids))
                if amount > 0.8 * len(rows):
                    continue
                known = gold_sample(pairs.take(rows), amount, seed)
                row = figures(votes.take(rows), pairs.gold[rows], known)
                cell = found.setdefault(name, {}).setdefault(str(amount), [])
                cell.append({"seed": seed} | {key: round(float(value), 5) for key, value in row.items()})
                print(name, amount, cell[-1], flush=True)
    write_json(OUT, found)


if __name__ == "__main__":
    main()
