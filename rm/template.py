"""Chat templates repaired so that every consumer of a reward model prepares the same text.

The same weights give different rewards where a template ends in `<|im_end|>\\n` and one side strips the newline, where
the pad token is the end token, or where one side adds special tokens to a text that has them; and other rewards
tomorrow where a template writes the date of the day. So: the template carries all special tokens and ends exactly at
the end token, the tokenizer adds none of its own, the pad token is another, and the date is always the same.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence

import jinja2
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from labeling.errors import DataError
from labeling.pairs import Message

ENCODER_TEMPLATE = (
    "{{ cls_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}{{ message['role'] + ': ' }}{% endif %}"
    "{{ message['content'] + sep_token }}{% endfor %}"
)
"""[CLS]prompt[SEP]response[SEP]; turns alternate, so only other roles (system, tool) are named."""

DECODER_TEMPLATE = (
    "{{ bos_token if bos_token is defined and bos_token != eos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)
"""For decoders that come without a template: roles as plain text, every turn closed by the end token."""

PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
"""How a template asks for the date of the day."""
DATE = datetime.date(2024, 7, 26)
"""What it is told instead: the date that Llama 3.1's template has of its own."""
PROBE: tuple[Message, ...] = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})


def repaired(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the same vocabulary whose template, end token, pad token and padding suit a reward model.

    A template that writes the date of the day writes 26 July 2024, in the form it asks for.

    Raises DataError where there is no fast tokenizer or no end token. A pad token is added to the vocabulary only where
    none of `PAD_TOKENS` is there; the model's embeddings must then be resized.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"{type(tokenizer).__name__} has no tokenizer.json; convert it to a fast tokenizer first")
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    backend.no_truncation()
    backend.no_padding()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="left",
        **_special_tokens(tokenizer),
    )
    fast.chat_template = TODAY.sub(lambda asked: repr(DATE.strftime(asked[2])), _template(tokenizer))
    if fast.eos_token is None:
        fast.eos_token = fast.sep_token
    if fast.eos_token is None:
        raise DataError("the tokenizer has no end token: set tokenizer.eos_token and save it with the base model")
    _end_at_eos(fast)
    _own_pad_token(fast)
    return fast


def render(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Return each conversation as text, special tokens included.

    Raises DataError giving the number among these of the first conversation that the tokenizer's template refuses.
    """
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template; a model written by rm.train has one")
    texts = []
    for number, conversation in enumerate(conversations):
        try:
            texts.append(str(tokenizer.apply_chat_template([dict(turn) for turn in conversation], tokenize=False)))
        except jinja2.TemplateError as error:
            roles = ", ".join(turn["role"] for turn in conversation)
            raise DataError(
                f"the model's chat template refuses conversation {number} (roles: {roles}): {error}; "
                "change the conversation's roles, or the chat template of the base model"
            ) from None
    return texts


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, str]:
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    tokens = tokenizer.special_tokens_map
    return {name: str(tokens[name]) for name in names if tokens.get(name)}


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template:
        return str(tokenizer.get_chat_template())
    return ENCODER_TEMPLATE if tokenizer.cls_token and tokenizer.sep_token else DECODER_TEMPLATE


def _end_at_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    text = render(tokenizer, [PROBE])[0]
    last = tokenizer.convert_ids_to_tokens(tokenizer(text.strip())["input_ids"])[-1]
    closing = ""
    if last in tokenizer.get_added_vocab():  # a template's own end of turn (<|im_end|>) is the end that matters
        tokenizer.eos_token = last
    elif last != tokenizer.eos_token:
        closing = "{{ eos_token }}"
    if closing or text != text.strip():
        template = tokenizer.chat_template
        tokenizer.chat_template = (
            f"{{% set conversation %}}{template}{{% endset %}}{{% if add_generation_prompt %}}{{{{ conversation }}}}"
            f"{{% else %}}{{{{ conversation | trim }}}}{closing}{{% endif %}}"
        )


def _own_pad_token(tokenizer: PreTrainedTokenizerFast) -> None:
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    if tokenizer.pad_token is not None and tokenizer.pad_token not in taken:
        return
    known = tokenizer.get_vocab()
    free = [token for token in PAD_TOKENS if token in known and token not in taken]
    if free:
        tokenizer.pad_token = free[0]
    else:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKENS[2]})
