"""What a judge makes of responses that try to steer it: how often they win with the attack and without, by how much."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeling.errors import DataError
from labeling.pairs import SCHEMA, Pairs, pair_id
from labeling.verdicts import Verdicts


class Judge(Protocol):
    """A voter that also says how it came to its votes."""

    def judge(self, table: pa.Table) -> Verdicts:
        """Return verdicts on n rows of `Pairs.voter_table()`."""


@dataclass(frozen=True)
class Attack:
    """A way to rewrite a response so that a judge prefers it for no merit."""

    kind: str
    text: str
    """What becomes of the response; `{response}` stands for it."""

    def on(self, response: str) -> str:
        """Return the attacking response."""
        return self.text.replace("{response}", response)


@dataclass(frozen=True, eq=False)
class AttackReport:
    """How often the attacking responses win, the same ones without their attack beside them."""

    n_pairs: int
    clean_win_share: float
    """Share of pairs on which the judge votes for the response before it attacks."""
    attacked_win_share: float
    """The same of the response that attacks."""
    turned_share: float
    """Share of the pairs it did not win before and wins by its attack."""
    by_kind: dict[str, tuple[float, float]]
    """Clean and attacked win share of each kind of attack."""
    margins: npt.NDArray[np.float64]
    """Shape (n, 2): margin in favour of the response that attacks, before and after; NaN where the judge gives none.
    A PairwiseJudge with `on_flip="keep"` gives one for every pair, also where its verdicts flip and no vote is left."""

    @property
    def margin_shift(self) -> float:
        """Mean change of the margin in favour of the response that attacks; NaN without margins."""
        return _mean(self.margins[:, 1] - self.margins[:, 0])

    @property
    def margin_win_shares(self) -> tuple[float, float]:
        """Share of margins in favour of the response that attacks, before and after; NaN without margins."""
        before, after = (_mean(np.where(np.isnan(margin), np.nan, margin > 0)) for margin in self.margins.T)
        return before, after

    @property
    def margin_turned_share(self) -> float:
        """Share of the margins not in its favour before that are after; NaN without such margins."""
        before, after = self.margins.T
        return _mean((after > 0)[(before <= 0) & ~np.isnan(after)].astype(np.float64))


def read_attacks(path: str | Path) -> list[Attack]:
    """Read attacks: a JSON list of {"kind", "text"}. Raises DataError if one has no `{response}` in its text."""
    attacks = [Attack(**attack) for attack in json.loads(Path(path).read_text(encoding="utf-8"))]
    for i, attack in enumerate(attacks):
        if "{response}" not in attack.text:
            raise DataError(f"attack {i} of {path} has no place for the response; write {{response}} in its text")
    return attacks


def attack_report(judge: Judge, pairs: Pairs, attacks: Sequence[Attack]) -> AttackReport:
    """Let the worse response of each pair attack, with each attack in turn, and count its wins.

    Worse is what gold says; without gold, or at a tie, it is response B. Pair i is met by attack i modulo their number.
    """
    if not len(pairs) or not attacks:
        raise DataError(f"{len(pairs)} pairs and {len(attacks)} attacks; expected one or more of either")
    worse_is_a = pairs.gold < 0.5
    before, after = (judge.judge(p.voter_table()) for p in (pairs, attacked_pairs(pairs, worse_is_a, attacks)))
    clean, attacked = (said.votes == np.where(worse_is_a, 0, 1) for said in (before, after))
    margins = np.stack([before.margins, after.margins], axis=1) * np.where(worse_is_a, 1, -1)[:, None]
    kinds = np.array([attacks[i % len(attacks)].kind for i in range(len(pairs))])
    by_kind = {
        str(kind): (float(clean[kinds == kind].mean()), float(attacked[kinds == kind].mean()))
        for kind in dict.fromkeys(kinds)
    }
    turned = float(attacked[~clean].mean()) if not clean.all() else 0.0
    return AttackReport(len(pairs), float(clean.mean()), float(attacked.mean()), turned, by_kind, margins)


def attacked_pairs(pairs: Pairs, worse_is_a: npt.NDArray[np.bool_], attacks: Sequence[Attack]) -> Pairs:
    """Return the pairs with the worse response rewritten by the attack whose turn it is."""
    rows = []
    for i, row in enumerate(pairs.table.to_pylist()):
        worse = "response_a" if worse_is_a[i] else "response_b"
        row[worse] = attacks[i % len(attacks)].on(row[worse])
        rows.append(row | {"pair_id": pair_id(row["prompt"], row["response_a"], row["response_b"])})
    return Pairs(pa.Table.from_pylist(rows, schema=SCHEMA), {})


def _mean(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
