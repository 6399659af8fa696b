"""What tests of vLLM share: its settings, SmolLM2 in vLLM in this process, and vLLM's server beside it.

Everything in this folder is slow, is skipped where there is no vLLM, and may warn: vLLM and what it brings warn of much
that is theirs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
NO_VLLM = importlib.util.find_spec("vllm") is None
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""One process, 1 GB for keys and values, no spinning threads, no network."""
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
READY_S = 240
"""How long a server may take until it answers, on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.skipif(NO_VLLM, reason="no vLLM here; run `make test-vllm`"))
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def vllm_settings() -> Iterator[None]:
    """vLLM's settings, which it reads when it is first imported; no proxy stands before a server on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        for name in PROXIES:
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def adapter(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of rank 4 on the query projections, of random weights, as peft writes one."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((smollm2_folder / "config.json").read_text())
    draw, weights = torch.Generator().manual_seed(0), {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(4, config["hidden_size"], generator=draw) * 0.1
        weights[f"{name}.lora_B.weight"] = torch.randn(config["hidden_size"], 4, generator=draw) * 0.1
    made = tmp_path_factory.mktemp("adapters") / "tilted"
    made.mkdir()
    save_file(weights, made / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (made / "adapter_config.json").write_text(json.dumps(facts))
    return made


@pytest.fixture(scope="session")
def tilted(smollm2_folder: Path, adapter: Path) -> Any:
    """VLLMEngine of SmolLM2 in float32, up to 1,024 tokens, with the adapter."""
    from labeling.vllm_engine import VLLMEngine

    return VLLMEngine.load(smollm2_folder, dtype="float32", max_model_len=1024, adapter=adapter)


@pytest.fixture(scope="session")
def vllm_fp32(tilted: Any) -> Any:
    """The same vLLM without the adapter."""
    from labeling.vllm_engine import VLLMEngine

    return VLLMEngine(tilted.llm, "plain")


@dataclass(frozen=True)
class Server:
    """vLLM's OpenAI-compatible server in a process of its own."""

    url: str
    """Ends in /v1."""
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it, also where it does not listen any more."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def serve_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start `vllm.entrypoints.openai.api_server` on a free port of loopback; ended with the tests."""
    begun: list[Server] = []

    def start(model: Path, *options: str) -> Server:
        port = free_port()
        log = tmp_path_factory.mktemp("server") / "log.txt"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", *options]
        with log.open("wb") as said:
            process = subprocess.Popen(command, env=server_environment(os.environ), stdout=said, stderr=said)
        begun.append(Server(f"http://127.0.0.1:{port}/v1", process))
        wait_until_ready(f"http://127.0.0.1:{port}/health", process, log)
        return begun[-1]

    yield start
    for server in begun:
        server.stop()


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.lower() not in PROXIES} | SETTINGS


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if opener.open(url, timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    process.kill()
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(
        f"vLLM's server is not ready after {READY_S} s, or has ended ({process.poll()}); it said: {tail}"
    )
