"""Whether every consumer of a saved reward model gives the same rewards, and if one does not, why.

>>> from rm import verify
>>> print(verify("runs/rm0").text())  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeling.errors import DataError
from labeling.pairs import Message, Pairs
from rm.consumers import CONSUMERS, NotRunError, Saved, Taken, reads_last_token, take, version
from rm.data import tokenise
from rm.differences import Facts, cause, notes
from rm.memory import free_memory
from rm.model import RewardModel

TOLERANCE = 1e-4
"""Largest difference between rewards that counts as none, in float32."""
CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."}),
    ({"role": "user", "content": "Name three colours!"}, {"role": "assistant", "content": "Red,\ngreen and blue.\n"}),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "A story!"},
        {"role": "assistant", "content": "Once upon a time: naïve 🙂 数."},
    ),
    ({"role": "user", "content": "Say nothing."}, {"role": "assistant", "content": " "}),
    ({"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2  "}),
)
"""What is scored where no pairs are passed."""


@dataclass(frozen=True)
class Checked:
    """One consumer beside this library."""

    consumer: str
    version: str
    """Of the package that was run, '' where its calls were made without it."""
    difference: float | None
    """Largest absolute difference of a reward; None where the consumer could not be asked."""
    same_tokens: bool | None
    differs: bool
    reason: str
    """Why it differs, failed, or could not be asked; '' where it agrees."""
    failed: bool = False
    """Whether it was asked and raised an error."""


@dataclass(frozen=True)
class Verification:
    """What every consumer makes of the same conversations."""

    n: int
    """Conversations scored."""
    n_too_long: int
    """Conversations left out since they are longer than the model takes: consumers cut them, or fail, each in its way.
    """
    tolerance: float
    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    """What in the directory may make a difference that these conversations do not show."""

    @property
    def agrees(self) -> bool:
        """Whether no consumer that was asked differs or failed."""
        return not any(one.differs or one.failed for one in self.checked)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"agrees": self.agrees}

    def text(self) -> str:
        """Return a table, a line for each consumer, and the notes."""
        rows = [("consumer", "version", "max |difference|", "tokens", "")]
        for one in self.checked:
            absent = "failed" if one.failed else "not run"
            figure = absent if one.difference is None else f"{one.difference:.1e}"
            tokens = {None: "", True: "same", False: "other"}[one.same_tokens]
            verdict = one.reason if one.difference is None or one.differs else "agrees"
            rows.append((one.consumer, one.version, figure, tokens, f"DIFFERS: {verdict}" if one.differs else verdict))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def verify(
    model: str | Path,
    pairs: Pairs | None = None,
    *,
    limit: int = 32,
    vllm_python: str | None = None,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Score conversations by this library and by every consumer that can be asked here, and compare.

    Of `pairs` the first `limit` are scored, both responses of each; without pairs, a few built-in conversations are.
    `vllm_python` names the Python of another environment that has vLLM. A consumer that raises an error is a row of
    its own that says so. Raises DataError where this library itself
    cannot load the model (no score head, pickled weights, code of its own), or no conversation is left to score.
    """
    ours = RewardModel.load(model)
    given = CONVERSATIONS if pairs is None else _conversations(pairs, limit)
    tokenised = tokenise(ours.tokenizer, given, ours.max_length)
    kept = np.flatnonzero(~tokenised.truncated)
    rows: list[Sequence[Message]] = [given[i] for i in kept]
    if not rows:
        raise DataError(
            f"none of {len(given)} conversations can be compared: expected some of at most {ours.max_length} tokens; "
            "pass shorter pairs, a higher limit, or none for the built-in ones"
        )
    expected = Taken([tokenised.ids[i].tolist() for i in kept], ours.score_ids([tokenised.ids[i] for i in kept]))
    facts = Facts.of(model, ours.tokenizer, decoder=reads_last_token(ours.model))
    del ours
    free_memory()  # vLLM wants it
    saved = Saved.load(model, vllm_python)
    checked = tuple(_checked(name, saved, rows, expected, facts, tolerance) for name in CONSUMERS)
    return Verification(len(rows), len(given) - len(rows), tolerance, checked, notes(facts, len(given) - len(rows)))


def _checked(
    name: str, saved: Saved, rows: Sequence[Sequence[Message]], expected: Taken, facts: Facts, tolerance: float
) -> Checked:
    try:
        taken = take(name, saved, rows)
    except NotRunError as error:
        return Checked(name, version(name), None, None, False, str(error))
    except Exception as error:  # other people's code may raise anything, and the other rows are worth having
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Checked(name, version(name), None, None, False, said, failed=True)
    difference = float(np.abs(taken.rewards - expected.rewards).max())
    differs = not difference <= tolerance
    reason = cause(expected, taken, facts) if differs else ""
    return Checked(name, version(name), difference, taken.ids == expected.ids, differs, reason)


def _conversations(pairs: Pairs, limit: int) -> list[list[Message]]:
    columns = (pairs.table.slice(0, limit)[name].to_pylist() for name in ("prompt", "response_a", "response_b"))
    return [
        [*prompt, {"role": "assistant", "content": response}]
        for prompt, a, b in zip(*columns, strict=True)
        for response in (a, b)
    ]
