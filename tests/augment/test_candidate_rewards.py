"""Consistency of reward models on the candidates of prompts: made-up ones, and two tiny real ones."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from augment.candidate_rewards import between_iterations, between_members, candidate_rewards
from augment.generate import generate
from labeling.consistency import kendall
from labeling.errors import DataError
from labeling.llm import Completion, Sampling
from labeling.pairs import MESSAGES, prompt_id
from rm import RewardModel

PROMPTS = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(2)]
TEXTS = [["red", "green", " ", "green", "blue!!"], ["a", "bb", None, "ccc", "dddd"]]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "align.md"


@pytest.fixture
def table():
    """Two prompts of five candidates; one each without a text, one twice the same; the prompts take turns."""
    rows = [(PROMPTS[p], TEXTS[p][i], i) for i in range(5) for p in range(2)]
    prompts, texts, samples = zip(*rows, strict=True)
    columns = {"prompt": pa.array(prompts, MESSAGES), "response": pa.array(texts), "model": ["m"] * 10}
    return pa.table(columns | {"sample": pa.array(samples, pa.int32())})


def model(score):
    return SimpleNamespace(score=lambda prompts, texts: np.array([float(score(text)) for text in texts]))


LONGER, SHORTER = model(len), model(lambda text: -len(text))


def test_models_are_compared_prompt_by_prompt_on_what_they_all_scored(table) -> None:
    first = model(lambda text: len(text) if text[0] in "rgb" else -len(text))  # the second prompt, but for bb, reversed
    rewards = candidate_rewards([LONGER, first, SHORTER], table)
    assert np.isnan(rewards).sum(axis=1).tolist() == [2, 2, 2]
    one, two = between_iterations(table, rewards)
    names = [prompt_id(prompt) for prompt in PROMPTS]
    for rate, (j, k) in zip((one, two), pairwise(rewards), strict=True):
        rows = [0, 2, 8], [1, 3, 7, 9]  # each text once, those that are blank left out
        assert rate.of(names).tolist() == pytest.approx([kendall(j[list(some)], k[list(some)]) for some in rows])
    assert (one.of(names[:1]), two.of(names[:1])) == ([1.0], [0.0])
    members = between_members(table, rewards)
    ends = between_iterations(table, rewards[[0, 2]])[0]
    assert members.of(names) == pytest.approx((one.of(names) + two.of(names) + ends.of(names)) / 3)


def test_a_candidate_that_one_model_cannot_score_is_left_out_of_both(table) -> None:
    rewards = candidate_rewards([LONGER, SHORTER], table)
    rewards[0, [0, 2, 6]] = np.nan  # of the first prompt one text is left, and nothing is said of it
    [rate] = between_iterations(table, rewards)
    assert rate.prompt_ids.tolist() == [prompt_id(PROMPTS[1])]
    assert rate.n_single == 1


def test_what_cannot_be_compared_is_refused(table) -> None:
    with pytest.raises(DataError, match="no reward models"):
        candidate_rewards([], table)
    with pytest.raises(DataError, match="rewards of 1 iterations, expected two"):
        between_iterations(table, candidate_rewards([LONGER], table))
    with pytest.raises(DataError, match="there are 1 members, expected two"):
        between_members(table, candidate_rewards([LONGER], table))
    with pytest.raises(DataError, match="expected the column prompt"):
        candidate_rewards([LONGER], pa.table({"response": ["a"]}))


class Writer:
    model = source = "writer"
    context = None

    def generate(self, prompts, sampling):
        return [[Completion("ab"[: i + 1] * 3, 3, -1.0, "stop") for i in range(sampling.n)] for _ in prompts]


@pytest.mark.slow
def test_the_example_of_the_document_runs_on_two_reward_models(rm_folders, tmp_path, monkeypatch, capsys) -> None:
    [code] = [block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "between_" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for i, folder in enumerate(rm_folders):
        (tmp_path / "runs" / f"rm{i}").symlink_to(folder)
    generate(PROMPTS, Writer(), "candidates.parquet", Sampling(n=2, temperature=1.0))
    found: dict = {}
    exec(code, found)
    alone = RewardModel.load(rm_folders[1]).score(PROMPTS, ["aaa", "aaa"])
    np.testing.assert_allclose(found["rewards"][1][[0, 2]], alone, rtol=1e-5)
    first, second = capsys.readouterr().out.splitlines()
    prefers = [
        RewardModel.load(rm).score(PROMPTS, ["aaa", "aaa"]) > RewardModel.load(rm).score(PROMPTS, ["ababab", "ababab"])
        for rm in rm_folders[:2]
    ]
    assert float(first.strip("[]")) == pytest.approx(np.mean(prefers[0] == prefers[1]))
    assert float(first.strip("[]")) == float(second)  # of two responses every rate says the same
