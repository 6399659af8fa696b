"""The columns of an export: labels turned so that chosen comes first, whole conversations, what each voter said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labeling.pairs import MESSAGES, Pairs, pair_id
from labeling.votes import VoteMatrix

VOICES = pa.list_(pa.struct([("voter", pa.string()), ("vote", pa.int8()), ("margin", pa.float32())]))

SCHEMA = pa.schema(
    [
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("question", pa.string()),
        ("messages", MESSAGES),
        ("pair_id", pa.string()),
        ("p_chosen", pa.float64()),
        ("weight", pa.float64()),
        ("flipped", pa.bool_()),
        ("origin", pa.string()),
        ("iteration", pa.int32()),
        ("gold", pa.float64()),
        ("votes", VOICES),
        ("source", pa.string()),
        ("split", pa.string()),
    ]
)
"""The universal layout: loads unchanged in TRL, OpenRLHF, open-instruct, NeMo-RL, axolotl and rewardbench."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """The label each of n pairs is exported with, after orientation; all arrays have shape (n,)."""

    p_chosen: FloatArray
    """P(chosen preferred), in [0.5, 1]."""
    weight: FloatArray
    """Sample weight, >= 0."""
    flipped: BoolArray
    """True where chosen is response_b."""
    gold: FloatArray
    """The pair's own gold label as P(chosen preferred); NaN where it has none."""
    iteration: npt.NDArray[np.int32]
    """Round of labelling the label is of; 0 for gold."""

    def take(self, rows: npt.NDArray[np.int64]) -> Labels:
        """Return the labels of the given rows."""
        return Labels(self.p_chosen[rows], self.weight[rows], self.flipped[rows], self.gold[rows], self.iteration[rows])

    @property
    def is_gold(self) -> BoolArray:
        """True where the label is the gold one."""
        return ~np.isnan(self.gold)


@dataclass(frozen=True)
class Labelled:
    """n pairs, the label each is exported with, and what the voters said of them."""

    pairs: Pairs
    labels: Labels
    votes: VoteMatrix | None

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: npt.NDArray[np.int64]) -> Labelled:
        """Return the given rows."""
        votes = None if self.votes is None else self.votes.take(rows)
        return Labelled(self.pairs.take(rows), self.labels.take(rows), votes)


def orient(
    pairs: Pairs, p_a: FloatArray, weights: FloatArray, iterations: npt.NDArray[np.int32], keep_ties: bool
) -> Labels:
    """Turn P(A preferred) (n,) into labels: gold before p_a, the likelier response chosen, ties without weight."""
    p = np.where(np.isnan(pairs.gold), p_a, pairs.gold)
    p_chosen, flipped = np.maximum(p, 1.0 - p), p < 0.5
    tied = p_chosen == 0.5
    flipped[tied] = tie_flips(pairs.take(tied))
    return Labels(
        p_chosen=p_chosen,
        weight=np.where(tied & (not keep_ties), 0.0, weights),
        flipped=flipped,
        gold=np.where(flipped, 1.0 - pairs.gold, pairs.gold),
        iteration=np.where(np.isnan(pairs.gold), iterations, 0).astype(np.int32),
    )


def tie_flips(pairs: Pairs) -> BoolArray:
    """Return (n,): whether response_b is called chosen in a tie, by a hash that does not know which response is A."""
    rows = pairs.table.select(["prompt", "response_a", "response_b"]).to_pylist()
    flips = [_tie_flip(row["prompt"], row["response_a"], row["response_b"]) for row in rows]
    return np.asarray(flips, dtype=np.bool_)


def _tie_flip(prompt: list[dict[str, str]], response_a: str, response_b: str) -> bool:
    first, second = sorted((response_a, response_b))
    heads = int(pair_id(prompt, first, second)[-1], 16) % 2 == 0
    return (response_b == first) if heads else (response_b == second)


def conversations(prompts: pa.ListArray, responses: pa.StringArray) -> pa.ListArray:
    """Return each prompt's turns (n lists) followed by its response (n texts) as the assistant's turn."""
    n, turns = len(prompts), prompts.flatten()
    roles = pa.repeat("assistant", n)
    answers = pa.StructArray.from_arrays([roles, responses], fields=list(MESSAGES.value_type))
    lengths = pc.list_value_length(prompts).to_numpy()
    order = np.insert(np.arange(len(turns)), np.cumsum(lengths), len(turns) + np.arange(n))
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    values = pa.concat_arrays([turns, answers]).take(pa.array(order))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=MESSAGES)


def voices(votes: VoteMatrix, flipped: BoolArray) -> pa.ListArray:
    """Return n lists of what each voter said, in the exported orientation: 0 and margin > 0 favour chosen."""
    n, m = votes.votes.shape
    swapped = votes.swap()
    vote = np.where(flipped[:, None], swapped.votes, votes.votes)
    margin = np.where(flipped[:, None], swapped.margins, votes.margins) + np.float32(0)  # no -0.0
    said = pa.StructArray.from_arrays(
        [
            pa.array(list(votes.names), pa.string()).take(pa.array(np.tile(np.arange(m), n))),
            pa.array(vote.ravel(), pa.int8()),
            pa.array(margin.ravel(), pa.float32(), from_pandas=True),
        ],
        fields=list(VOICES.value_type),
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * m, pa.int32()), said, type=VOICES)


def columns(rows: Labelled, origin: str) -> pa.RecordBatch:
    """Return n pairs in the universal layout (`SCHEMA`); origin is of the pairs without gold."""
    labels, table, n = rows.labels, rows.pairs.table, len(rows)
    prompts, a, b = (table[name].combine_chunks() for name in ("prompt", "response_a", "response_b"))
    flipped, is_gold = pa.array(labels.flipped), pa.array(labels.is_gold)
    values = {
        "chosen": conversations(prompts, pc.if_else(flipped, b, a)),
        "rejected": conversations(prompts, pc.if_else(flipped, a, b)),
        "question": rows.pairs.questions,
        "messages": prompts,
        "pair_id": table["pair_id"].combine_chunks(),
        "p_chosen": pa.array(labels.p_chosen),
        "weight": pa.array(labels.weight),
        "flipped": flipped,
        "origin": pc.if_else(is_gold, "gold", origin),
        "iteration": pa.array(labels.iteration, pa.int32()),
        "gold": pa.array(labels.gold, from_pandas=True),
        "votes": pa.nulls(n, VOICES) if rows.votes is None else voices(rows.votes, labels.flipped),
        "source": table["source"].combine_chunks(),
        "split": pa.repeat("train", n),
    }
    return pa.RecordBatch.from_pydict(values, schema=SCHEMA)
