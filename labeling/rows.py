"""Row checks: which rows of canonical columns cannot be used, why, and what became of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeling.errors import RowError, WeakprefWarning
from labeling.pairs import SCHEMA, pair_id, prompt_id

Mask = npt.NDArray[np.bool_]
Votes = list[float | None] | None

BOTH = "response_a and response_b"


@dataclass(frozen=True, order=True)
class BadRow:
    """One row that cannot be used."""

    row: int
    """Number of the row in what was read, from 0."""
    column: str
    reason: str
    """What is wrong, in words that name the kind: rows are counted by it."""
    detail: str = ""
    """What was found in this very row, where that helps."""


@dataclass(frozen=True)
class Converted:
    """Canonical columns made from some layout, before the row checks."""

    table: pa.Table
    """The columns of `SCHEMA` but pair_id; prompts, responses, groups and sources may still be null."""
    rows: npt.NDArray[np.int64]
    """Shape (n,): the row of what was read that each pair came from."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows that could not be converted at all."""


def check(found: Converted, *, on_bad_rows: str, max_chars: int, label: str) -> tuple[pa.Table, dict[str, int]]:
    """Return the usable pairs with their ids (`SCHEMA`), and how many rows were left out for which reason.

    A group that is missing becomes the prompt's hash. Of duplicates the first is kept; where their gold differs it
    gets the mean of all, in its own orientation, and the annotators' votes of all.

    Raises RowError for the first bad row if `on_bad_rows` is "error", and if no row is left.
    """
    table, rows, bad = _without(found, list(_bad_values(found, max_chars)))
    table = _with_ids(table)
    kept, merged, repeated = _merge_duplicates(table, rows)
    bad = sorted(bad + repeated)
    if not bad:
        return kept, {}
    if on_bad_rows == "error" or not kept.num_rows:
        raise RowError(_complaint(bad, label, left=kept.num_rows))
    counts = dict(sorted(Counter(row.reason for row in bad).items()))
    warnings.warn(_notice(counts, merged, label, kept.num_rows), WeakprefWarning, stacklevel=3)
    return kept, counts


def _complaint(bad: Sequence[BadRow], label: str, *, left: int) -> str:
    first = bad[0]
    detail = f" ({first.detail})" if first.detail else ""
    what = f"{label}: row {first.row}, column {first.column}: {first.reason}{detail}"
    total = f"{_rows(len(bad))} in all: {_counted(Counter(row.reason for row in bad))}"
    if left:
        out = 'correct them, or leave them out with on_bad_rows="drop" (command line: --drop-bad-rows)'
    else:
        out = "no usable row is left, so there is nothing to read; correct the data"
    return f"{what}; {total}; {out}"


def _notice(counts: Mapping[str, int], merged: int, label: str, left: int) -> str:
    text = f"{label}: left out {_rows(sum(counts.values()))}, kept {left:,} pairs: {_counted(counts)}"
    if merged:
        text += f"; {merged} kept pair(s) had duplicates with another gold label and now have the mean of all"
    return text


def _rows(n: int) -> str:
    return f"{n:,} bad row{'s' if n != 1 else ''}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items()))


def _without(found: Converted, bad: list[BadRow]) -> tuple[pa.Table, npt.NDArray[np.int64], list[BadRow]]:
    """Take the bad positions out; `bad` is numbered by position in the table, the result by row of the source."""
    keep = np.ones(found.table.num_rows, dtype=np.bool_)
    keep[[row.row for row in bad]] = False
    renumbered = [BadRow(int(found.rows[row.row]), row.column, row.reason, row.detail) for row in bad]
    return found.table.filter(pa.array(keep)), found.rows[keep], found.bad + renumbered


def _bad_values(found: Converted, max_chars: int) -> Iterator[BadRow]:
    """Yield the first thing wrong with each row, numbered by position in the table."""
    start = 0
    for batch in found.table.to_batches():
        seen = np.zeros(batch.num_rows, dtype=np.bool_)
        for column, reason, mask in _checks(batch, max_chars):
            for i in np.flatnonzero(mask & ~seen):
                yield BadRow(start + int(i), column, reason, _detail(batch, column, int(i)))
            seen |= mask
        start += batch.num_rows


def _detail(batch: pa.RecordBatch, column: str, i: int) -> str:
    if column in ("gold", "annotator_votes"):
        return f"found {batch[column][i].as_py()}"
    return ""


def _checks(batch: pa.RecordBatch, max_chars: int) -> Iterator[tuple[str, str, Mask]]:
    """Yield (column, reason, mask (n,)) for everything that can be wrong with a value."""
    yield from _check_prompt(batch["prompt"])
    for column in ("response_a", "response_b"):
        text = batch[column]
        yield column, "null response", _mask(pc.is_null(text))
        yield column, "empty response", _mask(_blank(text))
        yield column, "NUL character", _mask(pc.match_substring(text, "\0"))
        yield column, f"response over {max_chars:,} characters", _mask(pc.greater(pc.utf8_length(text), max_chars))
    yield BOTH, "identical responses", _mask(pc.equal(batch["response_a"], batch["response_b"]))
    yield "gold", "label outside [0, 1]", _mask(_no_probability(batch["gold"]))
    votes = batch["annotator_votes"]
    yield "annotator_votes", "vote outside [0, 1]", _any(votes, _mask(_no_probability(votes.flatten())))


def _check_prompt(prompt: pa.Array) -> Iterator[tuple[str, str, Mask]]:
    role, content = prompt.flatten().flatten()
    null = _mask(pc.is_null(prompt))
    yield "prompt", "null prompt", null
    yield "prompt", "message without a role", _any(prompt, _mask(pc.or_kleene(pc.is_null(role), _blank(role))))
    yield "prompt", "message without content", _any(prompt, _mask(pc.is_null(content)))
    yield "prompt", "empty prompt", ~_any(prompt, ~_mask(_blank(content)))
    yield "prompt", "NUL character", _any(prompt, _mask(pc.match_substring(content, "\0")))


def _blank(text: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)


def _no_probability(values: pa.Array) -> pa.Array:
    return pc.or_(pc.less(values, 0.0), pc.greater(values, 1.0))


def _mask(condition: pa.Array) -> Mask:
    return np.asarray(condition.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _any(lists: pa.Array, elements: Mask) -> Mask:
    """Return which lists hold an element for which the flat mask is true, shape (n,)."""
    mask = np.zeros(len(lists), dtype=np.bool_)
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)  # flatten passes over null lists
    mask[np.repeat(np.arange(len(lists)), sizes)[elements]] = True
    return mask


def _with_ids(table: pa.Table) -> pa.Table:
    """Add pair_id and the missing groups, and bring the columns into the order of `SCHEMA`."""
    columns = {name: table[name] for name in table.column_names}
    texts = (table[name].to_pylist() for name in ("prompt", "response_a", "response_b", "group"))
    ids, groups = [], []
    for prompt, a, b, group in zip(*texts, strict=True):
        ids.append(pair_id(prompt, a, b))
        groups.append(prompt_id(prompt) if group is None else group)
    columns |= {"pair_id": pa.array(ids, pa.string()), "group": pa.array(groups, pa.string())}
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _merge_duplicates(table: pa.Table, rows: npt.NDArray[np.int64]) -> tuple[pa.Table, int, list[BadRow]]:
    """Keep the first of pairs that are the same, also with A and B exchanged; return also how many golds changed."""
    families = _families(table)
    if not families:
        return table, 0, []
    bad, changed = [], {}
    texts, gold, votes = (table[name].to_pylist() for name in ("response_a", "gold", "annotator_votes"))
    for first, others in families.items():
        bad += [BadRow(int(rows[i]), BOTH, "duplicate pair", f"the same as row {rows[first]}") for i in others]
        members = [{"response_a": texts[i], "gold": gold[i], "annotator_votes": votes[i]} for i in (first, *others)]
        changed[first] = _merged(members)
    merged = sum(gold[i] is not None and gold[i] != new for i, (new, _) in changed.items())
    for i, (new_gold, new_votes) in changed.items():
        gold[i], votes[i] = new_gold, new_votes
    for name, values in (("gold", gold), ("annotator_votes", votes)):
        place = SCHEMA.get_field_index(name)
        table = table.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    keep = np.ones(table.num_rows, dtype=np.bool_)
    keep[[i for others in families.values() for i in others]] = False
    return table.filter(pa.array(keep)), merged, bad


def _families(table: pa.Table) -> dict[int, list[int]]:
    """Return the positions that repeat an earlier pair, by the position of the first."""
    ids, prompts = table["pair_id"].to_pylist(), table["prompt"]
    a, b = table["response_a"].to_pylist(), table["response_b"].to_pylist()
    responses: dict[tuple[str, str], list[int]] = {}
    for i, texts in enumerate(zip(a, b, strict=True)):
        responses.setdefault((min(texts), max(texts)), []).append(i)
    families: dict[int, list[int]] = {}
    for places in responses.values():
        firsts: dict[str, int] = {}
        for i in places if len(places) > 1 else []:
            swapped = a[i] > b[i]
            key = pair_id(prompts[i].as_py(), b[i], a[i]) if swapped else ids[i]
            first = firsts.setdefault(key, i)
            if first != i:
                families.setdefault(first, []).append(i)
    return families


def _merged(members: Sequence[Mapping[str, Any]]) -> tuple[float | None, Votes]:
    """Return gold and annotators' votes of duplicates, in the orientation of the first."""
    first = members[0]
    seen = [
        _turned(m["gold"], m["annotator_votes"], swapped=m["response_a"] != first["response_a"])
        for m in members
        if m["gold"] is not None
    ]
    if not seen:
        return None, first["annotator_votes"]
    if len({gold for gold, _ in seen}) == 1:
        return seen[0]
    together = [vote for _, votes in seen for vote in votes or []]
    return sum(gold for gold, _ in seen) / len(seen), together or None


def _turned(gold: float, votes: Votes, *, swapped: bool) -> tuple[float, Votes]:
    if not swapped:
        return gold, votes
    return 1.0 - gold, None if votes is None else [None if vote is None else 1.0 - vote for vote in votes]
