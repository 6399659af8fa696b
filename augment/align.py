"""The RLHF stage: a policy aligned with augmented pairs (DPO) or with a trained reward model (GRPO, RLOO), by TRL."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from augment.dpo import PolicyConfig, SoftPairs, Trained, finish, lora, run, told, train_dpo
from augment.generate import check_prompts
from augment.policies import PACKAGED, load_policy, need_rlhf, quiet_trl, save_as_folder, with_template
from augment.policy_rewards import Ensemble, Penalties, reward_functions
from augment.run_identity import known_as
from labeling.chat_tokens import prompt_tokens
from labeling.errors import DataError, WeakprefWarning
from labeling.files import input_hash, manifest, sha256, write_json
from labeling.llm import Conversation
from labeling.pairs import prompt_id, prompt_text
from rm.options import option
from rm.seeding import seeded

Method = Literal["dpo", "grpo", "rloo"]


@dataclass(frozen=True)
class Exploring:
    """How GRPO and RLOO draw the responses they learn from.

    Raises DataError for values out of range.
    """

    n: int = option("grpo, rloo: responses to each prompt.", 4)
    temperature: float = option("grpo, rloo: how responses are drawn.", 1.0)
    max_tokens: int = option("grpo, rloo: most tokens of a response.", 256)

    def __post_init__(self) -> None:
        if self.n < 2 or self.max_tokens < 1 or not self.temperature > 0:
            raise DataError(
                f"n is {self.n}, max_tokens {self.max_tokens} and temperature {self.temperature}; expected 2 responses "
                "or more to compare, 1 token or more, and a temperature above 0"
            )


def read_soft_pairs(data: str | Path) -> SoftPairs:
    """Read an augmented dataset (the folder `weakpref export` wrote, or a file) for DPO: p_chosen and weight kept.

    Raises DataError naming the first row whose chosen and rejected answer different prompts.
    """
    from rm.data import conversations, read_table

    table = read_table(data)
    chosen, rejected = (list(conversations(table[name])) for name in ("chosen", "rejected"))
    other = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=True)) if a[:-1] != b[:-1]), None)
    if other is not None:
        raise DataError(
            f"{data}: in row {other} of those with a positive weight, chosen answers "
            f"{prompt_text(chosen[other][:-1])[-80:]!r} and rejected {prompt_text(rejected[other][:-1])[-80:]!r}; "
            "expected one prompt in both: drop or mend the row"
        )
    p_chosen, weight = (table[name].to_pylist() for name in ("p_chosen", "weight"))
    better, worse = ([turns[-1]["content"] for turns in side] for side in (chosen, rejected))
    return SoftPairs([turns[:-1] for turns in chosen], better, worse, p_chosen, weight)


def align_dpo(data: str | Path, model: str | Path, config: PolicyConfig, out: str | Path) -> Trained:
    """Align a policy by DPO with an augmented dataset, its p_chosen as soft labels; save it to `out`."""
    check_new(out)
    pairs = read_soft_pairs(data)

    def note(done: Trained, part: Path) -> None:
        _record(part, "dpo", model, data_hashes(data), config, done)

    return train_dpo(model, pairs, config, out, note=note)


def align_with_rewards(
    prompts: Sequence[Conversation],
    model: str | Path,
    rms: Sequence[str | Path],
    config: PolicyConfig,
    out: str | Path,
    *,
    method: Literal["grpo", "rloo"] = "grpo",
    exploring: Exploring = Exploring(),
    penalties: Penalties | None = None,
) -> Trained:
    """Align a policy by GRPO or RLOO with the mean reward of some reward models, less penalties; save it to `out`.

    `config.beta` weighs the KL to the model it starts from. `config.max_length` bounds prompt and response together:
    longer prompts are left out, counted, with a warning. Raises DataError where fewer are left than one step needs,
    responses alone fill `max_length`, or `batch_size` times `gradient_accumulation` is no multiple of `exploring.n`.
    """
    need_rlhf()
    check_new(out)
    check_prompts(prompts)
    if config.batch_size * config.gradient_accumulation % exploring.n:
        raise DataError(
            f"batch_size {config.batch_size} x gradient_accumulation {config.gradient_accumulation} responses a step "
            f"cannot be split into {exploring.n} a prompt; expected a multiple of {exploring.n}"
        )
    if exploring.max_tokens >= config.max_length:
        raise DataError(
            f"max_tokens {exploring.max_tokens} of a response leaves a prompt no room in max_length "
            f"{config.max_length}; raise max_length, or lower max_tokens"
        )
    penalties = penalties or Penalties()
    with tempfile.TemporaryDirectory() as scratch:
        start = _readable_by_trl(model, config, Path(scratch))
        policy = load_policy(start, dtype=config.weights, device="cpu")  # the Trainer knows which GPU is this process's
        kept, n_too_long = _fitting(policy.tokenizer, prompts, config.max_length - exploring.max_tokens)
        with quiet_trl(), seeded(config.seed):
            trainer = _trainer(method, policy, kept, rms, config, exploring, penalties, scratch)
            run(trainer)

    def note(done: Trained, part: Path) -> None:
        inputs = {f"rm_{i}": input_hash(folder) for i, folder in enumerate(rms)}
        how = {"exploring": asdict(exploring), "penalties": asdict(penalties)}
        _record(part, method, model, inputs | {"prompts": digest(kept)}, config, done, **how)

    n_left_over = len(kept) % _prompts_a_step(trainer.args)
    counts = {"n_pairs": len(kept), "n_too_long": n_too_long, "n_left_over": n_left_over}
    return finish(trainer, model, policy.tokenizer, Path(out), counts, note)


def _readable_by_trl(model: str | Path, config: PolicyConfig, scratch: Path) -> str | Path:
    """Return where TRL can read the model once more, as the reference it needs where no adapters are trained."""
    if str(model) != PACKAGED or config.lora_rank:
        return model
    folder = scratch / PACKAGED  # the package holds a GGUF file without a config.json
    save_as_folder(model, folder, config.weights)
    return folder


def _trainer(
    method: str,
    policy: Any,
    prompts: Sequence[Conversation],
    rms: Sequence[str | Path],
    config: PolicyConfig,
    exploring: Exploring,
    penalties: Penalties,
    scratch: str,
) -> Any:
    import trl
    from datasets import Dataset

    kind, settings = {"grpo": (trl.GRPOTrainer, trl.GRPOConfig), "rloo": (trl.RLOOTrainer, trl.RLOOConfig)}[method]
    own = {} if config.lora_rank else {"model_init_kwargs": {"device_map": None}}  # of the reference: not on all GPUs
    args = told(
        settings,
        config,
        scratch,
        beta=config.beta,
        num_generations=exploring.n,
        temperature=exploring.temperature,
        max_completion_length=exploring.max_tokens,
        **own,
    )  # from here on "cuda" is this process's GPU: reward models come after
    _check_enough(len(prompts), args)
    return kind(
        policy.network.train(),
        reward_funcs=reward_functions(Ensemble.load(rms), penalties),
        args=args,
        train_dataset=Dataset.from_list([{"prompt": [dict(turn) for turn in prompt]} for prompt in prompts]),
        processing_class=with_template(policy.tokenizer),
        peft_config=lora(config),
    )


def _prompts_a_step(args: Any) -> int:
    """Return how many distinct prompts a step of TRL's GRPO or RLOO takes, over all processes."""
    return int(args.generation_batch_size // args.num_generations)


def _check_enough(n_prompts: int, args: Any) -> None:
    """Raise DataError for fewer prompts than one step takes: TRL would pass over them all, and take no step."""
    needed = _prompts_a_step(args)
    if n_prompts < needed:
        responses = f"{args.generation_batch_size} responses, {args.num_generations} a prompt"
        over = f" over {args.world_size} processes" if args.world_size > 1 else ""
        raise DataError(
            f"there are {n_prompts} prompts, but one step takes {needed}: {responses}{over}; expected {needed} prompts "
            "or more: lower gradient_accumulation or batch_size, or give more prompts"
        )


def check_new(out: str | Path) -> None:
    """Raise DataError if the folder to write is there already: a trained model is not overwritten."""
    if Path(out).exists():
        raise DataError(f"{out} already exists; delete it or pass another --out")


def data_hashes(data: str | Path) -> dict[str, str]:
    """Return the hashes of the files of an augmented dataset by name."""
    from rm.data import training_files

    return {path.name: sha256(path) for path in training_files(data)}


def digest(prompts: Sequence[Conversation]) -> str:
    """Return a hash of prompts in their order."""
    import hashlib

    return hashlib.sha256("".join(map(prompt_id, prompts)).encode()).hexdigest()


def _fitting(tokenizer: Any, prompts: Sequence[Conversation], room: int) -> tuple[list[Conversation], int]:
    """Return the distinct prompts of at most `room` tokens, and how many were left out."""
    first = {prompt_id(prompt): prompt for prompt in prompts}
    distinct = list(first.values())
    lengths = [len(ids) for ids in prompt_tokens(tokenizer, distinct)]
    kept = [prompt for prompt, length in zip(distinct, lengths, strict=True) if length <= room]
    n_too_long = len(distinct) - len(kept)
    if not kept:
        raise DataError(
            f"none of {len(distinct)} prompts leaves room for a response; expected {room} tokens or fewer (max_length "
            "less max_tokens): raise max_length, or lower max_tokens"
        )
    if n_too_long:
        text = f"{n_too_long} of {len(distinct)} prompts left out: they are longer than {room} tokens; raise max_length"
        warnings.warn(text, WeakprefWarning, stacklevel=3)
    return kept, n_too_long


def _record(
    part: Path, method: str, model: str | Path, inputs: dict[str, str], config: PolicyConfig, done: Trained, **how: Any
) -> None:
    """Write manifest.json and train_log.json beside the model."""
    if method not in get_args(Method):
        raise DataError(f"method is {method!r}; expected one of {', '.join(get_args(Method))}")
    counts = {"steps": done.steps, "used": done.n_pairs, "too_long": done.n_too_long}
    counts |= {"shortened": done.n_shortened} if method == "dpo" else {"left_over": done.n_left_over}
    record = manifest(f"align {method}", inputs=inputs, seed=config.seed, counts=counts)
    outputs = {file.name: sha256(file) for file in sorted(part.glob("*.safetensors"))}
    write_json(part / "train_log.json", list(done.log))
    write_json(
        part / "manifest.json",
        {
            **record,
            "model": Path(model).name,
            "started_from": known_as(model),
            "config": asdict(config),
            "outputs": outputs,
            **how,
        },
    )
