"""A reward model: any `*ForSequenceClassification` with one output, and the tokenizer that prepares its text."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from labeling.errors import DataError, WeakprefWarning
from labeling.pairs import Message, Pairs, check_pairs, prompt_text
from rm.batches import TOKENS, batches
from rm.checkpoint import SAFE, check_checkpoint, check_own_code
from rm.config import resolve
from rm.data import pad, tokenise
from rm.packing import Ids
from rm.shared_prefix import accept_packed, cannot_pack, score_packed
from rm.temperature import KEY
from rm.template import repaired

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RewardModel:
    """A model that gives a prompt and a response a reward: a logit, only differences of which mean anything.

    Made by `RewardModel.load`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Tokens per conversation; longer ones lose the beginning of their prompt."""
    packed: bool = False
    """Whether conversations are scored in rows without padding, a prompt once for all its responses."""

    @classmethod
    def load(cls, path: str | Path, *, bf16: bool = False) -> RewardModel:
        """Load a reward model from a directory (or a hub id), onto the GPU where there is one.

        bf16 computes in bfloat16: faster, and only two or three digits of a reward are right. Raises DataError where
        `path` is no sequence-classification model with one output and a tokenizer with a chat template, where its
        weights are pickled, or where it comes with code of its own.
        """
        check_reward_model(path)
        with quiet_loading():
            try:
                tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    path, dtype=torch.bfloat16 if bf16 else torch.float32, output_loading_info=True, **SAFE
                )
            except (OSError, ValueError) as error:
                raise DataError(
                    f"reward model {path} can be loaded neither as a directory nor from the hub: {error}"
                ) from None
        if report["missing_keys"] or model.config.num_labels != 1:
            raise DataError(
                f"{path} is no reward model: expected a score head with 1 output, found {model.config.num_labels} "
                f"outputs and {len(report['missing_keys'])} weights missing; train one with rm.train"
            )
        if not tokenizer.chat_template:
            raise DataError(f"the tokenizer of {path} has no chat template; a model written by rm.train has one")
        if bf16:
            head_in_float32(model)
        if tokenizer.pad_token_id is not None:  # by which a padded decoder finds the end of a row
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        device = "cuda" if torch.cuda.is_available() else "cpu"
        limit = min(tokenizer.model_max_length, positions(model))
        packed = cannot_pack(model, limit) is None
        if packed:
            accept_packed(model)
        return cls(model.eval().to(device), tokenizer, limit, packed)

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str], tokens: int = TOKENS) -> FloatArray:
        """Return the reward of each response to its prompt, float64 (n,), a logit.

        Equal conversations are scored once, `tokens` at a time. Warns of conversations longer than `max_length` tokens.
        Raises DataError for a reward that is not finite.
        """
        if len(prompts) != len(responses):
            raise DataError(f"there are {len(prompts)} prompts and {len(responses)} responses, expected one a prompt")
        keys = [
            (*((turn["role"], turn["content"]) for turn in prompt), ("assistant", response))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        rank = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        conversations = [[{"role": role, "content": content} for role, content in key] for key in rank]
        tokenised = tokenise(self.tokenizer, conversations, self.max_length)
        warn_of_truncation(int(tokenised.truncated.sum()), len(rank), self.max_length)
        rewards = self.score_ids(tokenised.ids, tokens)
        check_finite(rewards, [turns[:-1] for turns in conversations], str(self.model.name_or_path))
        return rewards[[rank[key] for key in keys]]

    @torch.inference_mode()
    def score_ids(self, ids: Sequence[Ids], tokens: int = TOKENS) -> FloatArray:
        """Return the reward of each tokenised conversation, float64 (n,), `tokens` of them in a forward pass.

        Rows are packed, and the beginnings of prompts shared, in models where that is exact (`rm.shared_prefix`); in
        others they are sorted by length and padded.
        """
        if self.packed:
            order = sorted(range(len(ids)), key=lambda i: ids[i].tobytes())  # the same rows, however they come
            rewards = np.empty(len(ids), dtype=np.float64)
            rewards[order] = score_packed(self.model, [ids[i] for i in order], tokens)
            return rewards
        rewards = np.empty(len(ids), dtype=np.float64)
        device = self.model.device
        padding = self.tokenizer.pad_token_id
        if padding is None:  # nothing to pad with: one at a time
            tokens, padding = 1, 0
        for rows in batches([len(row) for row in ids], tokens):
            batch = {name: t.to(device) for name, t in pad([ids[i] for i in rows], padding).items()}
            rewards[rows] = self.model(**batch).logits[:, 0].float().cpu().numpy()
        return rewards


def score(model: str | Path, pairs: Pairs, *, tokens: int = TOKENS, bf16: bool = False) -> FloatArray:
    """Return the rewards of response A and response B of each pair, float64 (n, 2), under a saved reward model.

    `rm.scoring.score_to` does it for many pairs: into a file, on several devices, going on where it was stopped.
    """
    check_pairs(pairs)
    prompts = pairs.table["prompt"].to_pylist()
    responses = pairs.table["response_a"].to_pylist() + pairs.table["response_b"].to_pylist()
    rewards = RewardModel.load(model, bf16=bf16).score(prompts + prompts, responses, tokens)
    return rewards.reshape(2, len(pairs)).T


def load_base(name: str, max_length: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a base model with a score head, in float32, and its tokenizer repaired for a reward model.

    The head's first weights come from torch's generator. Raises DataError where the base lacks weights, where they are
    pickled, or where it cannot be loaded without running code of its own.
    """
    path = resolve(name)
    check_checkpoint(path)
    check_own_code(path, known_is_fine=True)
    with quiet_loading():
        try:
            tokenizer = repaired(AutoTokenizer.from_pretrained(path, trust_remote_code=False))
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype=torch.float32, output_loading_info=True, problem_type="regression", **SAFE
            )
        except OSError as error:
            raise DataError(f"model {name!r} cannot be loaded as a directory or from the hub: {error}") from None
    _check_report(name, model, report)
    vars(model.config).pop(KEY, None)  # the temperature of a reward model that is trained further
    check_positions(name, model, max_length)
    tokenizer.model_max_length = max_length
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text_config = model.config.get_text_config()
    for token in ("pad_token_id", "eos_token_id", "bos_token_id"):
        setattr(text_config, token, getattr(tokenizer, token))
    return model, tokenizer


def check_positions(name: str, model: PreTrainedModel, max_length: int) -> None:
    """Raise DataError where a base model has positions for fewer than max_length tokens."""
    if max_length > positions(model):
        raise DataError(
            f"max_length is {max_length}, but model {name!r} has positions for {positions(model)} tokens; "
            f"pass a max_length of at most {positions(model)}"
        )


def head_in_float32(model: PreTrainedModel) -> None:
    """Let the score head of a bfloat16 model compute in float32, or near rewards would fall on one of 256 steps."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))


def positions(model: PreTrainedModel) -> int:
    """Return the longest input the model has positions for, in tokens.

    RoBERTa and its kin number positions from `padding_idx` + 1 on, so that they have fewer than entries in the table.
    """
    n = int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return n if padding is None else n - int(padding) - 1


def check_finite(rewards: FloatArray, prompts: Sequence[Sequence[Message]], model: str) -> None:
    """Raise DataError naming the model and the first of n prompts to which a reward, of (n,), is not finite."""
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if len(wrong):
        text = prompt_text(prompts[wrong[0]])
        raise DataError(
            f"{model}: the reward of a response to {text[:80]!r} is {rewards[wrong[0]]} ({len(wrong):,} of "
            f"{len(rewards):,} are like it), expected a finite number: the model's weights are broken or overflow; "
            "train it again"
        )


def warn_of_truncation(n_truncated: int, n: int, max_length: int) -> None:
    """Warn of conversations that lost the beginning of their prompt, if there are any."""
    if n_truncated:
        warnings.warn(
            f"{n_truncated} of {n} conversations are longer than {max_length} tokens and lost their beginning "
            "(prompt first); raise max_length where the model allows it",
            WeakprefWarning,
            stacklevel=3,
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' progress bars and its report that the score head is new (checked by us instead)."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with no_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def no_bars() -> Iterator[None]:
    """Silence the progress bars with which transformers reads and writes weights."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_report(name: str, model: PreTrainedModel, report: dict[str, set[str]]) -> None:
    body = f"{model.base_model_prefix}."
    lost = sorted(key for key in report["missing_keys"] if key.startswith(body) and "pooler" not in key)
    lost += sorted(str(key) for key in report["mismatched_keys"])
    if lost:
        raise DataError(
            f"model {name!r} lacks {len(lost)} of its weights ({', '.join(lost[:3])}, ...): expected a complete "
            "checkpoint of the architecture in its config.json; save the model again"
        )


def check_path(model: object) -> None:
    """Raise DataError where a reward model is named by anything but a directory or a hub id."""
    if not isinstance(model, str | Path):
        raise DataError(
            f"the reward model is a {type(model).__name__}, expected the directory it was written to, or a hub id"
        )


def check_reward_model(path: str | Path) -> None:
    """Raise DataError where what lies at `path` cannot be a reward model, or would run code: nothing is loaded."""
    check_path(path)
    if not Path(path).exists() and (str(path).count("/") != 1 or Path(path).parent.is_dir()):
        raise DataError(f"{path} does not exist; expected a directory written by rm.train, or a hub id (owner/name)")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path} has no config.json; expected a directory written by rm.train")
    check_checkpoint(path)
    check_own_code(path, known_is_fine=False)
