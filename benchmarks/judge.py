"""Times PairwiseJudge on vLLM against a bare `LLM.generate` of the very same prompts, in the same run.

python benchmarks/judge.py --model FOLDER [--pairs 500] [--layers 1] [--repeats 3]     (where vLLM is installed)

The shortest pairs of the quickstart data, on which what is not the model weighs most. Three ways, each from an empty
prefix cache, the first two in turn and the third once: `judge` (templates, token counts, a new cache of answers, both
orders, votes), `bare` (the judge's prompts, ready as token ids, in the order the engine sends them) and `unordered`
(the same prompts, two of a pair side by side, as they come). Every way asks one token and the log-probabilities of A
and B. Seconds are of this process on the CPU, in which vLLM runs too, and of the clock. The model is cut to its first
layers: with fewer, the prompts take the model as little time as they take a large one on a GPU, and what the judge adds
weighs more. Writes data/bench/judge.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeling import Pairs, read_pairs
from labeling.chat_tokens import choice_tokens, prompt_tokens
from labeling.files import write_json
from labeling.llm_cache import CachedEngine
from labeling.pairwise_judge import PairwiseJudge, texts_of

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "quickstart" / "pairs.parquet"
OUT = ROOT / "data" / "bench" / "judge.json"
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def loaded(model: Path, layers: int, folder: Path) -> Any:
    """Return a VLLMEngine of the model's first layers, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from labeling.vllm_engine import VLLMEngine

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    if layers < network.config.num_hidden_layers:
        network.model.layers = network.model.layers[:layers]
        network.config.num_hidden_layers = layers
        network.config.layer_types = None
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return VLLMEngine.load(folder, dtype="float32", max_model_len=2304, enforce_eager=True)


def shortest(pairs: Pairs, n: int) -> Pairs:
    lengths = [sum(map(len, texts)) for texts in texts_of(pairs.voter_table())]
    return pairs.take(np.argsort(lengths, kind="stable")[:n])


def timed(work: Callable[[], Any]) -> dict[str, float]:
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return {"cpu_s": time.process_time() - cpu, "clock_s": time.perf_counter() - clock}


def ways(engine: Any, pairs: Pairs, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the three ways by name; the prompts of the bare ones are made before the clock starts."""
    from vllm import SamplingParams

    texts, plan = texts_of(pairs.voter_table()), PairwiseJudge(engine)
    prompts = [prompt for row in texts for prompt in plan._prompts(row)]
    tokenizer = engine.llm.get_tokenizer()
    tokens = prompt_tokens(tokenizer, prompts)
    letters = sorted(ids[0] for ids in choice_tokens(tokenizer, ["A", "B"]))
    how = SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=letters, detokenize=False)

    def judge() -> None:
        path = folder / f"{time.monotonic_ns()}.sqlite"
        PairwiseJudge(CachedEngine(engine, path)).judge(pairs.voter_table())

    def bare(ids: Sequence[Sequence[int]]) -> None:
        engine.llm.generate([{"prompt_token_ids": row} for row in ids], how, use_tqdm=False)

    return {"judge": judge, "bare": lambda: bare(sorted(tokens)), "unordered": lambda: bare(tokens)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    os.environ.update(SETTINGS)
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        engine = loaded(args.model, args.layers, Path(name) / "model")
        pairs = shortest(read_pairs(DATA), args.pairs)
        asked = ways(engine, pairs, Path(name))
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in asked}
        ways(engine, pairs.take(range(10)), Path(name))["bare"]()  # what is compiled or allocated once is not timed
        for way in ("judge", "bare") * args.repeats + ("unordered",):
            engine.llm.reset_prefix_cache()
            runs[way].append(timed(asked[way]))
            print(way, runs[way][-1], flush=True)
        judge = PairwiseJudge(engine)
        prompts = [prompt for texts in texts_of(pairs.voter_table()) for prompt in judge._prompts(texts)]
        n = sum(engine.count_tokens(prompts))
    found[f"first {args.layers} of 30 layers, {len(pairs)} pairs"] = summary(runs, len(pairs), n)
    write_json(OUT, found)
    print(json.dumps(summary(runs, len(pairs), n), indent=1))


def summary(runs: dict[str, list[dict[str, float]]], n_pairs: int, n_tokens: int) -> dict[str, Any]:
    medians = {
        way: {unit: statistics.median(run[unit] for run in done) for unit in done[0]} for way, done in runs.items()
    }
    extra = medians["judge"]["cpu_s"] - medians["bare"]["cpu_s"]
    return {
        "n_pairs": n_pairs,
        "prompt_tokens": n_tokens,
        "medians": medians,
        "runs": runs,
        "throughput_of_bare": {unit: medians["bare"][unit] / medians["judge"][unit] for unit in ("cpu_s", "clock_s")},
        "throughput_of_unordered": {
            unit: medians["unordered"][unit] / medians["judge"][unit] for unit in ("cpu_s", "clock_s")
        },
        "added_cpu_ms_a_prompt": 1000 * extra / (2 * n_pairs),
    }


if __name__ == "__main__":
    main()
