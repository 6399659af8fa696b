"""The Markdown tables of docs/judges.md, from data/bench/judge_evidence.json, judge_attacks.json and judge.json.

python benchmarks/judge_tables.py                     prints them
python benchmarks/judge_tables.py docs/judges.md      writes each between `<!-- table:NAME -->` and `<!-- /table -->`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from label_tables import filled, markdown, short

from labeling.files import replacing

BENCH = Path(__file__).resolve().parent.parent / "data" / "bench"
SMOLLM2 = ("ukp_convincing", "pandalm")


def tables(bench: Path = BENCH) -> dict[str, str]:
    """Return the tables by the name of their marks; those without measurements are left out."""
    evidence, attacks, speed = (_load(bench / f"{name}.json") for name in ("judge_evidence", "judge_attacks", "judge"))
    made = {
        "alone": alone_table({name: evidence[name] for name in SMOLLM2 if name in evidence}),
        "label-model": label_model_table(evidence),
        "weights": weights_table(evidence),
        "attacks": attacks_table(attacks),
        "throughput": throughput_table(speed),
    }
    return {name: text for name, text in made.items() if text}


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def with_interval(figure: Mapping[str, float], sign: bool = False) -> str:
    """Return a mean and its interval: `.44 [.35, .53]`, or with signs and three decimals."""
    form = "{:+.3f}" if sign else "{:.2f}"
    mean, low, high = (form.format(figure[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def alone_table(sets: Mapping[str, Any]) -> str:
    """One row a set and judge: how often its margin is right, and its leanings."""
    if not sets:
        return ""
    head = ["set, judge", "pairs", "margin right", "longer right", "margin for the longer", "first shown wins"]
    head += ["position bias, log-odds", "verdicts that flip"]
    rows = []
    for name, found in sets.items():
        for judge, row in found["alone"].items():
            orders = "position_bias" in row
            cells = [with_interval(row[key]) for key in ("margin_right", "always_longer_right", "margin_is_longer")]
            cells += [f"{row['first_wins_share']:.2f}", with_interval(row["position_bias"])] if orders else ["-", "-"]
            cells.append(f"{row['flipped_share']:.2f}" if orders else "-")
            rows.append([f"{name}, {judge}", str(row["n_pairs"]), *cells])
    return markdown(head, rows)


def label_model_table(evidence: Mapping[str, Any]) -> str:
    """One row a set, amount of gold and choice of voters: figures on held-out pairs, and the difference of log-loss."""
    rows = []
    for name, found in evidence.items():
        for amount, cell in by_amount(found):
            for voters, row in cell.items():
                if "log_loss" in row:
                    scores = " / ".join(short(row[metric]) for metric in ("accuracy", "log_loss", "ece"))
                    gap = with_interval(row["minus_first"], sign=True) if "minus_first" in row else "-"
                    rows.append([f"{name}, {amount} gold", voters, scores, gap])
    head = ["set", "voters", "accuracy / log-loss / ECE", "log-loss minus that of the LFs alone [95 %]"]
    return markdown(head, rows) if rows else ""


def by_amount(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(found["label_model"].items(), key=lambda item: int(item[0]))


def weights_table(evidence: Mapping[str, Any]) -> str:
    """One row a set and amount of gold: how far a judge moves the posterior, beside the heuristic that does most."""
    rows = []
    for name, found in evidence.items():
        for amount, cell in by_amount(found):
            for voters, row in cell.items():
                for judge, moves in row.get("judge_moves", {}).items():
                    most = row["most_moved_by_a_heuristic"]
                    judge_moves = f"{sum(moves) / len(moves):.2f} ({min(moves):.2f} to {max(moves):.2f})"
                    rows.append([f"{name}, {amount} gold", f"{voters}: {judge}", judge_moves,
                                 f"{sum(most) / len(most):.2f}"])  # fmt: skip
    head = ["set", "judge", "moves the log-odds by (least to most over seeds)", "heuristic that moves them most"]
    return markdown(head, rows) if rows else ""


def attacks_table(attacks: Mapping[str, Any]) -> str:
    """One row a judge and what is added: wins by vote, and what becomes of the margins."""
    rows = []
    for name, row in attacks.items():
        wins, margins = row["win_share"], row["margin_win_share"]
        rows.append([
            name, str(row["n_pairs"]), f"{wins['clean']:.2f} -> {wins['attacked']:.2f}",
            f"{margins['clean']:.2f} -> {margins['attacked']:.2f}", with_interval(row["margin_shift"], sign=True),
            f"{row['margin_turned_share']:.2f}",
        ])  # fmt: skip
    head = ["judge, what is added", "pairs", "win share by vote", "by margin", "shift of the margin", "margins turned"]
    return markdown(head, rows) if rows else ""


def throughput_table(speed: Mapping[str, Any]) -> str:
    """One row a model: the judge's throughput as a share of the bare calls', and the CPU time it adds."""
    rows = []
    for name, row in speed.items():
        cells = [f"{row['medians'][way]['cpu_s']:.1f}" for way in ("judge", "bare", "unordered")]
        shares = [f"{row[key]['cpu_s']:.3f}" for key in ("throughput_of_bare", "throughput_of_unordered")]
        rows.append([name, *cells, *shares, f"{row['added_cpu_ms_a_prompt']:.2f}"])
    head = ["SmolLM2's", "judge, CPU s", "bare, same order", "bare, unordered", "judge / bare", "judge / unordered"]
    return markdown([*head, "ms added a prompt"], rows) if rows else ""


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
