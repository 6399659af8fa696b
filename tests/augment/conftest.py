"""Fixtures for augment: small pairs and the votes on them; a server of a language model that answers by rule."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.evolve_method import Ground
from labeling.pairs import MESSAGES, SCHEMA, Pairs, pair_id, prompt_id
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


@dataclass
class Server:
    """A real HTTP server that speaks OpenAI's chat completions and answers by a hash of the question."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    says: Callable[[str, int], str] = lambda content, seed: f"{seed} of {len(content)} characters. Score: {seed % 6}"
    pause_s: float = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        time.sleep(self.pause_s)
        content, seed = request["messages"][-1]["content"], request.get("seed", 0)
        text = self.says(content, seed) if request["max_tokens"] > 1 else "A"
        log_p = -0.01 - hashlib.sha256(content.encode()).digest()[0] / 100
        both = {"A": log_p, "B": math.log(-math.expm1(log_p))} if "top_logprobs" in request else {}
        top = [{"token": letter, "logprob": p, "bytes": None} for letter, p in both.items()]
        token = {"token": "A", "logprob": log_p, "bytes": None, "top_logprobs": top}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 9, "completion_tokens": len(text.split()), "total_tokens": 9 + len(text.split())}
        kind = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
        return kind | {"choices": [choice | {"logprobs": {"content": [token]}}], "usage": usage}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 65536

        def do_POST(self) -> None:
            body = json.dumps(found.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))).encode()
            with contextlib.suppress(OSError):  # the client was killed
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that was killed
            pass

    listening = Quiet(("127.0.0.1", 0), Handler)
    found = Server(f"http://127.0.0.1:{listening.server_address[1]}/v1")
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    listening.shutdown()
    listening.server_close()


def _write_pairs(path, n=60, labelled=40, first=0):
    """Pairs of a short and a long answer, the long one preferred; some are labelled."""
    rng = np.random.default_rng(first)
    rows = []
    for i in range(first, first + n):
        short, long = f"Answer {i}.", f"Answer {i}, with {'many ' * (i % 7 + 3)}words and 12 reasons."
        a_is_long = rng.random() < 0.5
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"Question {i // 2}?"}],
                "response_a": long if a_is_long else short,
                "response_b": short if a_is_long else long,
                "gold": float(a_is_long) if i < first + labelled else None,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def write_pairs():
    return _write_pairs


@pytest.fixture
def fails(capsys):
    """Run a command, and return the one line on stderr of a run that must end in 2."""
    from augment.cli import main

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run


@pytest.fixture
def over_http(server):
    """Options that name the server's model."""
    return ["--engine", "openai", "--model", "m", "--base-url", server.url]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A random BERT of two layers, with a tokenizer of letters."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.?"
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, initializer_range=0.2, **size)
        BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def voted_ground(make_pairs: Callable[..., Pairs]) -> Callable[[int, int], Ground]:
    """Build a ground of n pairs, so many a prompt, A preferred in every second, 60 of them the seed; three voters."""

    def build(n: int, per_prompt: int) -> Ground:
        prompts = [[{"role": "user", "content": f"Question {i // per_prompt}?"}] for i in range(n)]
        pairs = make_pairs([(prompt, f"one {i}", f"other {i}") for i, prompt in enumerate(prompts)])
        true = (np.arange(n) % 2 == 0).astype(float)
        right = np.random.default_rng(0).random((n, 3)) < 0.7
        votes = np.where(right, 1 - true[:, None], true[:, None]).astype(np.int8)
        matrix = VoteMatrix(votes, np.full((n, 3), np.nan, np.float32), ("x", "y", "z"), pairs.pair_ids, pairs.groups)
        seed = np.where(np.arange(n) < 60, true, np.nan)
        return Ground(pairs.with_gold(seed), np.zeros(n, dtype=bool), true, matrix)

    return build


def _candidates(texts, reasons=None):
    prompts = [[{"role": "user", "content": f"Name colour {i}."}] for i in range(2) for _ in texts]
    return pa.table(
        {
            "prompt": pa.array(prompts, MESSAGES),
            "prompt_id": [prompt_id(prompt) for prompt in prompts],
            "response": texts * 2,
            "sample": pa.array([*range(len(texts))] * 2, pa.int32()),
            "model": ["m"] * len(prompts),
            "finish_reason": (reasons or ["stop"] * len(texts)) * 2,
        }
    )


@pytest.fixture(scope="session")
def candidates():
    """Make a table of candidates: two prompts with the same texts."""
    return _candidates
