# Two commands do everything: `make demo` and `make test`. Each builds first when something changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard _native/*.pyx _native/*.pxd)
STAMP := $(VENV)/.built

.PHONY: build demo test debug sanitize lint bench clean
build: $(STAMP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE) | $(VENV)/bin/python
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: build
	$(BIN)/penstock demo

test: build
	$(BIN)/python -m pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cython-lint _native

bench: build
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/penstock bench

clean:
	rm -rf $(VENV) build dist *.egg-info _native/*.so _native/*.c
