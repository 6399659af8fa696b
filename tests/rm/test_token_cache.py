from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from labeling.errors import DataError
from rm.data import CHUNK, shorten, tokenise
from rm.packing import shared_prefix
from rm.sources import MixedPairs
from rm.token_cache import SAMPLE, Preparation, tokenised_pairs

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
Write = Callable[..., Path]
Tokenised = Callable[..., MixedPairs]


def test_pairs_are_those_tokenised_one_by_one_also_across_chunks(
    universal: Write, conversations: Rows, tokenised: Tokenised, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = conversations(7) * (CHUNK // 7 + 2)
    weight = [float(i % 5 > 0) for i in range(len(rows))]
    pairs = tokenised(universal(rows, weight=weight), max_length=24)
    kept = [row for row, number in zip(rows, weight, strict=True) if number]
    assert len(pairs) == len(kept) > 0.7 * len(rows) > 0.7 * CHUNK
    for i in [0, 1, len(kept) // 2, len(kept) - 1]:
        prompt, *responses = kept[i]
        turns = [[*prompt, {"role": "assistant", "content": response}] for response in responses]
        expected = shorten(*tokenise(tiny_tokenizer, turns, 1000).ids, 24, tiny_tokenizer)
        assert [pairs[i][side].tolist() for side in ("chosen", "rejected")] == [list(ids) for ids in expected]
        assert pairs.lengths[i].tolist() == [
            len(expected[0]),
            len(expected[1]),
            shared_prefix([*map(np.array, expected)]),
        ]


def test_tokens_are_read_through_a_memory_map(universal: Write, conversations: Rows, tokenised: Tokenised) -> None:
    pairs = tokenised(universal(conversations(3)))
    assert not pairs[0]["chosen"].flags.owndata
    assert not pairs[0]["chosen"].flags.writeable


def test_long_pairs_are_shortened_or_dropped_and_counted(
    universal: Write, conversations: Rows, tokenised: Tokenised
) -> None:
    data = universal(conversations(9))
    whole, cut, dropped = (
        tokenised(data), tokenised(data, max_length=40), tokenised(data, max_length=40, on_long="drop"),
    )  # fmt: skip
    longest = whole.lengths[:, :2].max(axis=1)
    n_long = int((longest > 40).sum())
    assert 0 < n_long < 9
    assert (cut.counts.long_conversations, cut.counts.dropped_long_pairs) == (int((whole.lengths[:, :2] > 40).sum()), 0)
    assert (len(cut), len(dropped), dropped.counts.dropped_long_pairs) == (9, 9 - n_long, n_long)
    assert cut.lengths[:, :2].max() == 40
    assert (cut.lengths[longest <= 40] == whole.lengths[longest <= 40]).all()
    with pytest.raises(DataError, match="all pairs are longer than 5 tokens; raise max_length"):
        tokenised(data, max_length=5, on_long="drop")


def test_the_same_content_is_found_again_and_any_change_is_not(
    universal: Write, conversations: Rows, tokenised: Tokenised, tmp_path: Path
) -> None:
    data = universal(conversations(5))
    tokenised(data)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}
    data.rename(tmp_path / "moved.parquet")
    tokenised(tmp_path / "moved.parquet")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")} == written
    for changed, options in ((5, {"max_length": 64}), (5, {"on_long": "drop"}), (6, {})):
        tokenised(universal(conversations(changed)), **options)
    assert len(list((tmp_path / "cache").glob("*/counts.json"))) == 4


def test_the_sample_is_of_all_rows_and_the_same_every_time(
    universal: Write, conversations: Rows, tokenised: Tokenised, tmp_path: Path
) -> None:
    rows = conversations(3 * SAMPLE)
    first = tokenised(universal(rows)).sample()
    assert len(first) == 2 * SAMPLE
    prompts = [int(turns[0]["content"].split()[-1].rstrip("?")) for turns in first[::2]]
    assert 0.3 < np.mean(np.array(prompts) >= 1.5 * SAMPLE) < 0.7
    assert tokenised(universal(rows, "again.parquet", weight=[1.0] * len(rows))).sample() == first


def _build(tokenizer: PreTrainedTokenizerFast, file: Path, cache: Path) -> int:
    return len(tokenised_pairs([file], Preparation(tokenizer, 64, drop_long=False), cache))


@pytest.mark.slow
def test_two_processes_may_tokenise_the_same_at_once(
    universal: Write, conversations: Rows, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = universal(conversations(500))
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        lengths = pool.starmap(_build, [(tiny_tokenizer, data, tmp_path / "cache")] * 2)
    assert lengths == [500, 500]
    assert len(list((tmp_path / "cache").glob("*/pairs.arrow"))) == 1


PEAK = """
import sys
from pathlib import Path
from transformers import AutoTokenizer
from rm.template import repaired
from rm.token_cache import Preparation, tokenised_pairs

tokenizer = repaired(AutoTokenizer.from_pretrained(sys.argv[2]))
pairs = tokenised_pairs([Path(sys.argv[1])], Preparation(tokenizer, 64, False), Path(sys.argv[3]))
print(sum(len(pairs[i]["chosen"]) for i in range(0, len(pairs), 7)), file=sys.stderr)
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(universal: Write, conversations: Rows, tiny: str, tmp_path: Path) -> None:
    """Eight times the rows: 24,000 of about 1 KB. All of them at once would take more than 25 MB."""
    peaks = []
    for n in (3000, 24000):
        prompt, chosen, rejected = conversations(1)[0]
        rows = [(prompt, f"{i} {chosen * 20}", f"{i} {rejected * 20}") for i in range(n)]
        data = universal(rows, f"{n}.parquet")
        run = subprocess.run(
            [sys.executable, "-c", PEAK, str(data), tiny, str(tmp_path / "cache")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] - peaks[0] < 25
