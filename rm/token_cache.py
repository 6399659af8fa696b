"""Training pairs as tokens in a memory-mapped Arrow file: tokenised once, in chunks, whatever the size of the data."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from labeling.errors import DataError
from labeling.files import replacing, sha256, write_json
from labeling.pairs import MESSAGES, Message, prompt_id
from rm.data import CHUNK, conversations, read_rows, shorten, tokenise
from rm.packing import Ids, shared_prefix

FORMAT = 1
"""Counted up when the same data would give other tokens or another layout."""
SAMPLE = 128
"""Pairs of which the text is kept too, drawn at random."""
PAIRS = "pairs.arrow"
SAMPLE_FILE = "sample.arrow"
COUNTS = "counts.json"
PROMPT_BYTES = 8
SCHEMA = pa.schema(
    {
        "chosen": pa.list_(pa.int32()), "rejected": pa.list_(pa.int32()), "shared": pa.int32(),
        "p_chosen": pa.float64(), "weight": pa.float64(), "origin": pa.string(),
        "prompt_chosen": pa.binary(PROMPT_BYTES), "prompt_rejected": pa.binary(PROMPT_BYTES),
    }
)  # fmt: skip
SIDES = ("chosen", "rejected")
NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Counts:
    """What became of the rows of some files."""

    rows: int = 0
    skipped_zero_weight: int = 0
    long_conversations: int = 0
    """Conversations of more than max_length tokens."""
    dropped_long_pairs: int = 0
    """Pairs left out for that reason."""
    gold: int = 0
    """Pairs that are left and whose origin is gold."""
    pairs: int = 0
    """Pairs that are left."""

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Preparation:
    """How conversations become tokens."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    drop_long: bool
    """Whether pairs with a longer conversation are dropped; else they lose the beginning of their prompt."""

    def key(self, hashes: Sequence[str]) -> str:
        """Return 24 hex digits that stand for the tokens of the files with these hashes, prepared this way."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = [FORMAT, *hashes, backend, self.tokenizer.chat_template, self.tokenizer.special_tokens_map]
        text = json.dumps([*parts, self.max_length, self.drop_long], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def tokenised_pairs(files: Sequence[Path], preparation: Preparation, cache: Path) -> TokenisedPairs:
    """Return the pairs of some files from `cache`/<key of their content>, tokenised now if they are not there.

    Two processes may do so at once: one tokenises, the other waits. Raises DataError where the data cannot be read, or
    no row is left to train on.
    """
    folder = cache / preparation.key([sha256(file) for file in files])
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _tokenise(files, preparation, folder)
    return TokenisedPairs(folder)


class TokenisedPairs(Dataset[dict[str, Any]]):
    """Pairs of a folder of the cache, read through a memory map.

    Item i is {chosen, rejected: ids, p_chosen, weight: float, gold: bool}.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = Counts(**json.loads((folder / COUNTS).read_text(encoding="utf-8")))
        self.table = _mapped(folder / PAIRS)

    def __len__(self) -> int:
        return self.counts.pairs

    def __getitem__(self, index: int) -> dict[str, Any]:
        chunk, row = divmod(index, CHUNK)
        p_chosen, weight, origin = (
            self.table[name].chunk(chunk)[row].as_py() for name in ("p_chosen", "weight", "origin")
        )
        sides = {side: self._ids(side, chunk, row) for side in SIDES}
        return {**sides, "p_chosen": p_chosen, "weight": weight, "gold": origin == "gold"}

    def _ids(self, side: str, chunk: int, row: int) -> Ids:
        ids: Ids = self.table[side].chunk(chunk)[row].values.to_numpy()
        return ids

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of both conversations and of their common beginning, int64 (n, 3)."""
        columns = [pc.list_value_length(self.table[side]).to_numpy() for side in SIDES]
        return np.stack([*columns, self.table["shared"].to_numpy()], axis=1).astype(np.int64)

    def prompts(self) -> list[str]:
        """Return the sorted distinct hashes of the prompts: all turns of a conversation but the last."""
        sides = [self.table[name] for name in ("prompt_chosen", "prompt_rejected")]
        hashes = pa.chunked_array([chunk for side in sides for chunk in side.chunks], pa.binary(PROMPT_BYTES)).unique()
        return sorted(value.hex() for value in hashes.to_pylist())

    def sample(self) -> list[tuple[list[Message], list[Message]]]:
        """Return the chosen and rejected conversation of up to SAMPLE pairs drawn at random, as text."""
        table = _mapped(self.folder / SAMPLE_FILE)
        return list(zip(*(conversations(table[side]) for side in SIDES), strict=True))


def _mapped(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _tokenise(files: Sequence[Path], preparation: Preparation, folder: Path) -> None:
    counted, sample = list[Counts](), _Reservoir()
    with replacing(folder) as part:
        part.mkdir()
        with pa.OSFile(str(part / PAIRS), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in _even(_prepared(files, preparation, counted, sample)):
                writer.write_batch(batch)
        counts = sum(counted, start=Counts())
        if not counts.pairs:
            raise DataError(_nothing(files, counts, preparation.max_length))
        schema = pa.schema({"chosen": MESSAGES, "rejected": MESSAGES})
        with pa.OSFile(str(part / SAMPLE_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(sample.rows, schema=schema))
        write_json(part / COUNTS, asdict(counts))


def _even(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Yield the rows in batches of exactly CHUNK, the last one excepted, so that a row's batch is known."""
    waiting = SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= CHUNK:
            yield waiting.slice(0, CHUNK).combine_chunks().to_batches()[0]
            waiting = waiting.slice(CHUNK)
    if len(waiting):
        yield waiting.combine_chunks().to_batches()[0]


def _prepared(
    files: Sequence[Path], preparation: Preparation, counted: list[Counts], sample: _Reservoir
) -> Iterator[pa.Table]:
    """Yield the pairs that can be trained on as tokens, chunk by chunk; what became of the rows goes into `counted`."""
    limit, tokenizer = preparation.max_length, preparation.tokenizer
    for file in files:
        for rows in read_rows(file):
            used = rows.filter(pc.greater(rows["weight"], 0))
            text = {side: list(conversations(used[side])) for side in SIDES}
            ids = [tokenise(tokenizer, text[side], NO_LIMIT).ids for side in SIDES]
            n_long = [(len(chosen) > limit) + (len(rejected) > limit) for chosen, rejected in zip(*ids, strict=True)]
            kept = [i for i in range(len(used)) if not (n_long[i] and preparation.drop_long)]
            table = _table(
                used.take(pa.array(kept, pa.int64())), [[side[i] for i in kept] for side in ids], preparation
            )
            for i in kept:
                sample.offer({side: text[side][i] for side in SIDES})
            counted.append(
                Counts(
                    rows=len(rows),
                    skipped_zero_weight=len(rows) - len(used),
                    long_conversations=sum(n_long),
                    dropped_long_pairs=len(used) - len(kept),
                    gold=pc.sum(pc.equal(table["origin"], "gold")).as_py() or 0,
                    pairs=len(kept),
                )
            )
            yield table


def _table(rows: pa.Table, ids: Sequence[Sequence[Ids]], preparation: Preparation) -> pa.Table:
    pairs = [
        shorten(chosen.tolist(), rejected.tolist(), preparation.max_length, preparation.tokenizer)
        for chosen, rejected in zip(*ids, strict=True)
    ]
    prompts = {side: [_prompt(turns) for turns in conversations(rows[side])] for side in SIDES}
    columns = {
        "chosen": [np.asarray(chosen, dtype=np.int32) for chosen, _ in pairs],
        "rejected": [np.asarray(rejected, dtype=np.int32) for _, rejected in pairs],
        "shared": [shared_prefix([np.asarray(ids) for ids in pair]) for pair in pairs],
        "p_chosen": rows["p_chosen"].combine_chunks(),
        "weight": rows["weight"].combine_chunks(),
        "origin": rows["origin"].combine_chunks(),
        **{f"prompt_{side}": prompts[side] for side in SIDES},
    }
    return pa.table(columns, schema=SCHEMA)


def _prompt(turns: Sequence[Message]) -> bytes:
    return bytes.fromhex(prompt_id(turns[:-1]))


class _Reservoir:
    """SAMPLE of the rows offered, each with the same chance (Vitter's algorithm R)."""

    def __init__(self) -> None:
        self.rows, self._n, self._generator = list[dict[str, Any]](), 0, np.random.default_rng(0)

    def offer(self, row: dict[str, Any]) -> None:
        self._n += 1
        place = int(self._generator.integers(self._n)) if self._n > SAMPLE else len(self.rows)
        self.rows[place : place + 1] = [row] if place < SAMPLE else self.rows[place : place + 1]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _nothing(files: Sequence[Path], counts: Counts, max_length: int) -> str:
    names = ", ".join(str(file) for file in files)
    if counts.dropped_long_pairs:
        return f"{names}: all pairs are longer than {max_length} tokens; raise max_length, or truncate them"
    return f"{names}: none of {counts.rows} rows has a positive weight, so there is nothing to train on"
