"""The embedded engine: a causal language model run by transformers, on CPU or GPU.

>>> from labeling.transformers_engine import TransformersEngine
>>> engine = TransformersEngine.load("path/to/model", dtype="bfloat16", device="cuda")  # doctest: +SKIP
>>> engine.choose([[{"role": "user", "content": "Is fire hot? Answer yes or no."}]], ["yes", "no"])  # doctest: +SKIP
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labeling.chat_tokens import PromptEncoder, check_lengths, choice_tokens, cut_at_stop, stop_texts
from labeling.errors import DataError
from labeling.files import sha256
from labeling.llm import Completion, Conversation, FloatArray, Sampling, renormalised, sample_seed
from labeling.values import one_line

if TYPE_CHECKING:
    import torch

WEIGHTS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, eq=False)
class TransformersEngine:
    """A causal language model and its tokenizer; answers depend on what stands beside them by rounding only."""

    network: Any
    """A transformers causal language model, in eval mode, on its device."""
    tokenizer: Any
    """Its tokenizer; chats go through its chat template, or `PLAIN_TEMPLATE` where it has none."""
    model: str
    """Name, revision and dtype."""
    batch_tokens: int = 8192
    """Most tokens of one batch, padding and room for the answers included; a longer prompt runs alone."""

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        batch_tokens: int = 8192,
    ) -> TransformersEngine:
        """Load a model from a folder or the Hugging Face hub.

        Raises DataError if it is not there or is no causal language model.
        """
        import torch
        from transformers import AutoModelForCausalLM

        with _named(source), no_bars():
            tokenizer = load_tokenizer(source, revision)
            network: Any = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=getattr(torch, dtype))
        return cls(network.to(device), tokenizer, model_name(source, dtype, revision), batch_tokens)

    @property
    def source(self) -> str:
        """What a cached answer belongs to: the model, for it runs here."""
        return self.model

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its answer together; None where the model's configuration does not say."""
        return context(self.network.config)

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[list[Completion]]:
        """Return `sampling.n` completions for each prompt, in order.

        Raises DataError naming the first prompt that is too long for the model.
        """
        tokens = self._encoded(prompts, sampling.max_tokens)
        numbers = range(sampling.first, sampling.first + sampling.n)
        samples = [
            _Sample(tokens[row], np.random.default_rng(sample_seed(prompt, sampling, number)))
            for row, prompt in enumerate(prompts)
            for number in numbers
        ]
        for batch in batches([len(sample.prompt) + sampling.max_tokens for sample in samples], self.batch_tokens):
            self._decode([samples[i] for i in batch], sampling)
        done = [sample.completion() for sample in samples]
        return [done[i : i + sampling.n] for i in range(0, len(done), sampling.n)]

    def choose(self, prompts: Sequence[Conversation], choices: Sequence[str]) -> FloatArray:
        """Return log-probabilities (n, k) of the k choices, whole token sequences, renormalised over them.

        Raises DataError if one choice is the start of another, or a prompt is too long for the model.
        """
        answers = choice_tokens(self.tokenizer, choices)
        room = max(map(len, answers))
        tokens = self._encoded(prompts, room)
        scores = np.zeros((len(tokens), len(answers)))
        for batch in batches([len(ids) + room for ids in tokens], self.batch_tokens):
            scores[batch] = self._scores([tokens[i] for i in batch], answers)
        return renormalised(scores)

    def count_tokens(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, chat template included."""
        return self._encoder.count(prompts)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(self.tokenizer)

    def _encoded(self, prompts: Sequence[Conversation], room: int) -> list[list[int]]:
        tokens = self._encoder.encode(prompts)
        if self.context is not None:
            check_lengths([len(ids) for ids in tokens], room, self.context, self.model)
        return tokens

    def _scores(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> FloatArray:
        import torch

        ids, mask = self._padded(prompts)
        columns = []
        with torch.inference_mode():
            first, prefix = self._step(ids, mask, None, use_cache=max(map(len, answers)) > 1)
            for answer in answers:
                score = first[:, -1, answer[0]]
                if len(answer) > 1:
                    rest = torch.tensor(answer, device=ids.device).expand(len(prompts), -1)
                    longer = torch.cat([mask, torch.ones_like(rest[:, :-1])], dim=1)
                    log_p, _ = self._step(rest[:, :-1], longer, copy.deepcopy(prefix))
                    score = score + log_p.gather(2, rest[:, 1:, None]).sum((1, 2))
                columns.append(score)
        return torch.stack(columns, dim=1).double().cpu().numpy()

    def _decode(self, samples: Sequence[_Sample], sampling: Sampling) -> None:
        """Draw tokens until every sample has ended; those that have leave the batch."""
        import torch

        ids, mask = self._padded([sample.prompt for sample in samples])
        ends, stops, live, cache = self.end_tokens(), stop_texts(self.tokenizer, sampling), list(samples), None
        with torch.inference_mode():
            while live:
                log_p, cache = self._step(ids, mask, cache, last_only=True)
                drawn = draw(log_p[:, -1], sampling, [float(sample.random.random()) for sample in live])
                gained = log_p[:, -1].gather(1, drawn[:, None])[:, 0].tolist()
                for sample, token, value in zip(live, drawn.tolist(), gained, strict=True):
                    self._append(sample, token, value, ends, stops, sampling.max_tokens)
                kept = [row for row, sample in enumerate(live) if not sample.finish_reason]
                if len(kept) < len(live):
                    live = [live[row] for row in kept]
                    rows = torch.tensor(kept, dtype=torch.long, device=mask.device)
                    cache.batch_select_indices(rows)
                    drawn, mask = drawn[rows], mask[rows]
                ids = drawn[:, None]
                mask = torch.cat([mask, torch.ones_like(ids)], dim=1)

    def _append(
        self, sample: _Sample, token: int, log_p: float, ends: set[int], stops: Sequence[str], max_tokens: int
    ) -> None:
        sample.drawn.append(token)
        sample.log_prob += log_p
        ended = token in ends
        if ended or stops or len(sample.drawn) == max_tokens:
            text = self.tokenizer.decode(sample.drawn, skip_special_tokens=True)
            sample.text, stopped = cut_at_stop(text, stops)
            if ended or stopped:
                sample.finish_reason = "stop"
            elif len(sample.drawn) == max_tokens:
                sample.finish_reason = "length"

    def _step(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, *, use_cache: bool = True, last_only: bool = False
    ) -> tuple[torch.Tensor, Any]:
        """Return log-probabilities (rows, positions, vocabulary) after `ids`, and the cache that holds them.

        At the start of a prompt (no cache) and with `last_only` there is one position, the last.
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=1 if last_only or cache is None else 0,
        )
        return out.logits.float().log_softmax(-1), out.past_key_values if use_cache else None

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask (rows, longest), padded on the left; only the mask tells padding, for pad may be end."""
        import torch

        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id or 0
        ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self.network.device), torch.tensor(mask, device=self.network.device)

    def end_tokens(self) -> set[int]:
        """Return the tokens that a sample ends at: those its generation is configured with, and its tokenizer's."""
        named = self.network.generation_config.eos_token_id
        ends = {*(named if isinstance(named, list) else [named]), self.tokenizer.eos_token_id}
        return {end for end in ends if end is not None}


@dataclass
class _Sample:
    """A text as it is written."""

    prompt: Sequence[int]
    random: np.random.Generator
    drawn: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    text: str = ""
    finish_reason: str = ""

    def completion(self) -> Completion:
        return Completion(self.text, len(self.drawn), self.log_prob, self.finish_reason)


def draw(log_p: torch.Tensor, sampling: Sampling, uniforms: Sequence[float]) -> torch.Tensor:
    """Return one token a row (n,) from log-probabilities (n, vocabulary): the likeliest at temperature 0.

    Else by the inverse distribution function at each row's number in [0, 1), among the likeliest tokens before which
    less than `top_p` of the mass lies (nucleus sampling, arXiv 1904.09751).
    """
    import torch

    if sampling.temperature == 0:
        return log_p.argmax(-1)
    p, order = (log_p.double() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    p = p.masked_fill(p.cumsum(-1) - p >= sampling.top_p, 0.0)
    reached = p.cumsum(-1)
    aims = torch.tensor(uniforms, dtype=torch.double, device=p.device)[:, None] * reached[:, -1:]
    place = (reached <= aims).sum(-1, keepdim=True).clamp(max=p.shape[1] - 1)
    return order.gather(1, place)[:, 0]


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return row numbers in batches, longest first, each at most `budget` tokens once padded, or a single row.

    >>> batches([5, 1, 4, 2], budget=10)
    [[0, 2], [3, 1]]
    """
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if found and lengths[found[-1][0]] * (len(found[-1]) + 1) <= budget:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def load_tokenizer(source: str | Path, revision: str | None = None) -> Any:
    """Return a model's tokenizer, without its weights. Raises DataError if there is none."""
    from transformers import AutoTokenizer

    with _named(source), no_bars():
        return AutoTokenizer.from_pretrained(source, revision=revision)


def context(config: Any) -> int | None:
    """Return how many tokens a model holds, by its configuration; None where that does not say."""
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def planned_context(source: str | Path, revision: str | None = None) -> int | None:
    """Return how many tokens a model holds, without its weights."""
    from transformers import AutoConfig

    with _named(source), no_bars():
        return context(AutoConfig.from_pretrained(source, revision=revision))


@contextmanager
def _named(source: str | Path) -> Iterator[None]:
    """Raise DataError in place of what loading raises where there is no such model."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source}: expected a causal language model in this folder or on the Hugging Face hub; "
            f"found {one_line(error)}; pass the folder that holds config.json and the weights"
        ) from error


def model_name(source: str | Path, dtype: str, revision: str | None = None) -> str:
    """Return the name of a model's engine: name, revision and dtype."""
    return f"{Path(source).name}@{weights_revision(source, revision)} ({dtype})"


def weights_revision(source: str | Path, revision: str | None = None) -> str:
    """Return 12 hex digits that stand for the weights: of a folder's contents, or the commit on the hub."""
    from transformers.utils.hub import cached_file

    if Path(source).is_dir():
        files = sorted(path for path in Path(source).iterdir() if path.suffix in (*WEIGHTS, ".json", ".jinja"))
        return hashlib.sha256("".join(path.name + sha256(path) for path in files).encode()).hexdigest()[:12]
    return Path(str(cached_file(str(source), "config.json", revision=revision))).parent.name[:12]


@contextmanager
def no_bars() -> Iterator[None]:
    """Silence the progress bars with which transformers reads weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
