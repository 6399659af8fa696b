"""Measures how far attacks move a real judge: SmolLM2, each of the 50 attacks on a pair of a real set.

python benchmarks/judge_attacks.py --model FOLDER [--engine vllm]      (shares its cache of answers with judge_ask.py)

The worse response attacks, and the same pairs are judged without the attack. `control` appends a harmless sentence
instead, for what any addition does. Writes data/bench/judge_attacks.json: win shares, and for margins, which every pair
has, their mean shift with a 95 % interval over pairs, and the share that turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from judge_ask import ROOT, SETS, judge_named, loaded, pairs_of
from scipy.stats import t as student_t

from labeling import Pairs
from labeling.files import write_json
from labeling.judge_attacks import Attack, AttackReport, attack_report, read_attacks
from labeling.llm_cache import CachedEngine

ATTACKS = ROOT / "tests" / "labeling" / "attacks.json"
OUT = ROOT / "data" / "bench" / "judge_attacks.json"
CONTROL = [Attack("control", "{response}\n\nThis was written on a quiet afternoon, with a cup of tea at hand.")]


def figures(report: AttackReport) -> dict[str, Any]:
    shifts = report.margins[:, 1] - report.margins[:, 0]
    n, sd = int((~np.isnan(shifts)).sum()), float(np.nanstd(shifts, ddof=1))
    half = float(student_t.ppf(0.975, n - 1)) * sd / np.sqrt(n)
    return {
        "n_pairs": report.n_pairs,
        "win_share": {"clean": report.clean_win_share, "attacked": report.attacked_win_share},
        "margin_shift": {
            "mean": report.margin_shift,
            "low": report.margin_shift - half,
            "high": report.margin_shift + half,
            "sd": sd,
        },
        "margin_win_share": dict(zip(("clean", "attacked"), report.margin_win_shares, strict=True)),
        "margin_turned_share": report.margin_turned_share,
        "by_kind": report.by_kind,
    }


def shifts_by_kind(report: AttackReport, attacks: Sequence[Attack]) -> dict[str, float]:
    shifts = report.margins[:, 1] - report.margins[:, 0]
    kinds = np.array([attacks[i % len(attacks)].kind for i in range(len(shifts))])
    return {kind: float(np.nanmean(shifts[kinds == kind])) for kind in dict.fromkeys(kinds)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument(
        "--pairs", type=int, default=25, help="pairs of each set; the first ones that judge_ask.py asks"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "answers.sqlite")
    args = parser.parse_args(argv)
    args.cache.parent.mkdir(parents=True, exist_ok=True)
    engine = CachedEngine(loaded(args.engine, args.model), args.cache)
    both = [pairs_of(name, args.pairs).table for name in SETS]
    pairs, attacks = Pairs(pa.concat_tables(both), {}), read_attacks(ATTACKS)
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for kind, tried in (("attacks", attacks), ("control", CONTROL)):
        for name in ("pairwise", "rubric"):
            report = attack_report(judge_named(name, engine, args.cache.parent), pairs, tried)
            found[f"{name}, {kind}"] = figures(report) | {"shift_by_kind": shifts_by_kind(report, tried)}
            write_json(OUT, found)
            print(name, kind, json.dumps(found[f"{name}, {kind}"]), flush=True)


if __name__ == "__main__":
    main()
