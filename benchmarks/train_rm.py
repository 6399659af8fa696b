"""Training a reward model here and with TRL's RewardTrainer: pairs/s, CPU-seconds, memory, to the same loss.

    python benchmarks/train_rm.py MODEL_FOLDER PAIRS.parquet --name smollm2_hh --steps 4 --repeats 3

Both start from the same weights, head included, and see the same pairs in the same order in steps of --batch, in
float32 (--bf16: under bfloat16's autocast) with the same AdamW, on the GPU where there is one; pairs above --max-length
tokens are left out beforehand, since TRL drops them. The first steps (--untimed) are not timed: they pay for what is
set up once. Every run is a process of its own; runs alternate. Results go to data/bench/train_rm.json under --name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

RESULTS = Path(__file__).resolve().parent.parent / "data" / "bench" / "train_rm.json"
VARIANTS = ("ours", "trl", "trl_without_checkpointing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--name", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--untimed", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--run", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        tokens = prepare(options, Path(folder))
        runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.repeats):
            for variant in VARIANTS:
                runs[variant].append(child(options, Path(folder), variant))
                print(variant, {key: runs[variant][-1][key] for key in ("wall_s", "cpu_s", "peak_mib")}, flush=True)
    write(options, tokens, runs)


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Write the start model and the pairs of all steps in their order; return tokens a pair in three layouts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from labeling.pairs import MESSAGES
    from rm.config import RewardConfig
    from rm.handoff import save
    from rm.model import RewardModel, load_base
    from rm.sources import training_pairs

    torch.manual_seed(0)
    model, tokenizer = load_base(options.model, options.max_length)
    save(RewardModel(model, tokenizer, options.max_length), folder / "model")
    rows = [row for row in pq.read_table(options.pairs).to_pylist() if row["gold"] in (0.0, 1.0)]
    turns = [
        [[*row["prompt"], {"role": "assistant", "content": row[side]}] for side in ("response_a", "response_b")]
        for row in rows
    ]
    ordered = [pair if row["gold"] else pair[::-1] for pair, row in zip(turns, rows, strict=True)]

    def write(pairs: list[Any], name: str) -> Path:
        columns = {
            side: pa.array([pair[k] for pair in pairs], MESSAGES) for k, side in ((0, "chosen"), (1, "rejected"))
        }
        pq.write_table(pa.table(columns), folder / name)
        return folder / name

    config = RewardConfig(str(folder / "model"), max_length=1 << 20)
    lengths = training_pairs([write(ordered, "all.parquet")], tokenizer, config, folder / "tokens").lengths
    short = np.flatnonzero(lengths[:, :2].max(axis=1) <= options.max_length)
    chosen = np.random.default_rng(0).permutation(short)[: options.batch * options.steps]
    write([ordered[i] for i in chosen], "pairs.parquet")
    longest = lengths[chosen, :2].max(axis=1).reshape(options.steps, options.batch)
    return {
        "padded": float(2 * longest.max(axis=1).mean()),
        "apart": float(lengths[chosen, :2].sum(axis=1).mean()),
        "shared": float((lengths[chosen, :2].sum(axis=1) - lengths[chosen, 2]).mean()),
    }


def child(options: argparse.Namespace, folder: Path, variant: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder / "model"), str(folder / "pairs.parquet"), "--name", options.name]
    named = ("steps", "max_length", "learning_rate", "batch", "untimed")
    settings = [word for name in named for word in (f"--{name.replace('_', '-')}", vars(options)[name])]
    settings += ["--bf16"] * options.bf16
    done = subprocess.run(
        [*command, *map(str, settings), "--run", variant], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train as one variant does and return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(options, Path(folder)) if options.run == "ours" else trl(options, Path(folder))
        clock = Clock(options.untimed)
        trainer.add_callback(clock)
        trainer.train()
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "first_s": clock.first_s,
        "peak_mib": clock.peak_mib(),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


class Clock(TrainerCallback):  # type: ignore[misc]
    """Wall and CPU seconds from the end of the last untimed step to the end of the last, and wall seconds before."""

    def __init__(self, untimed: int) -> None:
        self.untimed = untimed
        self.begin = self.start = self.now()

    def now(self) -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), sum(os.times()[:4])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        now = self.now()
        if state.global_step <= self.untimed:
            self.start, self.first_s = now, now[0] - self.begin[0]
        self.wall_s, self.cpu_s = (b - a for a, b in zip(self.start, now, strict=True))

    def peak_mib(self) -> float:
        """Of the GPU's memory where there is one (what torch gave out), else of the process's."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(options: argparse.Namespace, folder: Path) -> Any:
    from rm.config import RewardConfig
    from rm.model import load_base
    from rm.order import Mixture
    from rm.sources import training_pairs
    from rm.trainer import PairTrainer, prepare

    config = RewardConfig(
        options.model, max_length=options.max_length, batch_size=options.batch,
        learning_rate=options.learning_rate, warmup_share=0.0, bf16=options.bf16, max_steps=options.steps,
    )  # fmt: skip
    model, tokenizer = load_base(options.model, options.max_length)
    prepare(model, config)
    pairs = training_pairs([options.pairs], tokenizer, config, folder / "tokens")
    Mixture.epoch = in_order  # type: ignore[method-assign]
    trainer = PairTrainer(model, tokenizer, pairs, config, folder / "out")
    trainer.args.logging_steps = 1
    return trainer


def in_order(mixture: Any, seed: int, epoch: int) -> Any:  # noqa: ARG001
    import numpy as np

    return np.arange(len(mixture))


def trl(options: argparse.Namespace, folder: Path) -> Any:
    import pyarrow.parquet as pq
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback
    from trl import RewardConfig, RewardTrainer

    arguments = RewardConfig(
        output_dir=str(folder), max_length=options.max_length, per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate, max_steps=options.steps, bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(), logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, train_sampling_strategy="sequential",
        gradient_checkpointing=options.run == "trl",
    )  # fmt: skip
    trainer = RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(options.model),
        args=arguments,
        train_dataset=Dataset.from_list(pq.read_table(options.pairs).to_pylist()),
        processing_class=AutoTokenizer.from_pretrained(options.model),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def write(options: argparse.Namespace, tokens: dict[str, float], runs: dict[str, list[dict[str, Any]]]) -> None:
    taken = ("wall_s", "cpu_s", "peak_mib", "first_s")
    median = {
        variant: {key: statistics.median(run[key] for run in found) for key in taken} for variant, found in runs.items()
    }
    ratios = {
        f"{key}_{variant}": [theirs[key] / mine[key] for theirs, mine in zip(runs[variant], runs["ours"], strict=True)]
        for variant in VARIANTS[1:]
        for key in ("wall_s", "cpu_s", "peak_mib")
    }
    from rm.trainer import CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET

    gpu = torch.cuda.is_available()

    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results[options.name] = {
        "pairs": Path(options.pairs).name, "steps": options.steps, "batch": options.batch, "repeats": options.repeats,
        "untimed": options.untimed, "max_length": options.max_length,
        "dtype": "bfloat16" if options.bf16 else "float32",
        "token_budget": GPU_TOKEN_BUDGET if gpu else CPU_TOKEN_BUDGET, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "tokens_a_pair": tokens, "median": median,
        "ratio_to_ours": {name: {"median": statistics.median(found), "all": found} for name, found in ratios.items()},
        "losses": {variant: found[0]["losses"] for variant, found in runs.items()},
        "cpus": len(os.sched_getaffinity(0)), "python": platform.python_version(),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(results[options.name]["ratio_to_ours"], indent=1))


if __name__ == "__main__":
    main()
