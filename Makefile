# CONTRIBUTING.md says what each target is for. PYTHON is that of .venv where there is one.
PYTHON ?= $(firstword $(wildcard .venv/bin/python .venv/Scripts/python.exe) python)

.PHONY: lint check test test-all test-export test-clients test-integrations docs pages bench dist nightly

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

check: lint
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_packaging.py -k layers

test:
	$(PYTHON) -m pytest -n auto

# .ci/run adds the marks benchmark and nightly to SKIP; .ci/nightly runs those tests.
SKIP ?= export or gpu or network or clients or integrations
test-all:
	$(PYTHON) -m pytest -n auto -m "not ($(SKIP))"

test-export:
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 -m "export and not slow" tests/export

test-clients:
	$(PYTHON) -m pytest -m clients tests/server/clients

# Daft, MTEB and txtai need environments of their own: .ci/nightly has them.
ALONE = daft mteb_adapter txtai_adapter
# .ci/nightly sets PART to slow.
PART ?= not slow
test-integrations:
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "integrations and $(PART)" tests/integrations \
	  $(ALONE:%=--ignore=tests/integrations/test_%.py)

docs:
	$(PYTHON) -m sphinx -q -n -W --keep-going -b html docs docs/_build/html
	@echo "the site is docs/_build/html/index.html"

pages:
	$(PYTHON) tests/make_formats.py
	$(PYTHON) tests/make_model_table.py
	$(PYTHON) tests/make_choice_table.py
	$(PYTHON) tests/make_reliability.py

bench:
	$(PYTHON) benchmarks/startup.py --rounds 3
	$(PYTHON) benchmarks/throughput.py --rounds 3
	$(PYTHON) benchmarks/maxsim.py --documents 1000 --rounds 3
	$(PYTHON) benchmarks/stream_memory.py --sizes 1000 10000

dist:
	PYTHON=$(PYTHON) .ci/dist

nightly:
	.ci/nightly
