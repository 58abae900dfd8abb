# `make` alone prints this list. Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Half of the suite waits for servers rather than computes, so a few more processes than cores.
JOBS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: help install demo test test-all chaos check bench docs wheel clean
.DEFAULT_GOAL := help

help: ## print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv with every extra and the command `mailtasks`

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "mailtasks needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## send 1,000 mails through everything, on this machine only (ARGS=--once ends by itself)
	@$(BIN)/python -m mailtasks.cli demo $(ARGS)

test: install check ## the tests, with a real Redis and real SMTP servers (at most 15 minutes)
	$(PYTEST)

test-all: install check ## the tests and what takes longer
	$(PYTEST) --slow

chaos: install ## break everything, and compare the books (SEED= MESSAGES= KILLS= RESTARTS=)
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MESSAGES),--messages $(MESSAGES)) \
		$(if $(KILLS),--kills $(KILLS)) $(if $(RESTARTS),--restarts $(RESTARTS))

check: install ## types, lint, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/lint-imports

bench: install ## the benchmarks: ratios, both sides in one run
	$(BIN)/python -m benchmarks $(ARGS)

docs: install ## write the reference pages that are made from the code
	$(BIN)/python docs/generate.py

wheel: install ## build the wheel into dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove what make has made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
