"""Fixtures for augment: small pairs and the votes on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labeling.pairs import SCHEMA, Pairs, pair_id, prompt_id
from labeling.votes import VoteMatrix

Turns = list[dict[str, str]]


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Pairs]:
    """Build pairs from (prompt turns, response_a, response_b) and gold labels (None = unlabelled)."""

    def build(rows: Sequence[tuple[Turns, str, str]], gold: Sequence[float | None] | None = None) -> Pairs:
        gold = [None] * len(rows) if gold is None else gold
        records = [
            {
                "pair_id": pair_id(prompt, a, b),
                "prompt": prompt,
                "response_a": a,
                "response_b": b,
                "gold": label,
                "annotator_votes": None,
                "group": prompt_id(prompt),
                "source": "made-up",
            }
            for (prompt, a, b), label in zip(rows, gold, strict=True)
        ]
        return Pairs(pa.Table.from_pylist(records, schema=SCHEMA), {})

    return build


@pytest.fixture(scope="session")
def six_pairs(make_pairs: Callable[..., Pairs]) -> Pairs:
    """Six pairs: two gold (A wins, B wins), one gold tie, three unlabelled; one with a system turn, one a dialogue."""
    prompts: list[Turns] = [[{"role": "user", "content": f"Question {i} about colours?"}] for i in range(6)]
    prompts[1] = [{"role": "system", "content": "Be brief."}, *prompts[1]]
    prompts[4] = [*prompts[4], {"role": "assistant", "content": "Which one?"}, {"role": "user", "content": "Blue."}]
    rows = [(prompt, f"Good answer {i}.", f"Bad answer, number {i}.") for i, prompt in enumerate(prompts)]
    return make_pairs(rows, [1.0, 0.0, 0.5, None, None, None])


@pytest.fixture(scope="session")
def six_votes(six_pairs: Pairs) -> VoteMatrix:
    """Votes of two voters on the six pairs: one votes with margins, one without, abstaining on the last."""
    votes = np.asarray([[0, 0], [1, 0], [0, 1], [0, 0], [1, 1], [1, -1]], dtype=np.int8)
    margins = np.full((6, 2), np.nan, dtype=np.float32)
    margins[:, 0] = [2.0, -1.0, 0.0, 0.5, -0.25, -4.0]
    return VoteMatrix(votes, margins, ("longer", "polite"), six_pairs.pair_ids)


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tiny_policy(folder: Path, seed: int) -> Path:
    """A random Llama that reads and writes bytes, with a ChatML template and the end token for padding."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    backend.add_special_tokens(special)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end = "<|im_end|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end, chat_template=CHATML)
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = LlamaConfig(
        vocab_size=len(fast), num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
        bos_token_id=None, eos_token_id=fast.eos_token_id, pad_token_id=fast.eos_token_id, **sizes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random causal language model as a folder."""
    return _tiny_policy(tmp_path_factory.mktemp("policy"), 0)


@pytest.fixture(scope="session")
def other_policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return _tiny_policy(tmp_path_factory.mktemp("other"), 1)


@pytest.fixture(scope="session")
def rm_folders(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two reward models with random heads on the tiny policy."""
    import torch

    from rm.model import load_base

    folders = []
    for seed in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, tokenizer = load_base(str(policy_folder), 256)
        folders.append(tmp_path_factory.mktemp(f"rm{seed}"))
        model.save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    return folders
