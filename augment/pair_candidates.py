"""Pairing: from candidates to preference pairs - best against worst, length-controlled, all, random, or two models."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augment.generate import check_candidates
from labeling.errors import DataError
from labeling.files import replacing
from labeling.pairs import MAX_CHARS, SCHEMA, Message, Pairs, pair_id, prompt_id
from rm.options import option

Scheme = Literal["best-worst", "length-controlled", "all", "random", "two-models"]

PAIRED = pa.schema(
    [
        *SCHEMA,
        ("score_a", pa.float64()),
        ("score_b", pa.float64()),
        ("model_a", pa.string()),
        ("model_b", pa.string()),
    ]
)
"""The canonical layout of pairs, which `read_pairs` reads, and whence the responses: their scores (null where there are
none) and models. `gold` is null: a score is no label."""


@dataclass(frozen=True)
class Pairing:
    """Which candidates of a prompt make a pair."""

    scheme: Scheme = option(
        "all, random: for voters to label. best-worst: highest against lowest score. length-controlled: shortest of "
        "the top tier against longest of the bottom tier. two-models: the first sample of each of two models.",
        "all",
    )
    """length-controlled: Meta-Rewarding, arXiv 2407.19594. two-models: arXiv 2410.20869."""
    min_gap: float = option(
        "Leave out pairs whose scores differ by less; where scores make the pair, equal ones are left out anyway.", 0.0
    )
    tier_share: float = option(
        "length-controlled: width of a tier as share of the prompt's range of scores, in [0, 0.5); 0: the ends alone.",
        0.2,
    )
    n: int = option("random: pairs a prompt, fewer where there are fewer.", 1)
    seed: int = option("Seed of the random pairs.", 0)

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise DataError(f"scheme is {self.scheme!r}; expected one of {', '.join(get_args(Scheme))}")
        if not (self.min_gap >= 0 and 0 <= self.tier_share < 0.5 and self.n >= 1):
            raise DataError(
                f"min_gap is {self.min_gap}, tier_share {self.tier_share} and n {self.n}; expected min_gap >= 0, "
                "tier_share in [0, 0.5) and n of 1 or more"
            )

    @property
    def by_score(self) -> bool:
        """Whether the scores make the pair."""
        return self.scheme in ("best-worst", "length-controlled")


@dataclass(frozen=True)
class PairedCandidates:
    """What `pair_candidates` made."""

    table: pa.Table
    """`PAIRED`, one row a pair, in the order in which the prompts first occur."""
    n_prompts: int
    left_out: Mapping[str, int]
    """Why candidates, prompts or pairs were left out, and how many."""

    @property
    def pairs(self) -> Pairs:
        """The pairs, for voters."""
        return Pairs(self.table.select(SCHEMA.names), {})

    def write(self, path: str | Path) -> None:
        """Write the table as Parquet; `read_pairs` reads it."""
        with replacing(path) as part:
            pq.write_table(self.table, part, compression="zstd")


@dataclass(frozen=True)
class Candidate:
    """One response that can be paired."""

    response: str
    score: float
    """NaN where there is none."""
    model: str
    sample: int


Two = tuple[Candidate, Candidate]


def pair_candidates(
    candidates: pa.Table,
    scores: npt.ArrayLike | None = None,
    how: Pairing = Pairing(),
) -> PairedCandidates:
    """Return pairs of candidates (the table that `generate` writes) that answer the same prompt.

    Scores (n,), one a candidate, are any numbers of which more is better; candidates with NaN are left out where the
    scores make the pair. Candidates of one prompt with the same response count once, with their mean score. Length is
    in characters. Which response is A, and which of several is the best, the worst, the shortest or the longest, is
    drawn by a content hash, as `read_pairs` does, so that neither position nor spelling tells anything. The pairs
    depend on the candidates, not on the order of the rows. Pair candidates of several models by `pa.concat_tables`.

    Raises DataError for a table that holds no candidates, scores of another shape or infinite, or none where needed.
    """
    check_candidates(candidates)
    values = _scores(scores, candidates.num_rows, how)
    left_out: Counter[str] = Counter()
    prompts = _by_prompt(candidates, values, how, left_out)
    rows = []
    for prompt, found in prompts.values():
        chosen = list(_pairs_of(prompt, found, how, left_out))
        rows += [_row(prompt, x, y) for x, y in chosen]
    table = pa.Table.from_pylist(rows, schema=PAIRED)
    return PairedCandidates(table, len(prompts), dict(sorted(left_out.items())))


def _scores(scores: npt.ArrayLike | None, n: int, how: Pairing) -> npt.NDArray[np.float64]:
    if scores is None:
        if how.by_score or how.min_gap:
            raise DataError(
                f"there are no scores, but {how.scheme} with min_gap {how.min_gap} needs one a candidate; pass them, "
                "or pair without: all, random, two-models"
            )
        return np.full(n, np.nan)
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (n,) or np.isinf(values).any():
        raise DataError(
            f"scores have shape {values.shape} and {int(np.isinf(values).sum())} infinite values; expected ({n},), one "
            "a candidate, finite or NaN"
        )
    return values


def _by_prompt(
    table: pa.Table, scores: npt.NDArray[np.float64], how: Pairing, left_out: Counter[str]
) -> dict[str, tuple[list[Message], list[Candidate]]]:
    """Return the usable candidates of each prompt, each response once, sorted by a hash of what they say."""
    columns = (table[name].to_pylist() for name in ("prompt", "response", "model", "sample"))
    found: dict[str, tuple[list[Message], list[Candidate]]] = {}
    for (prompt, response, model, sample), score in zip(zip(*columns, strict=True), scores.tolist(), strict=True):
        members = found.setdefault(prompt_id(prompt), (prompt, []))[1]
        reason = _unusable(response, score, how)
        left_out.update([reason] if reason else [])
        members += [] if reason else [Candidate(response, score, model, sample)]
    return {name: (prompt, _distinct(name, members, how, left_out)) for name, (prompt, members) in found.items()}


def _unusable(response: str | None, score: float, how: Pairing) -> str:
    if response is None or not response.strip():
        return "candidates: empty response"
    if "\0" in response:
        return "candidates: NUL character"
    if len(response) > MAX_CHARS:
        return f"candidates: over {MAX_CHARS:,} characters"
    return "candidates: no score" if (how.by_score or how.min_gap) and math.isnan(score) else ""


def _distinct(prompt: str, members: Sequence[Candidate], how: Pairing, left_out: Counter[str]) -> list[Candidate]:
    """Merge candidates that say the same (of one model, where models are paired), with their mean score.

    They are sorted by a hash of the prompt's id and the response: where scores tie, the first is paired.
    """

    def drawn(one: Candidate) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{prompt} {one.response}".encode(), digest_size=16).digest(), one.model

    same: dict[tuple[str, str], list[Candidate]] = {}
    for one in sorted(members, key=lambda c: (c.sample, c.model)):
        same.setdefault((one.response, one.model if how.scheme == "two-models" else ""), []).append(one)
    left_out.update({"candidates: same response": len(members) - len(same)} if len(members) > len(same) else {})
    merged = [
        Candidate(c[0].response, mean_score([x.score for x in c]), c[0].model, c[0].sample) for c in same.values()
    ]
    return sorted(merged, key=drawn)


def mean_score(scores: Sequence[float]) -> float:
    """Return the score of a response that was drawn several times: the mean of those that are no NaN, if any."""
    known = [score for score in scores if not math.isnan(score)]
    return math.fsum(known) / len(known) if known else math.nan


def _pairs_of(
    prompt: Sequence[Message], found: Sequence[Candidate], how: Pairing, left_out: Counter[str]
) -> Iterator[Two]:
    if len(found) < 2:
        left_out["prompts: under two candidates to pair"] += 1
        return
    made = SCHEMES[how.scheme](prompt, found, how)
    left_out.update([] if made else ["prompts: candidates of one model only"])
    seen = set()
    for x, y in made:
        gap = abs(x.score - y.score)
        texts = frozenset((x.response, y.response))
        if how.by_score and gap == 0:
            left_out["pairs: equal scores"] += 1
        elif len(texts) == 1 or texts in seen:
            left_out["pairs: same responses"] += 1
        elif gap < how.min_gap:
            left_out["pairs: gap below min_gap"] += 1
        else:
            seen.add(texts)
            yield x, y


def _best_worst(_: Sequence[Message], found: Sequence[Candidate], __: Pairing) -> list[Two]:
    return [(max(found, key=lambda c: c.score), min(found, key=lambda c: c.score))]


def _length_controlled(_: Sequence[Message], found: Sequence[Candidate], how: Pairing) -> list[Two]:
    low, high = min(c.score for c in found), max(c.score for c in found)
    width = how.tier_share * (high - low)
    top = [c for c in found if c.score >= high - width]
    bottom = [c for c in found if c.score <= low + width]
    return [(min(top, key=lambda c: len(c.response)), max(bottom, key=lambda c: len(c.response)))]


def _all(_: Sequence[Message], found: Sequence[Candidate], __: Pairing) -> list[Two]:
    return list(itertools.combinations(found, 2))


def _random(prompt: Sequence[Message], found: Sequence[Candidate], how: Pairing) -> list[Two]:
    """Return the first n pairs in the order of a seeded hash of their content."""

    def drawn(two: Two) -> bytes:
        text = f"{how.seed} {pair_id(prompt, two[0].response, two[1].response)}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    return sorted(itertools.combinations(found, 2), key=drawn)[: how.n]


def _two_models(_: Sequence[Message], found: Sequence[Candidate], __: Pairing) -> list[Two]:
    """Return the first sample of each model against that of every other."""
    first: dict[str, Candidate] = {}
    for one in sorted(found, key=lambda c: (c.model, c.sample)):
        first.setdefault(one.model, one)
    return list(itertools.combinations(first.values(), 2))


SCHEMES: dict[str, Callable[[Sequence[Message], Sequence[Candidate], Pairing], list[Two]]] = {
    "best-worst": _best_worst,
    "length-controlled": _length_controlled,
    "all": _all,
    "random": _random,
    "two-models": _two_models,
}


def _row(prompt: list[Message], x: Candidate, y: Candidate) -> dict[str, Any]:
    a, b = sorted((x, y), key=lambda c: c.response)
    if int(pair_id(prompt, a.response, b.response)[-1], 16) % 2:
        a, b = b, a
    return {
        "pair_id": pair_id(prompt, a.response, b.response),
        "prompt": prompt,
        "response_a": a.response,
        "response_b": b.response,
        "group": prompt_id(prompt),
        "source": " | ".join(sorted({a.model, b.model})),
        "score_a": None if math.isnan(a.score) else a.score,
        "score_b": None if math.isnan(b.score) else b.score,
        "model_a": a.model,
        "model_b": b.model,
    }
