# Two commands do everything: `make demo` and `make test`. Each builds first when something changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard _native/*.pyx _native/*.pxd _native/*.h)
STAMP := $(VENV)/.built

.PHONY: build demo test sim faults debug sanitize fuzz lint bench measure gate gate-record clean
build: $(STAMP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE) | $(VENV)/bin/python
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: build
	$(BIN)/penstock demo

# Most of a test's time is waiting, so four files run at a time, the longest first (tests/order.py). JOBS=0: one process.
JOBS ?= 4
test: build
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 2

# Three real brokers, ClickHouse's engine, three workers, and faults of all of them drawn from a seed. MINUTES=5 SEED=7
# PROTOCOL=classic|consumer; ARGS="--keep DIR" and more: see `python -m tests.faults --help`.
faults: build
	$(BIN)/python -m tests.faults --minutes $(or $(MINUTES),5) --protocol $(or $(PROTOCOL),classic) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The whole worker over models of Kafka and ClickHouse: make sim SEEDS=20000, or SECONDS=120, and FIRST=n to repeat.
sim: build
	$(BIN)/python -m tests.simulation.runner $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SECONDS),--seconds $(SECONDS)) \
	$(if $(FIRST),--first $(FIRST))

# The native core with bounds and overflow checks, and with ASan and UBSan, built beside the ordinary one, and its tests.
# `-p _native` imports the package under test before pytest puts the source tree in front of it, as -P keeps Python from it.
# Under the sanitizers both lanes are compared on random records as well, for MINUTES (1); whole tests are slow there.
NATIVE_TESTS := tests/parity tests/fuzz tests/unit/test_native_*.py
debug: build
	PENSTOCK_DEBUG=1 $(BIN)/python setup.py -q build --build-lib build/debug --build-temp build/debug-o
	PENSTOCK_NATIVE_BUILD=build/debug PYTHONPATH=build/debug $(BIN)/pytest -p _native $(NATIVE_TESTS)

SANITIZED = PENSTOCK_NATIVE_BUILD=build/sanitize PYTHONPATH=build/sanitize:. PYTHONMALLOC=malloc \
	LD_PRELOAD=$$($${CC:-cc} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
sanitize: build
	PENSTOCK_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitize --build-temp build/sanitize-o
	$(SANITIZED) $(BIN)/pytest -p _native --timeout 1200 -o faulthandler_timeout=1260 $(NATIVE_TESTS)
	$(SANITIZED) $(BIN)/python -P -m tests.fuzz --minutes $(or $(MINUTES),1) --seed $(or $(SEED),1)

# Both lanes compared on random contracts and records. MINUTES and SEED may be given; a difference is printed small.
fuzz: build
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1)

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(BIN):$$PATH" cython-lint _native

bench: build
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/penstock bench

# Everything that is measured, with the page and the chart that the documentation shows. Takes a quarter of an hour.
measure: build
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/penstock bench --all --json --svg docs/measured.svg --markdown docs/measured.md

# Fails when the kernels need more instructions, or a worker more CPU against the floor, than benchmarks/recorded.json says.
RECORDED := benchmarks/recorded.json
gate: build
	$(BIN)/python -m pipeline.bench.gate $(RECORDED)

# make gate-record REASON="why the recorded values change"; commit the file by itself, with the same words.
gate-record: build
	$(BIN)/python -m pipeline.bench.gate $(RECORDED) --record "$(REASON)"

clean:
	rm -rf $(VENV) build dist *.egg-info _native/*.so _native/*.c
