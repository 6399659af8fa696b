"""The vote matrix: its checks, its views, its file."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.errors import VotesError
from labeling.votes import VoteMatrix, read_votes, read_votes_in_batches, write_votes

VOTES = np.array([[0, -1], [1, 1], [-1, 0]], dtype=np.int8)
MARGINS = np.array([[0.5, np.nan], [-2.0, np.nan], [0.0, np.nan]], dtype=np.float32)
IDS = np.array(["p", "q", "r"])


def matrix(**fields: Any) -> VoteMatrix:
    values = {"votes": VOTES, "margins": MARGINS, "names": ("x", "y"), "pair_ids": IDS, "groups": np.array(["g"] * 3)}
    return VoteMatrix(**(values | fields))


def assert_same(one: VoteMatrix, other: VoteMatrix) -> None:
    for name in ("votes", "margins", "pair_ids", "groups"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=name != "groups")
    assert (one.names, dict(one.errors)) == (other.names, dict(other.errors))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"votes": VOTES[:2]}, r"votes has shape \(2, 2\), expected \(3, 2\): one row a pair id, one column a voter"),
        ({"margins": MARGINS[:, :1]}, r"margins has shape \(3, 1\), expected \(3, 2\)"),
        ({"names": ("x", "x")}, "voter names must be unique, found twice: x; rename one"),
        (
            {"votes": np.where(VOTES == 1, 7, VOTES).astype(np.int8)},
            r"votes must be 0 \(A\), 1 \(B\) or -1 \(abstain\)",
        ),
        ({"margins": np.where(MARGINS == 0, np.inf, MARGINS)}, "margins must be finite or NaN"),
        ({"groups": np.array(["g"])}, "groups has 1 rows, expected 3: one a pair"),
    ],
)
def test_a_malformed_matrix_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(VotesError, match=words):
        matrix(**fields)


def test_signs_are_plus_for_a_minus_for_b_nought_for_abstain() -> None:
    assert matrix().signs.tolist() == [[1, 0], [-1, -1], [0, 1]]


def test_swapping_twice_changes_nothing() -> None:
    once = matrix().swap()
    assert once.votes.tolist() == [[1, -1], [0, 0], [-1, 1]]
    np.testing.assert_array_equal(once.margins, -MARGINS)
    assert_same(once.swap(), matrix())


def test_rows_are_taken_by_number_or_mask() -> None:
    by_number, by_mask = matrix().take([2, 0]), matrix().take(np.array([True, False, True]))
    assert by_number.pair_ids.tolist() == ["r", "p"]
    assert by_number.votes.tolist() == [[-1, 0], [0, -1]]
    assert_same(by_number.take([1, 0]), by_mask)


def test_voters_are_selected_by_name() -> None:
    chosen = matrix(errors={"x": 2, "y": 1}).select(["y"])
    assert (chosen.names, chosen.votes[:, 0].tolist(), chosen.errors) == (("y",), [-1, 1, 0], {"y": 1})
    with pytest.raises(VotesError, match="no voter named z; there are x, y"):
        matrix().select(["z"])


def test_the_data_frame_is_indexed_by_pair_id_and_named_by_voter() -> None:
    frame = matrix().to_pandas()
    assert frame.index.tolist() == ["p", "q", "r"]
    assert frame["x"].tolist() == [0, 1, -1]


@pytest.mark.slow
def test_snorkels_label_model_and_analysis_take_the_matrix() -> None:
    from snorkel.labeling import LFAnalysis
    from snorkel.labeling.model import LabelModel

    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 300)
    votes = np.where(
        draw.random((300, 4)) < 0.2, -1, np.where(draw.random((300, 4)) < 0.8, truth[:, None], 1 - truth[:, None])
    )
    many = VoteMatrix(
        votes.astype(np.int8), np.full((300, 4), np.nan, np.float32), tuple("abcd"), np.arange(300).astype(np.str_)
    )  # fmt: skip
    assert many.to_snorkel().dtype == np.int64
    np.testing.assert_array_equal(many.to_snorkel(), votes)
    np.testing.assert_array_equal(LFAnalysis(many.to_snorkel()).lf_coverages(), (votes >= 0).mean(axis=0))
    model = LabelModel(cardinality=2, verbose=False)
    model.fit(many.to_snorkel(), n_epochs=50, seed=123, progress_bar=False)
    assert (model.predict(many.to_snorkel()) == truth).mean() > 0.85


@pytest.mark.parametrize("gold", [None, [1.0, np.nan, 0.5]])
@pytest.mark.parametrize("groups", [None, np.array(["g", "h", "g"])])
def test_what_is_written_is_read_again(tmp_path: Path, gold: Any, groups: Any) -> None:
    written = matrix(groups=groups, errors={"y": 2})
    write_votes(tmp_path / "votes.parquet", written, gold)
    votes, labels = read_votes(tmp_path / "votes.parquet")
    assert_same(votes, written)
    np.testing.assert_array_equal(labels, gold)
    assert not votes.votes.flags.writeable or votes.votes.flags.c_contiguous


def bare(n: int = 100, m: int = 3) -> VoteMatrix:
    votes = np.random.default_rng(0).integers(-1, 2, (n, m)).astype(np.int8)
    return VoteMatrix.of(votes, [f"v{j}" for j in range(m)])


def test_a_matrix_of_votes_alone_takes_no_more_memory_than_they_do() -> None:
    tracemalloc.start()
    votes = np.zeros((500_000, 4), np.int8)
    before = tracemalloc.get_traced_memory()[0]
    matrix = VoteMatrix.of(votes, "abcd")
    assert not matrix.has_margins
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(matrix.votes, votes)
    assert after - before < 10_000
    assert peak - before < 2_000_000


def test_a_matrix_of_votes_alone_is_as_one_without_margins_or_ids() -> None:
    plain, n = bare(), 100
    whole = VoteMatrix(plain.votes, np.full((n, 3), np.nan, np.float32), ("v0", "v1", "v2"), np.full(n, ""))
    assert plain.names == whole.names
    for one, other in (
        (plain, whole),
        (plain.take([4, 2, 2]), whole.take([4, 2, 2])),
        (plain.take(plain.votes[:, 0] >= 0), whole.take(plain.votes[:, 0] >= 0)),
        (plain.select(["v2", "v0"]), whole.select(["v2", "v0"])),
        (plain.swap(), whole.swap()),
        (plain.take(np.array([], int)), whole.take(np.array([], int))),
    ):
        assert (one.groups, one.has_margins, other.has_margins) == (None, False, False)
        assert one.names == other.names
        for name in ("votes", "margins", "pair_ids", "signs"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_matrix_of_votes_alone_is_checked_too() -> None:
    with pytest.raises(VotesError, match=r"votes must be 0 \(A\), 1 \(B\)"):
        VoteMatrix.of(np.int8([[0, 2]]), "xy")
    with pytest.raises(VotesError, match="expected \\(1, 3\\)"):
        VoteMatrix.of(np.int8([[0, 1]]), "xyz")


@pytest.mark.parametrize("row", [0, 70_000, 199_999])
def test_one_margin_anywhere_is_a_margin(row: int) -> None:
    margins = np.full((200_000, 1), np.nan, np.float32)
    votes, ids = np.zeros((200_000, 1), np.int8), np.broadcast_to(np.str_(""), 200_000)
    assert not VoteMatrix(votes, margins, ("x",), ids).has_margins
    margins[row] = 0.0
    assert VoteMatrix(votes, margins, ("x",), ids).has_margins
    margins[row] = -np.inf
    with pytest.raises(VotesError, match="margins must be finite or NaN"):
        VoteMatrix(votes, margins, ("x",), ids)


def test_margins_that_are_one_number_throughout_are_margins() -> None:
    margins = np.broadcast_to(np.float32(1.5), (3, 2))
    assert matrix(margins=margins).has_margins
    assert matrix(margins=margins).take([1]).has_margins


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize("gold", [None, [1.0, np.nan, 0.5]])
def test_a_file_read_in_batches_is_the_file(tmp_path: Path, rows: int, gold: Any) -> None:
    written = matrix(errors={"y": 2})
    write_votes(tmp_path / "votes.parquet", written, gold)
    parts = list(read_votes_in_batches(tmp_path / "votes.parquet", rows))
    assert [len(votes) for votes, _ in parts] == [min(rows, 3 - start) for start in range(0, 3, rows)]
    start = 0
    for votes, labels in parts:
        at = np.arange(start, start + len(votes))
        assert_same(votes, replace(written.take(at), errors={"y": 2}))
        np.testing.assert_array_equal(labels, None if gold is None else np.array(gold)[at])
        start += len(votes)


def test_reading_in_batches_what_is_no_votes_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(VotesError, match=r"votes.parquet does not exist"):
        next(read_votes_in_batches(tmp_path / "votes.parquet"))
    pq.write_table(pa.table({"pair_id": ["p"] * 5, "v:x": [0, 1, -1, 0, 3]}), tmp_path / "votes.parquet")
    batches = read_votes_in_batches(tmp_path / "votes.parquet", 2)
    assert [len(next(batches)[0]) for _ in range(2)] == [2, 2]
    with pytest.raises(VotesError, match=r"column v:x of .* holds other values"):
        next(batches)


def test_the_columns_are_named_by_voter_and_absent_margins_left_out(tmp_path: Path) -> None:
    write_votes(tmp_path / "votes.parquet", matrix(), [1.0, 0.0, np.nan])
    assert pq.read_schema(tmp_path / "votes.parquet").names == ["pair_id", "group", "gold", "v:x", "m:x", "v:y"]


def test_the_same_votes_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_votes(tmp_path / name, matrix(errors={"y": 1, "x": 2} if name == "one" else {"x": 2, "y": 1}))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "votes.parquet"
    write_votes(path, matrix())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_votes(path, matrix(errors={"x": object()}))
    with pytest.raises(UnicodeEncodeError):
        write_votes(path, matrix(names=("x", "\ud800")))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["votes.parquet"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "votes.parquet"
    write_votes(path, matrix())
    before = path.read_bytes()

    def interrupted(table: pa.Table, target: Path, **options: Any) -> None:
        target.write_bytes(b"PAR1 half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_votes(path, matrix())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["votes.parquet"]


def test_reading_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        VotesError, match=r"votes.parquet does not exist; make it with `weakpref label PAIRS -o .*votes"
    ):
        read_votes(tmp_path / "votes.parquet")


def test_reading_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "votes.parquet"
    write_votes(path, matrix())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(VotesError, match=r"is not a readable Parquet file \(.*\); make it again with `weakpref label`"):
        read_votes(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"pair_id": ["p"]}, r"is no votes file: expected the columns pair_id and v:<voter>, found pair_id"),
        ({"v:x": [0]}, "is no votes file: .*found v:x"),
        ({"pair_id": ["p"], "v:x": [0.4]}, r"column v:x of .* \(double, 0 nulls\) holds other values than 0 \(A\)"),
        ({"pair_id": ["p"], "v:x": pa.array([None], pa.int8())}, r"column v:x of .* \(int8, 1 nulls\) holds other"),
        ({"pair_id": ["p"], "v:x": [256]}, r"column v:x of .* \(int64, 0 nulls\) holds other"),
    ],
)
def test_reading_another_file_says_what_is_wrong(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    with pytest.raises(VotesError, match=words):
        read_votes(tmp_path / "votes.parquet")
