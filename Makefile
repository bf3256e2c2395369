# SPDX-License-Identifier: Apache-2.0
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= build

.DEFAULT_GOAL := help
.PHONY: help demo test test-models conformance check format bench accuracy clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.runtime: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	$(INSTALL) --editable '.[dev,torch]'
	@touch $@

demo: $(VENV)/.runtime ## compress and compile the digits network to WebAssembly, run it on MNIST
	$(BIN)/python -m sparsec.models.demo --output $(OUT)/demo

test: $(VENV)/.development ## run the tests (a test that lacks a tool skips and says which)
	$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist worksteal

test-models: $(VENV)/.development ## compile, run and score every real model (an hour)
	$(BIN)/python -m pytest -m slow

conformance: $(VENV)/.development ## run the whole ONNX backend test suite and write its table
	$(BIN)/python -m tests.conformance.table

check: $(VENV)/.development ## lint and type-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.development ## format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.development ## time against peers, side by side, and write the tables
	$(BIN)/python -m benchmarks

accuracy: $(VENV)/.development ## compress real models, measure them, and write the table (an hour or two)
	$(BIN)/python -m benchmarks.accuracy

clean: ## remove what the other targets made
	rm -rf $(OUT) $(VENV)
