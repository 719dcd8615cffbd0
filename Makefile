# `make bench` and `make test` set up everything they need: Python >= 3.11 and PyPI are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Spinning OpenMP threads of parallel test workers halve each other's speed.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install lint types test bench bench-init clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt tests/oracles.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hubinit needs Python 3.11 or newer; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement tests/oracles.txt
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

test: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile

# The quickstart: embedded Hub, a real model, five methods, one task, published adapters, a leaderboard.
bench: install
	$(BIN)/python benchmarks/quickstart.py

# What each initialisation costs in units of the bare pass, beside PEFT's own; records under benchmarks/results/.
# Threads spin while they wait, as by default: PEFT's factorisations take three times as long otherwise.
bench-init: install
	$(BIN)/hubinit hub seed smollm2-135m
	env -u OMP_WAIT_POLICY $(BIN)/python benchmarks/init_time.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
