# Two commands: `make demo` shows the main job, `make test` checks everything. Each makes its own .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench zoo clean

demo: $(VENV)/base.stamp
	$(BIN)/edge-retina demo

test: lint
	$(BIN)/pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/stream.py

# Real-size exports against their trainers: ENVS=DIR with an environment for each, see tests/fixtures/zoo.py.
zoo: $(VENV)/dev.stamp
	$(BIN)/python tests/fixtures/zoo.py $(or $(OUT),zoo-out) --envs $(ENVS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/base.stamp

clean:
	rm -rf $(VENV) demo-out zoo-out build *.egg-info
