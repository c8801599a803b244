# Melete's commands. Each of them sets up what it needs: Python 3.11 or newer, git and make are enough.
#
# pip is called plainly, so your own pip settings (index, mirror, wheels, proxy) hold here too.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two cores are used best by two processes of one thread each; more threads would fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs bench bench-gpu bars-main-job bars-encoders bars-tasks bars-speed bars-seq2seq

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s%s\n", $$1, $$2 }'

demo: $(VENV)/installed ## train a small GPT on Python's own source (4 minutes), and write a page about it
	$(BIN)/melete demo $(ARGS)

test: $(VENV)/installed-dev ## the fast tests (up to 4 minutes on 2 cores)
	$(PYTEST) -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: $(VENV)/installed-dev ## the long proofs: kill and resume, learning, memory
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/installed-dev ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/installed ## write the pages that are made from the code
	$(BIN)/python tools/cli_reference.py

bench: $(VENV)/installed-bench ## measure the parts, each beside a peer
	@for file in $(filter-out benchmarks/bars_% benchmarks/bench_gpu.py,$(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done

bench-gpu: $(VENV)/installed-dev ## training, decoding and encoding on an NVIDIA GPU, beside peers; without one a check
	$(BIN)/python benchmarks/bench_gpu.py $(ARGS)

bars-main-job: $(VENV)/installed-dev ## re-run the measured promises of the main job (up to 75 minutes)
	$(BIN)/python benchmarks/bars_main_job.py $(ARGS)

bars-encoders: $(VENV)/installed-dev ## re-run the measured promises of the encoders (up to 75 minutes)
	$(BIN)/python benchmarks/bars_encoders.py $(ARGS)

bars-tasks: $(VENV)/installed-dev ## re-run the measured promises of fine-tuning, a chosen half (up to 75 minutes)
	$(BIN)/python benchmarks/bars_tasks.py $(ARGS)

bars-speed: $(VENV)/installed-bench ## re-run the measured promises of speed (up to 75 minutes)
	$(BIN)/python benchmarks/bars_speed.py $(ARGS)

bars-seq2seq: $(VENV)/installed-bench ## re-run the measured promises of translation: Multi30k and decoding (up to 75 minutes)
	$(BIN)/python benchmarks/bars_seq2seq.py $(ARGS)

# An environment of our own. The stamps are older than the file they stand for exactly when it has changed since.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV), once. PyTorch is most of it: a few minutes, depending on your line."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: benchmarks/requirements.txt $(VENV)/installed-dev
	$(BIN)/python -m pip install -r benchmarks/requirements.txt
	@touch $@
