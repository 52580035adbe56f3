# Both targets install into .venv first, when something they depend on has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
GATE := $(BIN)/pytest --memscan-only --memscan-cache-dir=.memscan/cache

.PHONY: demo test
.DEFAULT_GOAL := demo

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# The first checkpoint must fail (exit code 1) and the second must pass.
demo: $(INSTALLED)
	$(GATE) --memscan builtin:leaky --memscan-report json:.memscan/leaky.json --memscan-report html:.memscan/leaky.html; test $$? -eq 1
	$(GATE) --memscan builtin:clean --memscan-report json:.memscan/clean.json --memscan-report html:.memscan/clean.html

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal
