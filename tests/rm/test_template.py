from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from labeling.errors import DataError
from rm.template import PROBE, render, repaired

DIALOGUE = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris\n"},
]


def load(path: str) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(path)
    return tokenizer


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_repaired_template_ends_exactly_at_the_end_token_and_pads_with_another(
    bases: dict[str, str], name: str
) -> None:
    tokenizer = repaired(load(bases[name]))
    text = render(tokenizer, [DIALOGUE])[0]
    assert text.endswith(f"Paris\n{tokenizer.eos_token}")
    assert tokenizer(text)["input_ids"].count(tokenizer.eos_token_id) == 3
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize("name", ["bert", "llama", "qwen3"])
def test_a_repaired_tokenizer_adds_no_special_tokens_of_its_own(bases: dict[str, str], name: str) -> None:
    tokenizer = repaired(load(bases[name]))
    text = render(tokenizer, [DIALOGUE])[0]
    assert tokenizer(text)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_encoder_reads_prompt_and_response_between_its_separators(bases: dict[str, str]) -> None:
    assert render(repaired(load(bases["bert"])), [PROBE]) == ["[CLS]Hi[SEP]Hello[SEP]"]


@pytest.mark.parametrize("form", ['strftime_now("%d %b %Y")', "strftime_now( '%d %b %Y' )"])
def test_a_template_that_writes_the_date_writes_the_same_on_every_day(bases: dict[str, str], form: str) -> None:
    tokenizer = load(bases["qwen3"])
    dated = "{% if strftime_now is defined %}{{ 'Today Date: ' + " + form + " + '\n' }}{% endif %}"
    tokenizer.chat_template = dated + str(tokenizer.chat_template)
    assert render(repaired(tokenizer), [PROBE])[0].startswith("Today Date: 26 Jul 2024\n")


def test_an_encoder_is_told_of_roles_that_do_not_alternate(bases: dict[str, str]) -> None:
    assert render(repaired(load(bases["bert"])), [DIALOGUE])[0].startswith("[CLS]system: Be kind.[SEP]What")


def test_a_decoder_without_template_gets_one_with_its_own_tokens(bases: dict[str, str]) -> None:
    tokenizer = repaired(load(bases["llama"]))
    assert render(tokenizer, [PROBE]) == ["<s><|user|>\nHi</s>\n<|assistant|>\nHello</s>"]
    assert tokenizer.apply_chat_template(
        list(PROBE[:1]), tokenize=False, add_generation_prompt=True
    ) == "<s><|user|>\nHi</s>\n<|assistant|>\n"  # fmt: skip


def test_a_repaired_template_prompts_for_generation_as_before(bases: dict[str, str]) -> None:
    original = load(bases["qwen3"])
    before = original.apply_chat_template(list(PROBE[:1]), tokenize=False, add_generation_prompt=True)
    after = repaired(load(bases["qwen3"])).apply_chat_template(
        list(PROBE[:1]), tokenize=False, add_generation_prompt=True
    )
    assert after == before
    assert before.endswith("assistant\n")


def test_a_pad_token_of_the_vocabulary_is_preferred_to_a_new_one(bases: dict[str, str]) -> None:
    assert repaired(load(bases["qwen3"])).pad_token == "<|endoftext|>"
    assert repaired(load(bases["llama"])).pad_token == "<|pad|>"


def test_the_end_of_turn_of_a_template_becomes_the_end_token(bases: dict[str, str]) -> None:
    tokenizer = load(bases["qwen3"])
    tokenizer.eos_token = "<|endoftext|>"
    fixed = repaired(tokenizer)
    assert fixed.eos_token == "<|im_end|>"


def test_a_template_that_never_ends_is_closed(bases: dict[str, str]) -> None:
    tokenizer = load(bases["llama"])
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    assert render(repaired(tokenizer), [PROBE]) == ["Hi\nHello</s>"]


def test_repairing_twice_changes_nothing_more(bases: dict[str, str]) -> None:
    once = repaired(load(bases["qwen3"]))
    template = once.chat_template
    assert repaired(once).chat_template == template


def test_a_tokenizer_without_end_token_is_an_error(bases: dict[str, str]) -> None:
    tokenizer = load(bases["llama"])
    tokenizer.eos_token = None
    with pytest.raises(DataError, match=r"no end token: set tokenizer\.eos_token"):
        repaired(tokenizer)


def test_a_conversation_the_template_refuses_is_named_with_its_roles(bases: dict[str, str]) -> None:
    tokenizer = repaired(load(bases["bert"]))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(DataError, match=r"refuses conversation 1 \(roles: system, user, assistant\): no system role"):
        render(tokenizer, [PROBE, DIALOGUE])
