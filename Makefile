PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test test-long check bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with the pinned versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## caption the demo shards with the shipped checkpoint, then print a summary
	$(BIN)/deed demo

test: setup  ## unit tests, and beside them integration tests with a real local Ray
	$(BIN)/python -m tests

test-long: setup  ## the same tests with several times the examples, seeds and sequences
	LONG_TESTS=1 $(BIN)/python -m tests

check: setup  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## measure the engine on this machine
	$(BIN)/deed bench engine --config conf/bench-quick.yaml

clean:  ## remove what runs made, keep what was installed
	rm -rf runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
