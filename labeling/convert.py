"""From the columns of each layout to canonical ones: prompt, response_a, response_b, gold, group, source.

Layouts that name a winner say nothing about A and B: a content hash says which response stands first, so that position
carries no information and the same two responses always stand in the same order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeling.pairs import MESSAGES, SCHEMA, pair_id
from labeling.rows import BadRow, Converted

Row = Mapping[str, Any]
Turns = list[dict[str, Any]]
Judged = tuple[Turns | None, str | None, str | None]
"""Prompt, the winner's text, the loser's text."""

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
)
"""Columns of graded scores: where the two are equal, the pair is a tie. Otherwise the columns' names decide."""

NAME_CHARS = 256
"""Longest name of a group that is kept as it is: only whether two are the same matters."""

VERDICTS = {"A>B": 1.0, "B>A": 0.0, "A=B": 0.5}
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class _Unusable(Exception):  # noqa: N818 - it never leaves this file
    """A row that cannot be converted: (column, reason, detail)."""


def canonical(table: pa.Table) -> Converted:
    """Convert prompt (text or messages), response_a, response_b[, gold, annotator_votes, group, source], by columns."""
    columns = {name: _cast(table, name) for name in SCHEMA.names if name not in ("pair_id", "prompt")}
    columns["prompt"] = _as_messages(table["prompt"])
    return Converted(pa.table(columns), np.arange(table.num_rows))


def _cast(table: pa.Table, name: str) -> pa.ChunkedArray:
    wanted = SCHEMA.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, wanted)])
    column = table[name].cast(wanted, safe=False)  # numbers beyond a double's digits are rounded, then found too large
    if name == "gold":
        return pc.if_else(pc.is_nan(column), None, column)
    if name == "annotator_votes" and pc.any(pc.is_nan(pc.list_flatten(column))).as_py():
        lists = [votes and [None if v != v else v for v in votes] for votes in column.to_pylist()]
        return pa.chunked_array([pa.array(lists, wanted)])
    if name in ("group", "source"):
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    return _short(column) if name == "group" else column


def _short(groups: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return names of groups, those of more than `NAME_CHARS` characters hashed: as wide as the longest are all."""
    long = pc.greater(pc.utf8_length(groups), NAME_CHARS)
    if not pc.any(long).as_py():
        return groups
    texts = [
        hashlib.blake2b(text.encode(), digest_size=16).hexdigest() if is_long else text
        for text, is_long in zip(groups.to_pylist(), long.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _as_messages(prompt: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(prompt.type) or pa.types.is_null(prompt.type):
        return prompt.cast(MESSAGES)
    return pa.chunked_array([_as_user_turns(chunk) for chunk in prompt.cast(pa.string()).chunks], MESSAGES)


def _as_user_turns(texts: pa.StringArray) -> pa.ListArray:
    n = len(texts)
    turns = pa.StructArray.from_arrays([pa.array(["user"] * n, pa.string()), texts], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), turns, mask=pc.is_null(texts))


def weakpref_export(table: pa.Table) -> Converted:
    """Convert weakpref's own export back: the order before orientation from `flipped`, gold from `gold`."""

    def restore(row: Row) -> Iterator[Row]:
        prompt, winner, loser = _from_conversations({**row, "prompt": row["messages"]})
        gold = row["gold"]
        a, b = (loser, winner) if row["flipped"] else (winner, loser)
        yield _pair(row, prompt, a, b, 1.0 - gold if gold is not None and row["flipped"] else gold)

    return _by_row(table, restore)


def conversations(table: pa.Table) -> Converted:
    """Convert chosen / rejected message lists, whole conversations or the last turn only, with or without a prompt."""
    return _by_row(table, lambda row: iter([_oriented(row, *_from_conversations(row))]))


def standard(table: pa.Table) -> Converted:
    """Convert chosen / rejected texts with the prompt's text (prompt, question or input, and perhaps system)."""
    return _by_row(table, lambda row: iter([_oriented(row, _text_prompt(row), row["chosen"], row["rejected"])]))


def hh_rlhf(table: pa.Table) -> Converted:
    r"""Convert chosen / rejected dialogues written with `\n\nHuman:` and `\n\nAssistant:`."""

    def split(row: Row) -> Iterator[Row]:
        dialogues = {name: _hh_turns(name, row[name]) for name in ("chosen", "rejected")}
        yield _oriented(row, *_from_conversations(dialogues))

    return _by_row(table, split)


def looks_like_hh_rlhf(table: pa.Table) -> bool:
    r"""Tell whether the first chosen text is a dialogue that begins with `\n\nHuman:`."""
    texts = table["chosen"].drop_null()
    return len(texts) > 0 and str(texts[0].as_py()).startswith("\n\nHuman:")


def rewardbench_2(table: pa.Table) -> Converted:
    """Convert prompt, chosen: list of texts, rejected: list of texts: every chosen with every rejected one."""

    def cross(row: Row) -> Iterator[Row]:
        for name in ("chosen", "rejected"):
            if not row[name]:
                raise _Unusable(name, "no response in the list", "")
        for winner in row["chosen"]:
            for loser in row["rejected"]:
                yield _oriented(row, _text_prompt(row), winner, loser)

    return _by_row(table, cross)


def judgebench(table: pa.Table) -> Converted:
    """Convert question, response_A, response_B and the label "A>B", "B>A" or "A=B"."""

    def judged(row: Row) -> Iterator[Row]:
        label = row["label"]
        if label is not None and label not in VERDICTS:
            raise _Unusable("label", "unknown label", f"found {label!r}, expected one of {', '.join(VERDICTS)}")
        yield _pair(row, _text_prompt(row), row["response_A"], row["response_B"], VERDICTS.get(label))

    return _by_row(table, judged)


def _by_row(table: pa.Table, rows_of: Callable[[Row], Iterator[Row]]) -> Converted:
    """Convert row by row; a row gives one pair or more, or raises _Unusable."""
    pairs: list[Row] = []
    rows: list[int] = []
    bad: list[BadRow] = []
    for i, row in enumerate(table.to_pylist()):
        try:
            made = list(rows_of(row))
        except _Unusable as reason:
            bad.append(BadRow(i, *reason.args))
            continue
        pairs += made
        rows += [i] * len(made)
    schema = SCHEMA.remove(SCHEMA.get_field_index("pair_id"))
    return Converted(pa.Table.from_pylist(pairs, schema=schema), np.asarray(rows, dtype=np.int64), bad)


def _oriented(row: Row, prompt: Turns | None, winner: str | None, loser: str | None) -> Row:
    """Put the winner first or second by a hash of the content, and say so in gold (0.5 where the scores are equal)."""
    first, second = sorted((winner, loser), key=lambda text: text or "")
    if int(pair_id(prompt or [], first or "", second or "")[-1], 16) % 2:
        first, second = second, first
    gold = 0.5 if _is_tie(row) else float(first == winner)
    return _pair(row, prompt, first, second, gold)


def _is_tie(row: Row) -> bool:
    scores = [(row[a], row[b]) for a, b in SCORES if row.get(a) is not None and row.get(b) is not None]
    return any(a == b for a, b in scores)


def _pair(row: Row, prompt: Turns | None, a: str | None, b: str | None, gold: float | None) -> Row:
    source = row.get("source") or row.get("subset") or None
    group = row.get("group")
    named = None if group is None or not str(group).strip() else str(group)
    return {
        "prompt": prompt and [{"role": turn["role"], "content": turn["content"]} for turn in prompt],
        "response_a": a, "response_b": b, "gold": gold, "group": named, "source": source,
    }  # fmt: skip


def _text_prompt(row: Row) -> Turns | None:
    """Return the prompt's text as a user turn, after the system's turn if there is one."""
    text = next((row[name] for name in ("prompt", "question", "input") if row.get(name) is not None), None)
    if text is None:
        return None
    if text.startswith("\n\nHuman:"):
        return _hh_prompt(text)
    system = row.get("system")
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]


def _from_conversations(row: Row) -> Judged:
    """Return the shared prompt and the two last turns; a prompt that the conversations repeat stands there once."""
    prompts, texts = [], []
    for name in ("chosen", "rejected"):
        turns = row[name]
        if turns is None:
            raise _Unusable(name, "null response", "")
        if None in turns:
            raise _Unusable(name, "null message", "")
        if not turns or turns[-1]["role"] != "assistant":
            raise _Unusable(name, "no assistant turn at the end", f"found {turns[-1]['role'] if turns else 'no turn'}")
        prompts.append(_whole_prompt(name, turns[:-1], row.get("prompt")))
        texts.append(turns[-1]["content"])
    if prompts[0] != prompts[1]:
        raise _Unusable("chosen and rejected", "prompts that differ", "they must share every turn but the last")
    return prompts[0], texts[0], texts[1]


def _whole_prompt(name: str, before: Turns, prompt: str | Turns | None) -> Turns:
    """Return the turns before the answer; the prompt column adds to them only where the conversation lacks them."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or [])
    if None in turns:
        raise _Unusable("prompt", "null message", "")
    if not before or not turns:
        return before or turns
    if isinstance(prompt, str):
        repeated = prompt.strip() in [str(turn["content"]).strip() for turn in before]
    else:
        repeated = [_plain(turn) for turn in before[-len(turns) :]] == [_plain(turn) for turn in turns]
    if not repeated:
        raise _Unusable(f"prompt and {name}", "prompts that differ", "the conversation does not contain the prompt")
    return before


def _plain(turn: Mapping[str, Any]) -> tuple[Any, Any]:
    return turn["role"], turn["content"]


def _hh_turns(name: str, text: str | None) -> Turns | None:
    if text is None:
        return None
    before, *pieces = HH_TURN.split(text)
    if before.strip() or len(pieces) < 2:
        raise _Unusable(name, "no dialogue of \\n\\nHuman: and \\n\\nAssistant:", f"found {text[:40]!r}")
    roles, contents = pieces[::2], pieces[1::2]
    return [{"role": HH_ROLES[r], "content": c.strip()} for r, c in zip(roles, contents, strict=True)]


def _hh_prompt(text: str) -> Turns | None:
    """Return the turns of a prompt that ends in `Assistant:`, where the response begins."""
    turns = _hh_turns("prompt", text)
    return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns
