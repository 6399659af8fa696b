"""Asks SmolLM2 about real pairs and keeps what it said, so that evidence on judges can be weighed without asking again.

python benchmarks/judge_ask.py --model FOLDER [--pairs 400] [--engine vllm]

Of each set, pairs whose gold is no tie are drawn once (seed 0). Judges: `pairwise` (the package's template), `plain` (a
template of four lines, below) and `rubric` (the mean of the digits by their probabilities). Writes
data/bench/judge_verdicts.parquet: a row per pair and judge, with pair_id, group and gold, but no texts. A run that is
stopped goes on from its cache of answers.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labeling import Pairs, read_pairs
from labeling.files import replacing
from labeling.llm import Engine
from labeling.llm_cache import CachedEngine
from labeling.pairwise_judge import PairwiseJudge
from labeling.rubric_judge import RubricJudge
from labeling.verdicts import Verdicts

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / "data" / "bench" / "judge_verdicts.parquet"
SETS = ("ukp_convincing", "pandalm")
JUDGES = ("pairwise", "rubric", "plain")
SLICE = 100
"""Pairs asked at a time, of every set and judge in turn, so that a run cut short has something of everything."""
PLAIN = """{{ question }}

{{ response_a }}

{{ response_b }}

Which response is better, A or B? Answer with one letter.
"""
SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("judge", pa.string()),
        ("pair_id", pa.string()),
        ("group", pa.string()),
        ("gold", pa.float64()),
        ("shown_first", pa.float64()),
        ("shown_second", pa.float64()),
        ("margin", pa.float64()),
        ("model", pa.string()),
    ]
)
"""margin is the mean log-odds of A in both orders, or the difference of the expected grades."""


def pairs_of(name: str, n: int) -> Pairs:
    """Return n pairs of a set, none of them a tie, always in the same order."""
    pairs = read_pairs(DATA / f"{name}.parquet")
    decided = np.flatnonzero(~np.isnan(pairs.gold) & (pairs.gold != 0.5))
    return pairs.take(np.random.default_rng(0).permutation(decided)[:n])


def loaded(kind: str, model: str) -> Engine:
    """Return the engine, in float32: bfloat16 is several times slower where the CPU has no instructions for it."""
    if kind == "transformers":
        from labeling.transformers_engine import TransformersEngine

        return TransformersEngine.load(model)
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM

    from labeling.transformers_engine import weights_revision
    from labeling.vllm_engine import VLLMEngine

    llm = LLM(model, dtype="float32", max_model_len=2304, enforce_eager=True, enable_prefix_caching=True, block_size=32)
    return VLLMEngine(llm, f"{Path(model).name}@{weights_revision(model)} (float32, vLLM)")


def judge_named(name: str, engine: Engine, folder: Path) -> PairwiseJudge | RubricJudge:
    if name == "rubric":
        return RubricJudge(engine, sampling=None)
    if name == "pairwise":
        return PairwiseJudge(engine, on_flip="keep")
    template = folder / "plain.jinja"
    template.write_text(PLAIN, encoding="utf-8")
    return PairwiseJudge(engine, template=template, on_flip="keep")


def rows(name: str, judge: str, pairs: Pairs, verdicts: Verdicts) -> list[dict[str, Any]]:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    return [
        {
            "set": name,
            "judge": judge,
            "pair_id": pairs.pair_ids[i],
            "group": pairs.groups[i],
            "gold": float(pairs.gold[i]),
            "shown_first": known(verdicts.shown_first[i]),
            "shown_second": known(verdicts.shown_second[i]),
            "margin": known(verdicts.margins[i]),
            "model": verdicts.notes["model"],
        }
        for i in range(len(pairs))
    ]


def work(n: int) -> list[tuple[int, str, str]]:
    """Return (first pair, judge, set) in the order asked: 200 pairs pairwise and 100 of the other two first."""
    starts = list(range(0, n, SLICE))
    blocks = [(("pairwise",), starts[:2]), (("rubric", "plain"), starts[:1]), (("plain",), starts[1:2])]
    blocks += [(("pairwise",), starts[2:]), (("rubric", "plain"), starts[1:])]
    asked = [(start, judge, name) for judges, some in blocks for start, judge in itertools.product(some, judges)
             for name in SETS]  # fmt: skip
    return list(dict.fromkeys(asked))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of SmolLM2, as labeling.smollm2.save_smollm2 writes it")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--first", type=int, help="ask no more than so many slices of the work")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "answers.sqlite")
    args = parser.parse_args(argv)
    args.cache.parent.mkdir(parents=True, exist_ok=True)
    engine = CachedEngine(loaded(args.engine, args.model), args.cache)
    pairs, found = {name: pairs_of(name, args.pairs) for name in SETS}, []
    for start, judge, name in work(args.pairs)[: args.first]:
        some = pairs[name].take(np.arange(start, min(start + SLICE, len(pairs[name]))))
        verdicts = judge_named(judge, engine, args.cache.parent).judge(some.voter_table())
        found += rows(name, judge, some, verdicts)
        print(
            f"{name} {judge} {start}: {verdicts.cost.seconds:.0f} s, {verdicts.cost.prompt_tokens:,} tokens", flush=True
        )
        with replacing(OUT) as part:
            pq.write_table(pa.Table.from_pylist(found, schema=SCHEMA), part, compression="zstd")


if __name__ == "__main__":
    main()
