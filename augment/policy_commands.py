"""What the commands about policies do: read files, call one public function, say in a few lines what happened."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from augment.align import Exploring, align_dpo, align_with_rewards
from augment.best_of_n import best_of_n as choose_best
from augment.commands import Reading, check_out, write_manifest
from augment.dpo import PolicyConfig, Trained
from augment.eft import build_eft
from augment.generate import check_prompts, generate, read_candidates
from augment.generation_commands import read_prompts
from augment.models import ModelOptions
from augment.policy_rewards import Ensemble, Penalties
from augment.self_iteration import running
from augment.self_reward import CANDIDATES, GRADES, SelfReward, plan, policy_of
from augment.self_reward import self_reward as run_self_reward
from labeling.errors import DataError
from labeling.llm import Conversation, Engine, Sampling
from labeling.pairs import prompt_id
from rm.memory import free_memory
from rm.options import option


@dataclass(frozen=True)
class SelfRewardOptions:
    """How a policy rewards itself, as options."""

    method: Literal["srlm", "cream"] = option(
        "srlm: it grades its answers by a rubric. cream: its implicit rewards rank them, softened by consistency.",
        "srlm",
    )
    iterations: int = option("Rounds of answering and training.", 2)
    n: int | None = option("Answers to each prompt (default: 4 srlm, 5 cream).")
    temperature: float | None = option("Of the answers (default: 0.7 srlm, 0.8 cream).")
    top_p: float | None = option("Of the answers (default: 0.9 srlm, 0.95 cream).")
    max_tokens: int = option("Most tokens of an answer.", 512)
    grades: int = option(
        "srlm: times each answer is graded; the score is the mean. 0: the mean of the digits by their probabilities.",
        GRADES.n,
    )
    grade_tokens: int = option("srlm: most tokens of a graded answer.", GRADES.max_tokens)
    base: str | None = option("cream: the model before fine-tuning, M_0 (default: the one the run starts from).")
    rate: Literal["kendall", "spearman", "top-order"] = option("cream: which consistency rate.", "kendall")
    per_prompt: bool = option("cream: soften each pair by the rate of its own prompt, not by the mean.", False)
    over: Literal["sum", "mean"] = option("cream: implicit rewards are a sum over tokens, or their mean.", "sum")
    new_prompts: int = option("Prompts to write in each iteration and answer in place of those given.", 0)
    processes: int = option("Processes that train, one a GPU: a step sees so many times the pairs.", 1)

    def settings(self, training: PolicyConfig) -> SelfReward:
        """Return them checked. Raises DataError for an option of the other method."""
        self._check()
        given: dict[str, Any] = {
            "n": self.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        candidates = replace(CANDIDATES[self.method], **{k: v for k, v in given.items() if v is not None})
        return SelfReward(
            method=self.method,
            iterations=self.iterations,
            candidates=candidates,
            grades=replace(GRADES, n=self.grades, max_tokens=self.grade_tokens) if self.grades else None,
            base=self.base,
            rate=self.rate,
            per_prompt=self.per_prompt,
            over=self.over,
            new_prompts=self.new_prompts,
            processes=self.processes,
            seed=training.seed,
            training=training,
        )

    def _check(self) -> None:
        if self.grades < 0:
            raise DataError(f"--grades is {self.grades}; expected 0 or more")
        owner, names = OTHERS[self.method]
        foreign = [flag for flag in changed(self) if flag in names]
        if foreign:
            raise DataError(f"{', '.join(foreign)}: of --method {owner}, not {self.method}; leave it out")
        if not self.grades and self.grade_tokens != GRADES.max_tokens:
            raise DataError("--grade-tokens: no graded answer is drawn with --grades 0; leave it out")


OTHERS = {
    "srlm": ("cream", ("--base", "--rate", "--per-prompt", "--over")),
    "cream": ("srlm", ("--grades", "--grade-tokens")),
}
"""What a method cannot use, and whose it is."""


BEST_OF = Sampling(4, 0.7, 0.9, 256)
"""How the candidates are drawn that `best-of-n` chooses from."""


def changed(options: Any, usual: Any = None) -> list[str]:
    """Return the options that are not at their defaults, or those of `usual`, as they are typed."""
    usual = usual or type(options)()
    names = [one.name for one in fields(options) if getattr(options, one.name) != getattr(usual, one.name)]
    return [f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}" for name in names]


def self_reward(
    prompts: str,
    out: Path,
    model: ModelOptions,
    options: SelfRewardOptions,
    training: PolicyConfig,
    *,
    gold: str | None,
    dry_run: bool,
) -> str:
    """Run self-rewarding; return a line for each iteration, or what would be done."""
    model.check()
    if not model.local:
        raise DataError(f"--engine {model.engine} cannot load what is trained here; expected transformers or vllm")
    if model.adapter is not None:
        raise DataError(
            f"--adapter {model.adapter} would write and grade in every iteration, and training would not see it; merge "
            "it into the model first (peft: merge_and_unload, then save_pretrained), and pass that as --model"
        )
    how, asked = options.settings(training), read_prompts(prompts)
    known = None if gold is None else Reading(None, False)(gold)
    if dry_run:
        return "\n".join(plan(asked, str(model.model), how, out, known))

    def load(folder: Path) -> Engine:
        return on_this_machine(replace(model, model=str(folder))).load()

    ledger = run_self_reward(
        asked, str(model.model), how, out, gold=known, load=load, say=lambda line: print(line, file=sys.stderr)
    )
    lines = [
        f"iteration {row['iteration']}: {row['n_pairs']} pairs of {row['n_prompts']} prompts, q {row['q']:.3f}, "
        f"chosen {row['chosen_chars']:.0f} and rejected {row['rejected_chars']:.0f} characters"
        for row in ledger
    ]
    if ledger[-1]["stopped"]:
        lines.append(f"ended there: {ledger[-1]['stopped']}, so nothing could be learned from its pairs")
    return "\n".join([*lines, f"{policy_of(out, ledger)}: the policy; {out}/ledger.jsonl: the figures"])


def align(
    data: str,
    out: Path,
    model: str,
    method: Literal["dpo", "grpo", "rloo"],
    rms: Sequence[Path],
    exploring: Exploring,
    penalties: Penalties,
    training: PolicyConfig,
) -> str:
    """Align a policy; return what happened in one line."""
    if method == "dpo":
        foreign = [*(["--rm"] if rms else []), *changed(exploring), *changed(penalties)]
        if foreign:
            raise DataError(f"dpo learns from labels: {', '.join(foreign)} belong to grpo and rloo; leave them out")
        return _trained(align_dpo(data, model, training, out), "pairs")
    if not rms:
        raise DataError(f"{method} needs a reward model; name one or more by --rm DIR, as `weakpref train` writes it")
    prompts = alignment_prompts(data)
    how = {"exploring": exploring, "penalties": penalties}
    return _trained(align_with_rewards(prompts, model, rms, training, out, method=method, **how), "prompts")  # type: ignore[arg-type]


def alignment_prompts(data: str) -> list[Conversation]:
    """Return the distinct prompts of an augmented dataset, or of a file of prompts.

    Where a file has a column `prompt` too and is no augmented dataset, `messages` may hold the answers: it is not read.
    """
    from rm.data import training_files

    path = Path(data)
    files = training_files(path) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    names = set(_columns(files[0])) if files else set()
    if "messages" not in names or ("prompt" in names and not {"question", "p_chosen"} <= names):
        prompts = read_prompts(data)
        check_prompts(prompts)
        return list({prompt_id(turns): turns for turns in prompts}.values())
    found = [turns for file in files for turns in pq.read_table(file, columns=["messages"])["messages"].to_pylist()]
    check_prompts(found)
    return list({prompt_id(turns): turns for turns in found}.values())


def _columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file. Raises DataError where it is none."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); check the path, or make it again") from None


def best_of_n(path: str, out: Path, rms: Sequence[Path], n: int, model: ModelOptions, sampling: Sampling) -> str:
    """Write the best of n candidates for each prompt; return what happened, and what fewer would have given."""
    check_out(out, path)
    candidates = Path(path)
    written = candidates.suffix == ".parquet" and "response" in _columns(candidates)
    given = [*changed(model), *changed(sampling, replace(BEST_OF, n=n))]
    if written and given:
        raise DataError(f"{path} holds answers already, so {', '.join(given)} would do nothing; leave it out")
    from rm.model import check_reward_model

    for folder in rms:
        check_reward_model(folder)
    if not written:
        candidates = out.with_name(f"{out.stem}.candidates.parquet")
        if candidates.exists():
            raise DataError(f"{candidates} exists, where answers would be written; choose from it, or move it away")
        with running(on_this_machine(model).load()) as engine:  # ended before reward models need its memory
            generate(read_prompts(path), engine, candidates, sampling, chunk=model.chunk)
        del engine
        free_memory()
    made = choose_best(read_candidates(candidates), Ensemble.load(rms), n)
    made.write(out)
    inputs = {"candidates": candidates} | {f"rm_{i}": folder for i, folder in enumerate(rms)}
    curve = made.curve()
    seed = None if written else sampling.seed
    left = {"unusable": made.n_unusable, "left_out": made.n_left_out}
    write_manifest(out, "best-of-n", inputs, seed, {"prompts": made.table.num_rows, "n": n, **left, "curve": curve})
    figures = "\n".join(map(_point, curve))
    lost = f", {made.n_unusable:,} candidates without a usable text" if made.n_unusable else ""
    lost += f", {made.n_left_out:,} prompts left out for that" if made.n_left_out else ""
    return f"{figures}\n{out}: the best of {n} candidates for {made.table.num_rows:,} prompts{lost}"


def _point(point: dict[str, Any]) -> str:
    """Return one line of best-of-n's curve."""
    figures = [f"reward {point['reward']:.3f}{_between(point['reward_interval'])}"]
    if point["k"] > 1:
        figures.append(f"{point['gain']:+.3f}{_between(point['gain_interval'])} to one")
    return f"best of {point['k']}: {', '.join(figures)}, KL at most {point['kl_at_most']:.2f}"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def eft(pairs: str, out: Path, reading: Reading, model: ModelOptions, sampling: Sampling, most: int | None) -> str:
    """Write judge data made of pairs with gold; return what happened in one line."""
    check_out(out, pairs)
    model.check()
    made = build_eft(reading(pairs), on_this_machine(model).load(), sampling, most_per_score=most, seed=sampling.seed)
    made.write(out)
    write_manifest(out, "eft", {"pairs": Path(pairs)}, sampling.seed, {**made.counts, "sampling": asdict(sampling)})
    counts = made.counts
    lost = f"; {counts['contradictory']:,} prompts left out, whose labels contradict each other"
    return (
        f"{out}: {counts['kept']:,} of {counts['gradings']:,} gradings ({counts['agreeing']:,} agree with people, "
        f"{counts['repeated']:,} of them word for word like another, {counts['unparsed']:,} end in no score)"
        f"{lost if counts['contradictory'] else ''}"
    )


def on_this_machine(model: ModelOptions) -> ModelOptions:
    """Return the options with the GPU named where there is one and none was: the engine's own default is the CPU."""
    import torch

    free = model.engine == "transformers" and model.device is None and torch.cuda.is_available()
    return replace(model, device="cuda") if free else model


def _trained(done: Trained, what: str) -> str:
    last = ", ".join(f"{name} {done.last[name]:.3f}" for name in ("loss", "reward", "kl") if name in done.last)
    left = f", {done.n_too_long} too long" if done.n_too_long else ""
    left += f", {done.n_shortened} responses shortened" if done.n_shortened else ""
    left += f", {done.n_left_over} left over an epoch" if done.n_left_over else ""
    return f"{done.folder}: {done.steps} steps on {done.n_pairs:,} {what}{left}; last step: {last}"
