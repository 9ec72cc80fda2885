# The two commands for a fresh machine are `make demo` and `make test`; see `make help`.
# They need Python 3.11 or newer, make and a package registry, and about 7 GB of disk (most of it is torch).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# Of pytest, for test-cluster.
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
EVERYDAY := not slow and not gpu and not cluster and not load
# Two processes of one thread; a file stays with one of them, because its tests share what is slow to make.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: help demo test test-all test-cluster test-load fuzz check format clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## install, then run the whole main job on data that needs no download
	$(BIN)/raybd run demo

test: $(VENV)/installed-test ## install, then run the everyday tests: minutes, offline, no GPU
	$(PYTEST) -m "$(EVERYDAY)"

test-all: $(VENV)/installed-test ## the everyday tests and the slow ones
	$(PYTEST) -m "not gpu and not cluster and not load"

test-cluster: $(VENV)/installed-test ## real parts: several Ray nodes, hosts in namespaces, PostgreSQL, MLflow, S3, faults
	$(BIN)/python -m pytest --numprocesses 0 -rs -m "cluster and not gpu and not load" $(ARGS) tests

test-load: $(VENV)/installed-test ## ten thousand trials on 64 workers that sleep: a quarter of an hour, alone on the machine
	$(BIN)/python -m pytest --numprocesses 0 -m load tests/load

fuzz: $(VENV)/installed-test ## open 100,000 broken files (minutes); the result is tests/security/results/fuzz.json
	$(BIN)/python -m tests.security.fuzz --inputs 100000

check: $(VENV)/installed-test ## format, lint, types, import contracts, everyday tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "$(EVERYDAY)"

format: $(VENV)/installed-test ## put the code into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamps make a second call instant, and a change of what is required installs it.
define install
@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raybd needs Python 3.11 or newer, got " + sys.version.split()[0] + ": make PYTHON=...")'
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '$(1)'
endef

$(VENV)/installed: pyproject.toml constraints.txt
	$(call install,.)
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt
	$(call install,.[test])
	touch $(VENV)/installed $@
