"""Tiny random base models with real tokenizers, and training files in the universal layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from labeling.pairs import MESSAGES, SCHEMA, Pairs, pair_id, prompt_id
from rm.config import RewardConfig
from rm.sources import MixedPairs, training_pairs
from rm.template import repaired

TEXT = [
    "What is the capital of France? The capital is Paris, of course.",
    "user assistant system: please name three colours - red, green and blue! I do not know, sorry.",
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
Row = tuple[list[dict[str, str]], str, str]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _bert(folder: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Vocabularies are listed, not trained: training gives another one in every process.
    letters = sorted(set("".join(TEXT).lower()) - {" "})
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pair)
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=200, max_position_embeddings=128, initializer_range=0.2, **SIZES)).save_pretrained(
        folder
    )


def _byte_tokenizer(special: Sequence[str]) -> Tokenizer:
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _llama(folder: Path) -> None:
    """No chat template, no pad token, and a tokenizer that adds BOS by itself."""
    tokenizer = _byte_tokenizer(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), num_key_value_heads=2, **SIZES)).save_pretrained(folder)


def _qwen3(folder: Path) -> None:
    """A ChatML template that ends in a newline, and the end token for padding."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_byte_tokenizer(names), eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=CHATML
    )
    fast.save_pretrained(folder)
    config = Qwen3Config(vocab_size=len(fast), num_key_value_heads=2, head_dim=8, **SIZES)
    Qwen3ForCausalLM(config).save_pretrained(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {"bert": _bert, "llama": _llama, "qwen3": _qwen3}


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of tiny random base models by architecture: bert, llama, qwen3."""
    folders = {}
    for name, build in BUILDERS.items():
        folder = tmp_path_factory.mktemp(name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture(scope="session")
def tiny(bases: dict[str, str]) -> str:
    return bases["bert"]


def _conversations(n: int) -> list[Row]:
    names = ["red", "green", "blue", "three colours", "Paris", "the capital of France", "sorry"]
    rows = []
    for i in range(n):
        prompt = [{"role": "user", "content": f"Please name {names[i % 7]} {i}?"}]
        rows.append(
            (prompt, f"of course: {names[i % 5]} and {names[i % 3]}", f"I do not know {names[i % 4]}" * (i % 3))
        )
    return [(prompt, good, bad or "no") for prompt, good, bad in rows]


@pytest.fixture(scope="session")
def conversations() -> Callable[[int], list[Row]]:
    """Build n different (prompt turns, chosen, rejected) of varied length."""
    return _conversations


@pytest.fixture
def universal(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (prompt turns, chosen, rejected) and any extra columns as one file in the universal layout."""

    def write(rows: Sequence[Row], name: str = "train.parquet", **columns: Sequence[Any]) -> Path:
        table = pa.table(
            {
                side: pa.array([[*row[0], {"role": "assistant", "content": row[k]}] for row in rows], MESSAGES)
                for k, side in ((1, "chosen"), (2, "rejected"))
            }
            | {column: pa.array(values) for column, values in columns.items()}
        )
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def as_pairs() -> Callable[..., Pairs]:
    """Turn rows (prompt turns, chosen, rejected) into pairs, with gold labels (default: A preferred)."""

    def build(rows: Sequence[Row], gold: Sequence[float | None] | None = None) -> Pairs:
        labels = [1.0] * len(rows) if gold is None else gold
        records = [
            {
                "pair_id": pair_id(prompt, a, b), "prompt": prompt, "response_a": a, "response_b": b, "gold": label,
                "annotator_votes": None, "group": prompt_id(prompt), "source": "test",
            }
            for (prompt, a, b), label in zip(rows, labels, strict=True)
        ]  # fmt: skip
        return Pairs(pa.Table.from_pylist(records, schema=SCHEMA), {})

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    return repaired(AutoTokenizer.from_pretrained(tiny))


@pytest.fixture
def tokenised(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., MixedPairs]:
    """Tokenise files in the universal layout with the tiny encoder's tokenizer, as a config's options say."""

    def build(*sources: Path, **options: Any) -> MixedPairs:
        config = RewardConfig("tiny", **({"max_length": 128} | options))
        return training_pairs(sources, tiny_tokenizer, config, tmp_path / "cache")

    return build
