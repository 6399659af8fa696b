"""Outputs get their name last, and what had it before is whole until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labeling import files
from labeling.errors import DataError
from labeling.files import check_report, replacing, write_json


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def made(target: Path, *texts: Any) -> None:
    with replacing(target) as part:
        part.mkdir()
        for text in texts:
            (part / text).write_text(text)


def test_a_folder_that_is_replaced_is_never_seen_half_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "out", "one", "two")
    seen: list[set[str]] = []
    remove = files._remove

    def watched(path: Path) -> None:
        seen.append(names(tmp_path / "out"))
        remove(path)

    monkeypatch.setattr(files, "_remove", watched)
    made(tmp_path / "out", "three")
    assert seen
    assert all(each == {"three"} for each in seen)
    assert names(tmp_path) == {"out"}


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    made(tmp_path / "out", "one")
    with pytest.raises(TypeError):
        made(tmp_path / "out", "two", 3)
    assert names(tmp_path / "out") == {"one"}
    assert names(tmp_path) == {"out"}


def test_a_report_is_written_over_no_manifest_but_its_own(tmp_path: Path) -> None:
    check_report(tmp_path / "new", "fit")
    check_report(tmp_path, "fit")
    write_json(tmp_path / "manifest.json", {"command": "fit"})
    check_report(tmp_path, "fit")
    for other in ({"command": "train"}, ["fit"]):
        write_json(tmp_path / "manifest.json", other)
        with pytest.raises(DataError, match=r"manifest.json is not of a report of fit and would be lost; write the"):
            check_report(tmp_path, "fit")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="would be lost"):
        check_report(tmp_path, "fit")
    with pytest.raises(DataError, match=r"manifest.json is a file, expected a folder to write the report to"):
        check_report(tmp_path / "manifest.json", "fit")
