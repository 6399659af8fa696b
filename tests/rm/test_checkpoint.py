"""Pickled weights and models with code of their own are not loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from labeling.errors import DataError
from rm.checkpoint import SAFE
from rm.handoff import save
from rm.model import RewardModel, load_base

MARK = "import pathlib; pathlib.Path(__file__).with_name('it-ran').touch()\n"


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    save(RewardModel(*load_base(tiny, 64), 64), tmp_path / "rm")
    return tmp_path / "rm"


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def pickle_weights(folder: Path) -> None:
    weights = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("load", [RewardModel.load, lambda folder: load_base(str(folder), 64)])
def test_pickled_weights_are_refused_with_the_way_out(folder: Path, load: Any) -> None:
    pickle_weights(folder)
    AutoModelForSequenceClassification.from_pretrained(folder)  # transformers would read them
    with pytest.raises(DataError, match=r"weights in pytorch_model.bin, a pickle, .* write it again with save_"):
        load(folder)


def test_a_pickle_beside_safetensors_is_not_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    RewardModel.load(folder)


@pytest.mark.parametrize("load", [RewardModel.load, lambda folder: load_base(str(folder), 64)])
def test_code_that_comes_with_a_model_does_not_run(folder: Path, load: Any) -> None:
    (folder / "own.py").write_text(MARK)
    change(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "own.Own"}, model_type="own")
    with pytest.raises(DataError, match=r"comes with code of its own \(auto_map in config.json\), which is never run"):
        load(folder)
    assert not (folder / "it-ran").exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(folder: Path) -> None:
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    with pytest.raises(DataError, match=r"auto_map in tokenizer_config.json"):
        RewardModel.load(folder)


def test_a_base_whose_architecture_transformers_has_is_loaded_without_its_code(tiny: str, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    (base / "own.py").write_text(MARK)
    change(base / "config.json", auto_map={"AutoModelForSequenceClassification": "own.Own"})
    load_base(str(base), 64)
    assert not (base / "it-ran").exists()
    with pytest.raises(DataError, match="comes with code of its own"):
        RewardModel.load(base)


def test_the_switches_are_off() -> None:
    assert SAFE == {"trust_remote_code": False, "use_safetensors": True}
