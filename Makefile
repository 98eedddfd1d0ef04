# The same commands for people and for CI. Everything lives in .venv (override with VENV=...).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH ?= torch>=2.6
# Byte code is written when a module is first imported: most of what the packages bring never is.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTEST := $(BIN)/pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup models demo test test-torch test-all check format bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[local,dev]"
	touch $@

setup: $(STAMP) ## Make .venv and install the package with its development tools

models: $(STAMP) ## Fetch the model files of the demo and the tests (once; about 215 MB)
	$(BIN)/personalllm models pull

demo: models ## Run the benchmark's main job offline with a real small LLM and write demo-report/
	PERSONALLLM_OFFLINE=1 $(BIN)/personalllm demo --out demo-report

check: $(STAMP) ## Lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Fix what the formatter and the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(STAMP) ## All checks and the fast tests: unit, contract, end-to-end, docs' examples
	$(MAKE) -j 2 models check
	$(PYTEST) -m "not slow"

test-torch: $(STAMP) ## Install torch (choose the build with TORCH=...) and run the tests that need it
	$(PIP) -e ".[torch]" "$(TORCH)"
	$(BIN)/pytest -m "torch and not slow" tests/backends
	$(BIN)/pytest -m "torch and not slow" tests --ignore tests/backends

test-all: $(STAMP) ## The slow tests too; those that need torch after `make test-torch`
	$(MAKE) -j 2 models check
	$(PYTEST)

bench: models ## Measure the speed targets, as ratios in one run
	$(BIN)/python benchmarks/run.py

clean: ## Remove what the commands above made (not the model files in your cache)
	rm -rf $(VENV) demo-report runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
