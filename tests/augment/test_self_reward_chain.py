"""Self-rewarding as a chain: which model writes, grades and is trained in each iteration; which run a folder holds."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from augment.dpo import PolicyConfig
from augment.self_reward import SelfReward, begin
from labeling.errors import DataError

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(4)]


def weights(folder, content):
    """A folder that holds no more of a model than the name of its file."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_a_run_knows_its_models_by_what_is_in_them_not_by_the_names_of_folders(tmp_path) -> None:
    ours, other = weights(tmp_path / "a" / "model", b"one"), weights(tmp_path / "b" / "model", b"two")
    begin(tmp_path / "run", PROMPTS, str(ours), SelfReward())
    begin(tmp_path / "run", PROMPTS, str(shutil.copytree(ours, tmp_path / "moved")), SelfReward())
    with pytest.raises(DataError, match=r"a run with other model \(model is \w{12} there and \w{12} here\)"):
        begin(tmp_path / "run", PROMPTS, str(other), SelfReward())
    based = SelfReward("cream", base=str(other))
    begin(tmp_path / "cream", PROMPTS, str(ours), based)
    third = weights(tmp_path / "c" / "model", b"three")
    with pytest.raises(DataError, match="holds a run with other base"):
        begin(tmp_path / "cream", PROMPTS, str(ours), replace(based, base=str(third)))
    with pytest.raises(DataError, match="which the run starts from"):
        begin(tmp_path / "cream", PROMPTS, str(ours), replace(based, base=str(tmp_path / "moved")))


def test_models_on_the_hub_are_known_by_their_whole_name(tmp_path) -> None:
    begin(tmp_path / "run", PROMPTS, "mine/model", SelfReward())
    with pytest.raises(DataError, match=r"model is mine/model there and yours/model here"):
        begin(tmp_path / "run", PROMPTS, "yours/model", SelfReward())


def test_a_run_of_other_settings_says_which_and_what_they_were(tmp_path) -> None:
    begin(tmp_path / "run", PROMPTS, "m", SelfReward())
    changed = SelfReward(iterations=3, training=PolicyConfig(beta=0.2))
    with pytest.raises(DataError, match=r"other training\.beta \(training\.beta is 0\.1 there and 0\.2 here\)"):
        begin(tmp_path / "run", PROMPTS, "m", changed)
    begin(tmp_path / "run", PROMPTS, "m", SelfReward(iterations=3))
