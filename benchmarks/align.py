"""Does aligning with a reward model move a policy, and is what moved better to a reward model that had no say in it?

python benchmarks/align.py [--work build/align] [--seed 0] [--table]

The debates of ukp_convincing, both stances of one on the same side, are split into three: labels for reward model A,
labels for reward model B, and pairs that say how right both are. SmolLM2-135M writes arguments on other debates
(benchmarks/debates.txt, which has no labels) and is aligned with A: best-of-n, DPO (its own answers, all pairs, sigmoid
of the difference of A's rewards as soft labels) and GRPO, LoRA of rank 16. B, which saw none of A's labels and nothing
of the policy, then says how often an answer of the aligned policy beats one of the starting policy to the same prompt,
on debates that nothing was aligned on. Settings were fixed before the first run on these debates; one on pandalm came
before (data/bench/LOG.md). Answers are drawn at temperature 1 and cut at 48 tokens; the KL is the mean log-ratio of the
policy's own answers (nats an answer; at most log n - (n - 1)/n for best-of-n). Intervals are 95 % percentile bootstraps
over prompts. What is made is kept under --work and not made again. Writes data/bench/align.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from augment import export
from augment.align import Exploring, align_with_rewards
from augment.demo import REWARD_CONFIG
from augment.dpo import PolicyConfig, SoftPairs, train_dpo
from augment.generate import generate
from augment.implicit_rewards import response_log_probs
from augment.pair_candidates import Pairing, pair_candidates
from augment.policies import load_policy, save_as_folder
from labeling import read_pairs
from labeling.files import write_json
from labeling.llm import Conversation, Sampling
from labeling.pairs import Pairs
from rm import RewardModel, evaluate, train

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "ukp_convincing.parquet"
DEBATES = Path(__file__).with_name("debates.txt")
OUT = ROOT / "data" / "bench" / "align.json"

REWARD = replace(REWARD_CONFIG, max_steps=60)
POLICY = PolicyConfig(learning_rate=2e-4, batch_size=8, gradient_accumulation=1, lora_rank=16, max_length=256)
ANSWERS = Sampling(temperature=1.0, max_tokens=48)
DPO_STEPS, GRPO_STEPS = (24,), (12, 24)
N_POOL, N_OPPONENTS, N_ALIGNED = 8, 4, 4
N_ALIGN = 24
"""Debates to align on; the other 40 measure."""
N_ACCURACY = 600
"""Pairs that say how right the reward models are."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Labels of two reward models, and prompts to align and to measure on; no group is in two of them."""

    a: Pairs
    b: Pairs
    align: list[Conversation]
    measure: list[Conversation]
    measured_pairs: Pairs


def split(seed: int) -> Split:
    rng = np.random.default_rng(seed)
    pairs = read_pairs(DATA, on_bad_rows="drop")
    pairs = pairs.take(np.isin(pairs.gold, (0, 1)))
    titles = np.array([prompt[0]["content"].split("\n")[0] for prompt in pairs.table["prompt"].to_pylist()])
    order = rng.permutation(np.unique(titles))
    a, b, rest = (pairs.take(np.isin(titles, some)) for some in np.array_split(order, 3))
    chosen = np.sort(rng.permutation(len(rest))[:N_ACCURACY])
    prompts = [_prompt(claim, rng) for claim in rng.permutation(DEBATES.read_text(encoding="utf-8").splitlines())]
    return Split(a, b, prompts[:N_ALIGN], prompts[N_ALIGN:], rest.take(chosen))


def _prompt(claim: str, rng: np.random.Generator) -> Conversation:
    """Ask for an argument as the labelled pairs do."""
    stance = rng.choice(["Yes", "No"])
    asked = f"Debate: {claim}\nStance: {stance}\nWrite a convincing argument for this stance."
    return [{"role": "user", "content": asked}]


def once(path: Path, make: Callable[[Path], Any]) -> Path:
    """Make a file or folder unless it is there."""
    if not path.exists():
        print(f"making {path.name}", flush=True)
        make(path)
    return path


def reward_model(work: Path, name: str, pairs: Pairs, seed: int) -> Path:
    def make(path: Path) -> None:
        data = export(work / f"augmented-{name}", pairs, pairs.gold)
        train(data, replace(REWARD, seed=seed), out=path)

    return once(work / f"rm-{name}", make)


def answers(work: Path, name: str, model: Path, prompts: Sequence[Conversation], n: int, seed: int) -> Any:
    sampling = replace(ANSWERS, n=n, seed=seed)
    path = once(work / f"{name}.parquet", lambda path: generate(prompts, load_policy(model), path, sampling))
    return pq.read_table(path)


def dpo_policy(work: Path, start: Path, table: Any, rewards: FloatArray, steps: int, seed: int) -> Path:
    made = pair_candidates(table, rewards, Pairing("all")).table.to_pylist()
    h = [row["score_a"] - row["score_b"] for row in made]
    better, worse = zip(*(("a", "b") if margin >= 0 else ("b", "a") for margin in h), strict=True)
    pairs = SoftPairs(
        [row["prompt"] for row in made],
        [row[f"response_{side}"] for row, side in zip(made, better, strict=True)],
        [row[f"response_{side}"] for row, side in zip(made, worse, strict=True)],
        [1 / (1 + math.exp(-abs(margin))) for margin in h],
        chosen_ended=[False] * len(made),  # nearly all were cut at 48 tokens
        rejected_ended=[False] * len(made),
    )
    config = replace(POLICY, max_steps=steps, seed=seed)
    return once(work / f"dpo-{steps}", lambda path: train_dpo(start, pairs, config, path))


def grpo_policy(work: Path, start: Path, prompts: Sequence[Conversation], rm: Path, steps: int, seed: int) -> Path:
    config = replace(POLICY, max_steps=steps, seed=seed, batch_size=16, beta=0.05)
    exploring = Exploring(n=8, temperature=1.0, max_tokens=ANSWERS.max_tokens)
    return once(
        work / f"grpo-{steps}", lambda path: align_with_rewards(prompts, start, [rm], config, path, exploring=exploring)
    )


@dataclass(frozen=True)
class Bench:
    """Everything that is measured with."""

    prompts: Sequence[Conversation]
    rms: dict[str, RewardModel]
    start: Path
    seed: int

    def rewards(self, table: Any) -> dict[str, FloatArray]:
        """Return rewards (prompts, samples) under both reward models."""
        texts = [text or "" for text in table["response"].to_pylist()]
        asked = table["prompt"].to_pylist()
        return {name: rm.score(asked, texts).reshape(len(self.prompts), -1) for name, rm in self.rms.items()}

    def kl(self, model: Path, table: Any) -> FloatArray:
        """Return the log-ratio to the start of each answer, averaged by prompt, nats."""
        ended = [reason == "stop" for reason in table["finish_reason"].to_pylist()]
        texts = [text or "" for text in table["response"].to_pylist()]
        found = [
            response_log_probs(load_policy(m), table["prompt"].to_pylist(), texts, ended) for m in (model, self.start)
        ]
        ratio: FloatArray = (found[0].total - found[1].total).reshape(len(self.prompts), -1).mean(axis=1)
        return ratio

    def row(self, name: str, ours: dict[str, FloatArray], theirs: dict[str, FloatArray], lengths: FloatArray) -> Any:
        """Return the row of an arm: wins over the start and gain in reward under both models, length in tokens."""
        row: dict[str, Any] = {"policy": name}
        for rm in ("a", "b"):
            wins = (ours[rm][:, :, None] > theirs[rm][:, None, :]) + 0.5 * (
                ours[rm][:, :, None] == theirs[rm][:, None, :]
            )
            row[f"win_rate_{rm}"] = self.mean(wins.mean(axis=(1, 2)))
            row[f"gain_{rm}"] = self.mean(ours[rm].mean(axis=1) - theirs[rm].mean(axis=1))
        return row | {"tokens": self.mean(lengths)}

    def mean(self, values: FloatArray) -> dict[str, float]:
        """Return the mean over prompts with its 95 % interval."""
        draws = np.random.default_rng(self.seed).integers(0, len(values), (2000, len(values)))
        low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
        return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def tokens(table: Any, n: int) -> FloatArray:
    return np.asarray(table["n_tokens"].to_numpy().reshape(n, -1), dtype=np.float64)


def run(work: Path, seed: int) -> dict[str, Any]:
    parts = split(seed)
    rms = {"a": reward_model(work, "a", parts.a, seed), "b": reward_model(work, "b", parts.b, seed + 1)}
    start = once(work / "start", lambda path: save_as_folder("smollm2", path, "float32"))
    loaded = {name: RewardModel.load(path) for name, path in rms.items()}
    bench = Bench(parts.measure, loaded, start, seed)
    n = len(parts.measure)
    pool = answers(work, "start-answers", start, parts.measure, N_POOL + N_OPPONENTS, 100 + seed)
    everything = bench.rewards(pool)
    theirs = {rm: values[:, N_POOL:] for rm, values in everything.items()}
    lengths = tokens(pool, n)
    first = {rm: values[:, :N_ALIGNED] for rm, values in everything.items()}
    rows = [bench.row("start", first, theirs, lengths[:, :N_ALIGNED].mean(axis=1)) | {"kl": 0.0}]
    for k in (2, 4, N_POOL):
        best = everything["a"][:, :k].argmax(axis=1)[:, None]
        ours = {rm: np.take_along_axis(values, best, axis=1) for rm, values in everything.items()}
        chosen = np.take_along_axis(lengths, best, axis=1).mean(axis=1)
        rows.append(bench.row(f"best of {k}", ours, theirs, chosen) | {"kl_at_most": math.log(k) - (k - 1) / k})
    drawn = answers(work, "align-answers", start, parts.align, 6, 200 + seed)
    rewards = loaded["a"].score(drawn["prompt"].to_pylist(), [text or "" for text in drawn["response"].to_pylist()])
    arms = [(f"DPO, {s} steps", dpo_policy(work, start, drawn, rewards, s, seed)) for s in DPO_STEPS]
    arms += [(f"GRPO, {s} steps", grpo_policy(work, start, parts.align, rms["a"], s, seed)) for s in GRPO_STEPS]
    for name, model in arms:
        table = answers(work, f"{model.name}-answers", model, parts.measure, N_ALIGNED, 300 + seed)
        row = bench.row(name, bench.rewards(table), theirs, tokens(table, n).mean(axis=1))
        rows.append(row | {"kl": bench.mean(bench.kl(model, table))})
    return {
        "data": "ukp_convincing", "policy": "SmolLM2-135M-Instruct", "seed": seed, "rows": rows,
        "counts": {"pairs_a": len(parts.a), "pairs_b": len(parts.b), "align": len(parts.align), "measure": n},
        "rm_accuracy": {name: _accuracy(path, parts.measured_pairs) for name, path in rms.items()},
        "rm_correlation": float(np.corrcoef(*(values.ravel() for values in everything.values()))[0, 1]),
        "rm_length_correlation": {
            name: float(np.corrcoef(values.ravel(), lengths.ravel())[0, 1]) for name, values in everything.items()
        },
    }  # fmt: skip


def _accuracy(rm: Path, pairs: Pairs) -> dict[str, float]:
    found = evaluate(rm, pairs)
    return {"mean": found.accuracy, "low": found.accuracy_low, "high": found.accuracy_high, "n": found.n}


def table(result: dict[str, Any]) -> str:
    """Return the table of docs/align.md."""
    head = "| policy | KL, nats | wins over the start, by A | by B (held out) | gain in A's reward | in B's | tokens |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        kl = f"at most {row['kl_at_most']:.2f}" if "kl_at_most" in row else _cell(row["kl"], 2)
        wins = [_cell(row[f"win_rate_{rm}"], 3) for rm in ("a", "b")]
        gains = [_cell(row[f"gain_{rm}"], 3) for rm in ("a", "b")]
        lines.append(f"| {row['policy']} | {kl} | {' | '.join([*wins, *gains])} | {_cell(row['tokens'], 1)} |")
    return "\n".join(lines)


def _cell(value: dict[str, float] | float, digits: int) -> str:
    if not isinstance(value, dict):
        return f"{value:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the gain in reward of each policy over its KL, under both reward models, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (rm, title) in zip(panels, (("a", "A, aligned with"), ("b", "B, held out")), strict=True):
        for row, marker in zip(result["rows"], "o^>v<sDPXd", strict=False):
            kl = row["kl_at_most"] if "kl_at_most" in row else row["kl"]["mean"] if row["kl"] else 0.0
            gain = row[f"gain_{rm}"]
            errors = [[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]]
            axes.errorbar([kl], [gain["mean"]], errors, fmt=marker, label=row["policy"])
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set(title=f"reward model {title}", xlabel="KL to the start, nats", ylabel="gain in reward")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "align")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only print the table of docs/align.md, draw align.png")
    options = parser.parse_args()
    if not options.table:
        write_json(OUT, run(options.work / str(options.seed), options.seed))
    result = json.loads(OUT.read_text(encoding="utf-8"))
    plot(result, ROOT / "docs" / "align.png")
    print(table(result))


if __name__ == "__main__":
    main()
