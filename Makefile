# `make` alone prints this list. Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Half of the suite waits for servers rather than computes, so a few more processes than cores.
JOBS ?= 4
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# What concerns Django runs on Django 6, too, which needs a later Python than we do.
DJANGO_VENV := .venv-django
DJANGO_TESTS := tests/unit/contrib/django tests/unit/testing/test_plugin.py tests/unit/outbox/test_store.py tests/integration/test_django_example.py

.PHONY: help install demo test test-all test-django chaos check bench docs wheel clean
.DEFAULT_GOAL := help

help: ## print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

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

test-all: install check test-django ## the tests and what takes longer, and Django's on Django 6
	$(PYTEST) --slow

test-django: ## Django's tests on Django 6, if there is a Python 3.12 or later (PYTHON_DJANGO=)
	@python=$$($(PYTHON) tests/newer_python.py) || exit $${MAILTASKS_NO_SKIP:-0}; \
		$(MAKE) --no-print-directory PYTHON_DJANGO="$$python" $(DJANGO_VENV)/.installed && \
		$(DJANGO_VENV)/bin/python -m pytest -n $(JOBS) $(DJANGO_TESTS)

$(DJANGO_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON_DJANGO) -m venv $(DJANGO_VENV)
	$(DJANGO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

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
	rm -rf $(VENV) $(DJANGO_VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
