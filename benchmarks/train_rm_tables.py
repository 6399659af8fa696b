"""The table of docs/reward_models.md that puts training beside TRL's, made from data/bench/train_rm.json.

python benchmarks/train_rm_tables.py docs/reward_models.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "data" / "bench" / "train_rm.json"
NAMES = {
    "smollm2_hh": "SmolLM2-135M, hh_harmless",
    "minilm_hh": "MiniLM, hh_harmless",
    "minilm_ukp": "MiniLM, ukp_convincing",
    "smollm2_hh_h200": "SmolLM2-135M, hh_harmless, on an H200",
}
RIVALS = {"trl": "TRL's defaults", "trl_without_checkpointing": "TRL, no gradient checkpointing"}
COLUMNS = (
    "model, set",
    "tokens a pair: padded / apart / shared",
    "beside",
    "pairs/s, times TRL's",
    "CPU-seconds, TRL's / ours",
    "peak MiB, TRL / ours",
)


def tables() -> dict[str, str]:
    """Return the table by its name in the document."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [row(name, results[name], rival) for name in NAMES if name in results for rival in RIVALS]
    return {"train-rm": "\n".join([f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *rows])}


def row(name: str, result: dict[str, Any], rival: str) -> str:
    tokens = " / ".join(f"{result['tokens_a_pair'][layout]:.0f}" for layout in ("padded", "apart", "shared"))
    ratios = (spread(result["ratio_to_ours"][f"{key}_{rival}"]["all"]) for key in ("wall_s", "cpu_s"))
    memory = (f"{result['median'][variant]['peak_mib']:,.0f}" for variant in (rival, "ours"))
    return f"| {NAMES[name]} | {tokens} | {RIVALS[rival]} | {' | '.join(ratios)} | {' / '.join(memory)} |"


def spread(values: list[float]) -> str:
    """Return the median and, in brackets, least and most of some repeats."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"**{middle:.2f}** [{ordered[0]:.2f}, {ordered[-1]:.2f}]"


def main(path: str) -> None:
    document = Path(path)
    text = document.read_text(encoding="utf-8")
    for name, table in tables().items():
        marks = rf"(<!-- table:{name} -->\n).*?(<!-- /table -->)"
        text = re.sub(marks, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
