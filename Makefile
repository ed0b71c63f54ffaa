# `make run` runs the quickstart sweep, `make test` the fast tests. The first call creates a virtual environment in .venv;
# PYTHON selects its interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test slow cluster-test lint format ui clean constraints

run: $(VENV)/.installed
	$(BIN)/python -m fedsmu_ray.tune

ui: $(VENV)/.installed
	$(BIN)/python -m fedsmu_ray.ui

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow and not cluster"

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# A Ray cluster on three hosts made of namespaces; needs root, iproute2, openssh-server and rsync.
cluster-test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m cluster tests/cluster

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: $(VENV)/.installed-test
	$(BIN)/python clusters/constraints.py > constraints.txt.new && mv constraints.txt.new constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e ".[test]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
