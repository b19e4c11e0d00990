# Two commands: `make demo` shows the main job, `make test` passes the tests. Each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Three for each core: most of their time the tests wait for sockets, processes and clocks.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(3 * (os.cpu_count() or 1))')
TESTS ?= tests
# Of pytest: --uvloop runs the tests on the event loop of services.
OPTIONS ?=
# `make demo` has an environment of its own, without the tools of developers.
DEMO := .venvs/demo
# A file of constraints for pip: .ci/run tests the lowest versions that pyproject.toml allows.
CONSTRAINTS ?=

.PHONY: demo test test-long retest check docs bench peers clean

demo: $(DEMO)/.installed
	$(DEMO)/bin/python -m s2connect demo

$(DEMO)/.installed: pyproject.toml
	@echo "Installing what the demonstration needs into $(DEMO), about 120 MB ..."
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --disable-pip-version-check --editable ".[demo]"
	touch $@

test: $(STAMP) peers
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist worksteal -m "not long" $(OPTIONS) $(TESTS)

test-long: $(STAMP) peers
	$(BIN)/python -m pytest -n 3 --dist worksteal -m long tests

# The tests that failed in the last run, once more and one by one.
retest: $(STAMP)
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail=10 $(OPTIONS) $(TESTS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests

# The site, in build/site; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(STAMP) peers
	$(BIN)/python -m benchmarks

# Software of peers pins old dependencies, so each has an environment of its own. Without a package index the tests that
# need a peer are skipped and say so; in CI they fail.
peers:
	@PYTHON="$(PYTHON)" bash tests/peers.sh || test -z "$$CI"
	@bash tests/npm.sh || test -z "$$CI"

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .venvs .peers .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
