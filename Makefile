# Two commands do everything on a machine that has Python (3.10 to 3.13), pip and make:
#   make quickstart   set-up, then corpus -> tokenizer -> pretraining -> a table, a plot and a bundle
#   make test         set-up, then the test suite
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
JOBS   ?= 2

.PHONY: quickstart test test-slow test-faults check format lint types docs test-minimum bench bench-gpu clean help

help:
	@grep -E '^#   ' Makefile | sed 's/^# *//'

$(PY):
	$(PYTHON) -m venv $(VENV)

# torch first and alone: the other packages then accept the build that is installed.
$(VENV)/.core: $(PY) pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.core
	$(PY) -m pretrain fit --config configs/pretrain/quickstart.yaml
	$(PY) -m pretrain fill runs/quickstart/bundle \
	    'Returns a new [MASK] of the same shape.' \
	    'The number of [MASK] in the graph.' \
	    'If true, the [MASK] is sorted.'

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile

#   make check        format, lint, types and tests, as the continuous integration runs them
check: lint types test

format: $(VENV)/.dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lint: $(VENV)/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: $(VENV)/.dev
	$(PY) -m mypy

#   make test-slow    the long tests
test-slow: $(VENV)/.dev
	$(PY) -m pytest -m slow

#   make test-faults  kills, signals, full disks, damaged files; writes the table in docs/guarantees.md
test-faults: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/faults -m faults -n $(JOBS) --dist loadfile \
	    --write-guarantees docs/guarantees.md

#   make docs         the documentation as a site in site/
docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	$(PY) docs/figures/draw.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

#   make test-minimum the test suite with the oldest versions that pyproject.toml accepts
test-minimum: $(PY)
	$(PY) tools/minimum_versions.py --install .venv-minimum
	OMP_NUM_THREADS=1 .venv-minimum/bin/python -m pytest -n $(JOBS) --dist loadfile

#   make bench        short forms of the benchmarks; JSON and plots in benchmarks/results/
bench: $(VENV)/.dev
	$(PY) -m benchmarks.text --short
	$(PY) -m benchmarks.loader --short
	$(PY) -m benchmarks.resilience --short
	$(PY) -m benchmarks.long_documents --short
	$(PY) -m benchmarks.encoders --short
	$(PY) -m benchmarks.pretraining --short
	$(PY) -m benchmarks.lra_table2 --short

#   make bench-gpu    all that is measured on an NVIDIA GPU, in 9 minutes; again: what is missing
bench-gpu: $(VENV)/.core
	$(PY) -m benchmarks.gpu --minutes 9 --output benchmarks/results/gpu

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
