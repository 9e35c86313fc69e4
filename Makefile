# `make help` lists the targets. Nothing outside this folder is written except pip's cache.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MODEL := models/all-MiniLM-L6-v2
SMOLLM2 := models/SmolLM2-135M-Instruct
MPNET := models/all-mpnet-base-v2
# One thread a party, as the measurements assume; the environment overrides.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1
# Tests at the same time.
JOBS ?= 2
PYTEST = $(BIN)/pytest --durations=10
# Neighbours in a file share what they set up; who has finished takes work from the others.
BESIDE = -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install model model-smollm2 model-mpnet run generate check test test-fast test-slow clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## create .venv with the project and its pinned dependencies

model: $(MODEL)/1_Pooling/config.json  ## fetch all-MiniLM-L6-v2 into models/

model-smollm2: $(SMOLLM2)/SmolLM2-135M-Instruct.Q4_1.gguf  ## fetch SmolLM2-135M-Instruct into models/

model-mpnet: $(MPNET)/1_Pooling/config.json  ## fetch all-mpnet-base-v2 into models/

generate: install model-smollm2  ## a private answer of configs/smollm2.yaml between two local processes
	$(BIN)/hybrid generate configs/smollm2.yaml

run: install model  ## private inference of configs/minilm.yaml between two local processes
	$(BIN)/hybrid run configs/minilm.yaml

check: $(VENV)/.tested  ## lint, format, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check model  ## check, then all tests but the slow ones
	$(PYTEST) $(BESIDE) -m "not slow and not alone"
	$(PYTEST) -m "alone and not slow"

test-fast: $(VENV)/.tested model  ## units, small contracts and one private inference, minutes
	$(PYTEST) $(BESIDE) -m "not long and not slow and not alone"
	$(PYTEST) -m smoke

test-slow: check model  ## check, then all tests
	$(PYTEST) $(BESIDE) -m "not slow and not alone"
	$(PYTEST) -m "slow or alone"

clean:  ## remove .venv and caches; the model and reports stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps live in .venv and go with it. --no-deps: the pins are the whole closure.
$(VENV)/.pinned: requirements/lock.txt | $(VENV)/bin/python
	$(PIP) install --quiet --no-deps -r requirements/lock.txt
	@$(BIN)/python -c 'import torch' || \
	  { echo "torch: this build needs CUDA libraries; give pip the index of CPU builds that" \
	    "pytorch.org names (PIP_EXTRA_INDEX_URL), then: make clean install" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml setup.py $(VENV)/.pinned
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.tested: requirements/test.txt $(VENV)/.installed
	$(PIP) install --quiet --no-deps -r requirements/test.txt
	@touch $@

# The last file that the fetch puts in place.
$(MODEL)/1_Pooling/config.json: | $(VENV)/.installed
	$(BIN)/hybrid fetch minilm $(MODEL)

$(SMOLLM2)/SmolLM2-135M-Instruct.Q4_1.gguf: | $(VENV)/.installed
	$(BIN)/hybrid fetch smollm2 $(SMOLLM2)

$(MPNET)/1_Pooling/config.json: | $(VENV)/.installed
	$(BIN)/hybrid fetch mpnet $(MPNET)
