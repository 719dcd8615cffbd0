# `make bench` and `make test` set up everything they need: Python >= 3.11 and PyPI are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# OpenMP threads that spin for microseconds only: sleeping at once costs a third of the speed of a machine of one's own, spinning
# for long halves that of parallel test workers.
export GOMP_SPINCOUNT ?= 2000

.PHONY: install lint types test test-lowest test-browser test-clusters bench bench-init bench-hub bench-gpu study-gpu refresh-local space clean

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
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/zizmor --offline --quiet .github

types: install
	$(BIN)/mypy

# Three at once for two cores, because many tests wait for processes that they started.
test: lint types
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The lower bounds of pyproject.toml: each direct dependency at the oldest version allowed. UV_TORCH_BACKEND=cpu takes torch's small build.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra plot --extra hub --extra test --output-file .venv-lowest/lowest.txt pyproject.toml
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --requirement .venv-lowest/lowest.txt --no-deps --editable .
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --requirement tests/oracles.txt --no-deps
	.venv-lowest/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not index'

# The leaderboard's app in headless Chromium, which must be there; axe-core comes from npm or HUBINIT_AXE.
test-browser: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[app,test]' 'playwright>=1.50'
	$(BIN)/pytest tests/leaderboard_app

# A Ray cluster of three nodes on this machine, and an array of Slurm played by submitit.
test-clusters: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[hub,ray,slurm,test]'
	$(BIN)/pytest tests/runs/test_ray.py tests/runs/test_slurm.py

# The quickstart: embedded Hub, a real model, five methods, one task, published adapters, a leaderboard.
bench: install
	$(BIN)/python benchmarks/quickstart.py

# What each initialisation costs in units of the bare pass, beside PEFT's own; records under benchmarks/results/.
bench-init: install
	$(BIN)/hubinit hub seed smollm2-135m
	$(BIN)/python benchmarks/init_time.py

# The embedded Hub under 100 clients, in a minute and a half. AGAINST=COMMIT measures the server of another commit beside it.
bench-hub: install
	$(BIN)/python benchmarks/hub_load.py $(if $(AGAINST),--against $(AGAINST))

# On a machine with a GPU and torch, in nine minutes and without network (README.md, "On a GPU machine"). $(PYTHON) is the one that
# has torch; nothing is installed into it. REHEARSE=1 tries the command on a CPU with tiny sizes.
bench-gpu study-gpu:
	$(PYTHON) benchmarks/gpu.py $(@:-gpu=) --carry "$(CARRY)" --out "$(OUT)" $(if $(WORKERS),--workers $(WORKERS)) $(if $(REHEARSE),--rehearse)

# The steps of .github/workflows/refresh.yml three times on an embedded Hub with a tiny model: the second changes nothing, the
# third has one method more and adds only that.
refresh-local: install
	$(BIN)/python benchmarks/refresh_local.py

# The Space as it is, without torch; then `hf upload OWNER/NAME build/space . --repo-type space`.
space:
	$(PYTHON) leaderboard/assemble.py --out "$(or $(OUT),build/space)" $(if $(LEADERBOARD),--leaderboard "$(LEADERBOARD)") $(if $(BOARD),--board "$(BOARD)")

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis
