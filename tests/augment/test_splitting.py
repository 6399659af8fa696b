"""`weakpref split`: groups and prompts on one side only, labels hidden, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from augment.cli import main
from labeling import check_disjoint, gold_sample, read_pairs, split_by_group
from labeling.errors import DataError


def test_a_split_is_that_of_python_and_holds_every_pair_once(tmp_path, capsys, write_pairs):
    source = write_pairs(tmp_path / "pairs.parquet")
    assert main(["split", str(source), "-o", str(tmp_path / "parts"), "--test-share", "0.25", "--seed", "3"]) == 0
    train, test = (read_pairs(tmp_path / "parts" / f"{name}.parquet") for name in ("train", "test"))
    check_disjoint(train, test)
    whole = read_pairs(source)
    for got, expected in zip((train, test), split_by_group(whole, 0.25, 3), strict=True):
        assert got.table.equals(expected.table)
    assert sorted([*train.pair_ids, *test.pair_ids]) == sorted(whole.pair_ids)
    with pytest.raises(DataError, match=r"parts holds a split; expected one part of it: .*parts/train.parquet or"):
        read_pairs(tmp_path / "parts")
    said = capsys.readouterr().out
    for name, part in (("train", train), ("test", test)):
        assert f"{len(part)} in {name}.parquet, {np.isfinite(part.gold).sum()} with gold" in said


@pytest.mark.parametrize(("gold", "parsed"), [("7", 7), ("0.25", 0.25)])
def test_gold_hides_labels_of_the_training_pairs_alone(tmp_path, write_pairs, gold, parsed):
    source = write_pairs(tmp_path / "pairs.parquet")
    assert main(["split", str(source), "-o", str(tmp_path / "parts"), "--gold", gold, "--seed", "1"]) == 0
    train, test = split_by_group(read_pairs(source), 0.2, 1)
    got = read_pairs(tmp_path / "parts" / "train.parquet").gold
    np.testing.assert_array_equal(got, np.where(gold_sample(train, parsed, 1), train.gold, np.nan))
    np.testing.assert_array_equal(read_pairs(tmp_path / "parts" / "test.parquet").gold, test.gold)


def test_the_same_split_has_the_same_bytes_and_replaces_an_earlier_one(tmp_path, write_pairs):
    source = write_pairs(tmp_path / "pairs.parquet")
    asked = ["split", str(source), "-o", str(tmp_path / "parts")]
    assert main(asked) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert main([*asked, "--seed", "5"]) == 0
    assert main(asked) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == first
    assert set(first) == {"train.parquet", "test.parquet", "manifest.json"}
    assert json.loads(first["manifest.json"])["seed"] == 0


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys, write_pairs):
    (tmp_path / "mine").mkdir()
    source = write_pairs(tmp_path / "mine" / "pairs.parquet")
    (tmp_path / "file").write_text("x")
    for out in ("mine", "file"):
        assert main(["split", str(source), "-o", str(tmp_path / out)]) == 2
        assert "holds something else than a split; choose another folder" in capsys.readouterr().err
    assert Path(source).is_file()
    part = pq.read_table(source)
    (tmp_path / "other").mkdir()
    pq.write_table(part, tmp_path / "other" / "train.parquet")  # no manifest of a split
    assert main(["split", str(source), "-o", str(tmp_path / "other")]) == 2
    assert "holds something else than a split" in capsys.readouterr().err
    assert main(["split", str(source), "-o", str(tmp_path / "twice")]) == 0
    held_out = (tmp_path / "twice" / "test.parquet").read_bytes()
    assert main(["split", str(tmp_path / "twice" / "train.parquet"), "-o", str(tmp_path / "twice")]) == 2
    assert "is part of" in capsys.readouterr().err
    assert (tmp_path / "twice" / "test.parquet").read_bytes() == held_out
    assert main(["split", str(source), "-o", str(tmp_path / "parts"), "--gold", "1000"]) == 2
    assert "asks for 1000 labelled pairs" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()
