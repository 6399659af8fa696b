"""Chats and choices as the tokens of a local model, by its own chat template or a plain one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labeling.errors import DataError
from labeling.llm import Conversation, Sampling

PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ '### ' + message['role'].capitalize() + ':\\n' + message['content'] + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For a model without a chat template: every turn under a heading with its role."""

PLAIN_STOP = "\n### User:"
"""Ends a sample of a model without a chat template, which would go on to write the next turn."""

PROBE = ({"role": "user", "content": "Hi"},)
PROBE_ANSWER = "Well met."

MOST_KEPT = 16_000_000
"""Tokens of prompts that were counted and not yet asked are kept up to this number, at four bytes each."""


class PromptEncoder:
    """Chats as token ids; those of prompts that are counted are kept until they are asked, so as to make them once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._kept: dict[tuple[tuple[str, str], ...], npt.NDArray[np.int32]] = {}
        self._n_kept = 0

    def count(self, prompts: Sequence[Conversation]) -> list[int]:
        """Return how many tokens each prompt is, and keep them; the oldest go where there are too many."""
        tokens = prompt_tokens(self.tokenizer, prompts)
        for prompt, ids in zip(prompts, tokens, strict=True):
            self._take(_key(prompt))
            self._kept[_key(prompt)] = np.array(ids, dtype=np.int32)
            self._n_kept += len(ids)
        while self._n_kept > MOST_KEPT:
            self._take(next(iter(self._kept)))
        return [len(ids) for ids in tokens]

    def encode(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        """Return the token ids of each prompt, as `prompt_tokens` makes them; those kept are given away."""
        kept = [self._take(_key(prompt)) for prompt in prompts]
        missing = [i for i, ids in enumerate(kept) if ids is None]
        made = dict(zip(missing, prompt_tokens(self.tokenizer, [prompts[i] for i in missing]), strict=True))
        return [made[i] if ids is None else ids.tolist() for i, ids in enumerate(kept)]

    def _take(self, key: tuple[tuple[str, str], ...]) -> npt.NDArray[np.int32] | None:
        ids = self._kept.pop(key, None)
        self._n_kept -= 0 if ids is None else len(ids)
        return ids


def _key(prompt: Conversation) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in prompt)


def prompt_tokens(tokenizer: Any, prompts: Sequence[Conversation]) -> list[list[int]]:
    """Return each chat as token ids, up to where the assistant's answer starts.

    Special tokens written inside a turn are data: a space after their first character makes them ordinary text, so
    that no turn ends another. Raises DataError naming the first prompt that the template refuses.
    """
    special = _special_tokens(tokenizer)
    texts = [_rendered(tokenizer, special, number, prompt) for number, prompt in enumerate(prompts)]
    return _ids(tokenizer, texts)


def as_data(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return texts in which special tokens are ordinary text, as `prompt_tokens` makes the turns of a prompt."""
    special = _special_tokens(tokenizer)
    return [_as_data(text, special) for text in texts]


def end_token(tokenizer: Any, ends: Collection[int] | None = None) -> int | None:
    """Return the token that ends an answer: the first of `ends` that the chat template writes after one.

    `ends` are the tokens that generation stops at (None: any special token is taken for one). Where none of them
    follows, as without a template, it is the tokenizer's end token, which may be none.
    """
    import jinja2

    chat = [*PROBE, {"role": "assistant", "content": PROBE_ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False)) if tokenizer.chat_template else ""
    except jinja2.TemplateError:
        text = ""
    after = text.rpartition(PROBE_ANSWER)[2] if PROBE_ANSWER in text else ""
    if ends is None:
        ends = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((token for token in _ids(tokenizer, [after])[0] if token in ends), tokenizer.eos_token_id)


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> list[list[int]]:
    """Return each choice as the token ids it has right after the chat template's generation prompt.

    Raises DataError if a choice is empty, melts into the generation prompt, or is the start of another.
    """
    start = _rendered(tokenizer, None, 0, PROBE)
    before, *after = _ids(tokenizer, [start, *(start + choice for choice in choices)])
    found = [ids[len(before) :] if ids[: len(before)] == before else [] for ids in after]
    for choice, ids in zip(choices, found, strict=True):
        if not ids:
            raise DataError(
                f"choice {choice!r}: no tokens of its own after the model's generation prompt; "
                "a choice is a word or letter such as 'A'"
            )
    for i, first in enumerate(found):
        for j, other in enumerate(found):
            if i != j and other[: len(first)] == first:
                raise DataError(
                    f"choices {choices[i]!r} and {choices[j]!r} start alike for the model, so the first one's "
                    "probability holds the second's; word them differently"
                )
    return found


def check_lengths(lengths: Sequence[int], room: int, limit: int, model: str) -> None:
    """Raise DataError naming the first prompt that leaves no room for `room` tokens of answer within `limit`."""
    for number, length in enumerate(lengths):
        if length + room > limit:
            raise DataError(
                f"prompt {number} is {length:,} tokens; {model} holds {limit:,}, {room:,} of them asked for the "
                "answer; shorten the prompt or ask for a shorter answer"
            )


def stop_texts(tokenizer: Any, sampling: Sampling) -> tuple[str, ...]:
    """Return the texts that end a sample: those asked for, and the next turn where there is no chat template.

    `PLAIN_TEMPLATE` counts as none: a policy that TRL trained is saved with it, and ends a turn no better for that.
    """
    plain = tokenizer.chat_template in (None, "", PLAIN_TEMPLATE)
    return (*sampling.stop, PLAIN_STOP) if plain else sampling.stop


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the earliest stop text, and whether there was one.

    >>> cut_at_stop("one. two; three", (";", "."))
    ('one', True)
    """
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _rendered(tokenizer: Any, special: re.Pattern[str] | None, number: int, prompt: Conversation) -> str:
    import jinja2

    chat = [{"role": turn["role"], "content": _as_data(turn["content"], special)} for turn in prompt]
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    try:
        return str(
            tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(turn["role"] for turn in prompt)
        raise DataError(
            f"prompt {number}: the model's chat template refuses its roles ({roles}): {error}; change the roles"
        ) from None


def _special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def _as_data(content: str, special: re.Pattern[str] | None) -> str:
    return special.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", content) if special else content


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []
