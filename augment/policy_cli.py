"""The commands about policies: `self-reward`, `align`, `best-of-n`, `eft`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from augment import policy_commands
from augment.align import Exploring
from augment.arguments import Drop, Layout, Out, PairsFile, PromptsFile, Seed
from augment.commands import Reading
from augment.dpo import PolicyConfig
from augment.models import ModelOptions
from augment.policy_commands import BEST_OF, SelfRewardOptions
from augment.policy_rewards import Penalties
from labeling.llm import Sampling
from rm.options import expanded

RewardModels = Annotated[list[Path], typer.Option("--rm", help="Reward model directory; repeat for an ensemble.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("self-reward")(self_reward)
    app.command()(align)
    app.command("best-of-n")(best_of_n)
    app.command()(eft)


@expanded
def self_reward(
    prompts: PromptsFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; one that was stopped goes on.")],
    model: ModelOptions,
    options: SelfRewardOptions,
    training: PolicyConfig,
    gold: Annotated[
        str | None, typer.Option(help="Labelled pairs: each iteration measures how far it agrees with them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what is.")] = False,
) -> None:
    """Let a policy rank its own answers and learn from them: PROMPTS -> RUN/iteration-N/model, RUN/ledger.jsonl.

    --engine is transformers or vllm here, for what is trained is loaded from a folder: options of openai are refused.
    """
    print(policy_commands.self_reward(prompts, out, model, options, training, gold=gold, dry_run=dry_run))


@expanded
def align(
    data: Annotated[str, typer.Argument(help="Augmented dataset; for grpo and rloo also a file of prompts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write; it must not exist yet.")],
    model: Annotated[str, typer.Option(help="Policy to start from: smollm2, a folder or a hub id.")],
    exploring: Exploring,
    penalties: Penalties,
    training: PolicyConfig,
    method: Annotated[
        Literal["dpo", "grpo", "rloo"], typer.Option(help="dpo: from soft labels. grpo, rloo: with a reward model.")
    ] = "dpo",
    rms: Annotated[
        list[Path] | None, typer.Option("--rm", help="grpo, rloo: reward model directory; repeat for an ensemble.")
    ] = None,
) -> None:
    """Align a policy with labels or a reward model: augmented dataset -> a model that transformers and vLLM load."""
    line = policy_commands.align(data, out, model, method, rms or [], exploring, penalties, training)
    if os.environ.get("RANK", "0") == "0":  # torchrun gives each process its rank
        print(line)


@expanded
def best_of_n(
    source: Annotated[str, typer.Argument(help="candidates.parquet of `weakpref generate`, or a file of prompts.")],
    out: Out,
    rms: RewardModels,
    model: ModelOptions,
    n: Annotated[int, typer.Option("-n", help="Candidates to choose from.")] = BEST_OF.n,
    temperature: Annotated[float, typer.Option(help="Of answers to prompts.")] = BEST_OF.temperature,
    top_p: Annotated[float, typer.Option(help="Of answers to prompts.")] = BEST_OF.top_p,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = BEST_OF.max_tokens,
    seed: Seed = BEST_OF.seed,
) -> None:
    """Keep the answer a reward model likes best, the cheap rival of training: candidates or PROMPTS -> best.parquet.

    Answers to PROMPTS are kept beside it, as best.candidates.parquet.
    """
    sampling = Sampling(n, temperature, top_p, max_tokens, seed=seed)
    print(policy_commands.best_of_n(source, out, rms, n, model, sampling))


@expanded
def eft(
    pairs: PairsFile,
    out: Out,
    model: ModelOptions,
    samples: Annotated[int, typer.Option(help="Times each response is graded.")] = 3,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a graded answer.")] = 300,
    most_per_score: Annotated[
        int | None, typer.Option(help="Most gradings of one score (default: the mean count of the scores there are).")
    ] = None,
    seed: Seed = 0,
    layout: Layout = None,
    drop_bad_rows: Drop = False,
) -> None:
    """Make judge data: a model's gradings that order responses as people did -> eft.parquet, for TRL's SFTTrainer."""
    sampling = Sampling(samples, 0.7, 0.9, max_tokens, seed=seed)
    reading = Reading(layout, drop_bad_rows)
    print(policy_commands.eft(pairs, out, reading, model, sampling, most_per_score))
