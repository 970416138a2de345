# CONTRIBUTING.md says what each target is for. PYTHON is that of .venv where there is one.
PYTHON ?= $(firstword $(wildcard .venv/bin/python .venv/Scripts/python.exe) python)

.PHONY: lint check test test-all test-export docs bench nightly

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

check: lint
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_packaging.py -k layers

test:
	$(PYTHON) -m pytest -n auto

# .ci/run adds the mark benchmark to SKIP; .ci/nightly runs those tests.
SKIP ?= export or gpu or network
test-all:
	$(PYTHON) -m pytest -n auto -m "not ($(SKIP))"

test-export:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 -m "export and not slow" tests/export

docs:
	$(PYTHON) tests/make_formats.py
	$(PYTHON) tests/make_model_table.py
	$(PYTHON) tests/make_reliability.py

bench:
	$(PYTHON) benchmarks/startup.py --rounds 3
	$(PYTHON) benchmarks/throughput.py --rounds 3
	$(PYTHON) benchmarks/maxsim.py --documents 1000 --rounds 3
	$(PYTHON) benchmarks/stream_memory.py --sizes 1000 10000

nightly:
	.ci/nightly
