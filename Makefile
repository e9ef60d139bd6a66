# Everything runs in a virtual environment that these rules make: .venv
PYTHON ?= python3
# The CPU build is enough for the demonstration and the tests. For a GPU: make demo TORCH=torch
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: help demo test check format gpu sanitize valgrind clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/demo.done  ## Install, generate click logs, train DLRM with full tables and with ROBE at 1000x, compare
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: .venv/dev.done  ## Install and run the tests
	$(BIN)/pytest

check: .venv/dev.done  ## Format, lint, types, imports between floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/dev.done  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Without network, installation or C++: with the packages of this machine's PYTHON, which needs torch, triton, pytest and
# hypothesis, and matplotlib for plots.
gpu: export PYTHONPATH := $(CURDIR)/src
gpu:  ## On a machine with a GPU: run the GPU tests, then all GPU benchmarks, into build/gpu
	@$(PYTHON) benchmarks/gpu.py --check
	$(PYTHON) -m pytest tests/ops/triton -p no:cacheprovider -W default
	$(PYTHON) benchmarks/gpu.py --out build/gpu

clean:  ## Remove the virtual environment and the demonstration
	rm -rf .venv demo

# torch goes first and alone, so that no other requirement picks another build of it.
.venv/torch.done:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	touch $@

.venv/demo.done: .venv/torch.done pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[plots]"
	touch $@

.venv/dev.done: .venv/torch.done pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

sanitize: .venv/dev.done  ## Run the kernels' tests under the address and undefined-behaviour sanitizers
	cmake -S . -B build/sanitize -DROBE_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitize --parallel
	ROBE_LIBRARY=$(CURDIR)/build/sanitize/_kernels.so LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 $(BIN)/pytest tests/ops tests/optim -p no:cacheprovider -s

valgrind: .venv/dev.done  ## Run a small set of lookups under valgrind; errors outside the kernels are Python's
	mkdir -p build
	ROBE_ISA=avx2 PYTHONMALLOC=malloc OMP_NUM_THREADS=1 valgrind --log-file=build/valgrind.log \
	$(BIN)/python tests/ops/valgrind_lookups.py
	! grep -B1 -A1 "_kernels" build/valgrind.log
