"""Every consumer gives the same reward, or `verify` says which does not and why: directories broken on purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from labeling.errors import DataError
from labeling.pairs import Pairs
from rm.consumers import CONSUMERS, Saved, Taken
from rm.handoff import save
from rm.model import RewardModel, load_base
from rm.trainer import is_head
from rm.verification import Checked, verify

Rows = Callable[[int], list[tuple[list[dict[str, str]], str, str]]]
ROOT = Path(__file__).resolve().parents[2]
TRANSFORMERS = ("transformers", "transformers pipeline", "TRL GRPO, RLOO", "TRL RewardTrainer", "rewardbench")
pytestmark = [pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")]


def saved(base: str, out: Path) -> Path:
    """Save a reward model whose head is random, and large, so that its rewards differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokenizer = load_base(base, 128)
    for name, parameter in model.named_parameters():
        if is_head(model, name):
            parameter.data *= 20
    save(RewardModel(model, tokenizer, 128), out)
    return out


@pytest.fixture
def qwen3(bases: dict[str, str], tmp_path: Path) -> Path:
    return saved(bases["qwen3"], tmp_path / "rm")


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def differing(folder: Path) -> dict[str, Checked]:
    return {one.consumer: one for one in verify(folder).checked if one.differs}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_all_consumers_agree_on_what_is_saved(bases: dict[str, str], name: str, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    result = verify(saved(bases[name], tmp_path / "rm"))
    assert result.agrees, result.text()
    assert result.n == 5
    assert [note.startswith("rewardbench pads on the left") for note in result.notes] == [True] * (name == "bert")
    asked = {one.consumer for one in result.checked if one.difference is not None}
    assert asked == {*TRANSFORMERS} | ({"OpenRLHF"} if name != "bert" else set())
    assert all(one.same_tokens for one in result.checked if one.difference is not None)


@pytest.mark.slow
def test_a_template_that_ends_in_a_newline_is_the_cause(qwen3: Path) -> None:
    template = qwen3 / "chat_template.jinja"
    template.write_text(template.read_text() + "{{ '\\n' }}")
    found = differing(qwen3)
    assert found.keys() == {"OpenRLHF"}
    assert "the chat template ends in '\\n' after the end token, which this consumer strips" in found["OpenRLHF"].reason


@pytest.mark.slow
def test_a_template_without_the_end_token_is_the_cause(qwen3: Path) -> None:
    (qwen3 / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")
    found = differing(qwen3)
    assert found.keys() == {"OpenRLHF"}
    assert "does not end in the end token (<|im_end|>), so this consumer adds" in found["OpenRLHF"].reason


@pytest.mark.slow
def test_a_pad_token_that_is_the_end_token_is_the_cause(qwen3: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen3)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(qwen3)
    change(qwen3 / "config.json", pad_token_id=tokenizer.eos_token_id)
    found = differing(qwen3)
    assert found.keys() == {*TRANSFORMERS}
    assert all("the pad token is the end token (<|im_end|>)" in one.reason for one in found.values())


@pytest.mark.slow
def test_a_tokenizer_without_pad_token_is_scored_and_the_cause(qwen3: Path) -> None:
    settings = qwen3 / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(settings.read_text()).items() if name != "pad_token"}
    settings.write_text(json.dumps(kept))
    change(qwen3 / "config.json", pad_token_id=None)
    pytest.importorskip("trl")
    found = differing(qwen3)
    assert "transformers" not in found
    assert found["TRL GRPO, RLOO"].reason.startswith("there is no pad token, and it takes for one the end token")


@pytest.mark.slow
def test_a_tokenizer_that_adds_bos_again_is_the_cause(bases: dict[str, str], tmp_path: Path) -> None:
    folder = saved(bases["llama"], tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save_pretrained(folder)
    found = differing(folder)
    assert found.keys() == {"transformers pipeline", "rewardbench"}
    assert all("it adds '<s>' to a text that begins with '<s>': BOS twice" in one.reason for one in found.values())


@pytest.mark.slow
def test_an_encoder_whose_tokenizer_adds_cls_again_is_told_so(bases: dict[str, str], tmp_path: Path) -> None:
    folder = saved(bases["bert"], tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    both = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=both)
    tokenizer.save_pretrained(folder)
    found = differing(folder)
    assert found.keys() == {"transformers pipeline", "rewardbench"}
    assert all("it adds special tokens" in one.reason for one in found.values())


@pytest.mark.slow
def test_an_activation_is_the_cause(qwen3: Path) -> None:
    change(qwen3 / "config.json", problem_type=None)
    found = differing(qwen3)
    assert found.keys() == {"transformers pipeline"}
    assert "its activation is on (a sigmoid), since problem_type in config.json is None" in (
        found["transformers pipeline"].reason
    )


@pytest.mark.slow
def test_weights_in_bfloat16_are_the_cause(qwen3: Path) -> None:
    weights = load_file(qwen3 / "model.safetensors")
    save_file(
        {name: tensor.bfloat16() for name, tensor in weights.items()},
        qwen3 / "model.safetensors",
        metadata={"format": "pt"},
    )
    change(qwen3 / "config.json", dtype="bfloat16")
    found = differing(qwen3)
    assert set(TRANSFORMERS) <= found.keys()
    assert all("it computes in bfloat16, the dtype in config.json" in one.reason for one in found.values())


def test_a_model_without_a_score_head_is_refused(bases: dict[str, str]) -> None:
    with pytest.raises(DataError, match="is no reward model: expected a score head with 1 output"):
        verify(bases["qwen3"])


def test_nothing_to_compare_is_no_agreement(qwen3: Path, as_pairs: Callable[..., Pairs]) -> None:
    pairs = as_pairs([([{"role": "user", "content": "Please! " * 50}], "yes", "no")])
    with pytest.raises(DataError, match="none of 2 conversations can be compared: expected some of at most 128 tokens"):
        verify(qwen3, pairs)
    with pytest.raises(DataError, match="none of 0 conversations can be compared"):
        verify(qwen3, pairs, limit=0)


@pytest.mark.slow
def test_real_pairs_are_scored_and_over_long_ones_left_out_with_a_note(
    qwen3: Path, conversations: Rows, as_pairs: Callable[..., Pairs]
) -> None:
    rows = conversations(3)
    rows.append(([{"role": "user", "content": "Please! " * 50}], "yes", "no"))
    change(qwen3 / "tokenizer_config.json", truncation_side="right")
    result = verify(qwen3, as_pairs(rows))
    assert (result.n, result.n_too_long, result.agrees) == (6, 2, True)
    assert "2 conversations over 128 tokens were left out" in result.text()
    assert "truncation_side in tokenizer_config.json is right" in result.text()


@pytest.mark.slow
def test_the_table_and_the_record_say_the_same(qwen3: Path) -> None:
    change(qwen3 / "config.json", problem_type=None)
    result = verify(qwen3)
    lines = {line.split("  ")[0]: line for line in result.text().splitlines()}
    assert "DIFFERS: its activation is on" in lines["transformers pipeline"]
    assert lines["TRL GRPO, RLOO"].endswith("agrees")
    assert "not run" in lines["vLLM, verl"]
    record = json.loads(json.dumps(result.record()))
    assert record["agrees"] is False
    assert [one["consumer"] for one in record["checked"] if one["differs"]] == ["transformers pipeline"]
    assert np.isfinite([one["difference"] for one in record["checked"] if one["difference"] is not None]).all()


def test_a_consumer_that_raises_is_a_failed_row_and_the_others_are_asked(
    qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(saved: Saved, rows: Any) -> Taken:
        raise TypeError("got an unexpected\n  keyword")

    monkeypatch.setitem(CONSUMERS, "rewardbench", ("", broken))
    result = verify(qwen3)
    checked = {one.consumer: one for one in result.checked}
    failed = checked["rewardbench"]
    assert (failed.failed, failed.differs, failed.difference) == (True, False, None)
    assert failed.reason == "TypeError: got an unexpected keyword"
    assert not result.agrees
    assert not any(one.failed for name, one in checked.items() if name != "rewardbench")
    assert checked["OpenRLHF"].difference is not None
    assert re.search(r"rewardbench .* failed .*TypeError: got an unexpected keyword", result.text())


def test_another_python_is_given_nothing_of_this_environment(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where weakpref is installed from a wheel, all of its environment lies beside it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\necho "told {qwen3.name}: PYTHONPATH [$PYTHONPATH], $1" >&2\nexit 1\n')
    other.chmod(0o755)
    checked = {one.consumer: one for one in verify(qwen3, vllm_python=str(other)).checked}
    said = checked["vLLM, verl"].reason
    assert "PYTHONPATH [], " in said
    assert said.endswith("/vllm_text.py")
    assert str(ROOT) not in said
