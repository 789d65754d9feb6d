# Two commands: `make demo` shows the main job, `make test` checks everything. Each makes its own .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-gpu lint bench zoo wheel clean

demo: $(VENV)/base.stamp
	$(BIN)/edge-retina demo

test: lint
	$(BIN)/pytest

# On a machine with an NVIDIA GPU, TensorRT and CUDA; prints a table. Sees the system's packages, where JetPack has them.
test-gpu:
	$(PYTHON) -m venv --system-site-packages $(VENV)-gpu
	$(VENV)-gpu/bin/pip install --quiet --disable-pip-version-check -e '.[dev]' pycuda
	$(VENV)-gpu/bin/python -c 'import tensorrt; tensorrt.Builder' || $(VENV)-gpu/bin/pip install --quiet 'tensorrt>=10.3'
	$(VENV)-gpu/bin/pytest -m gpu -s -rs tests/test_gpu.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/stream.py

# Real-size exports against their trainers: ENVS=DIR with an environment for each, see tests/fixtures/zoo.py.
zoo: $(VENV)/dev.stamp
	$(BIN)/python tests/fixtures/zoo.py $(or $(OUT),zoo-out) --envs $(ENVS)

# sdist and wheel into dist/, and the wheel in a bare environment of each interpreter: PYTHONS="python3.10 python3.13".
wheel: $(VENV)/dev.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check build
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tests/wheel_smoke.py dist/*.whl $(or $(PYTHONS),$(PYTHON))

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'tensorrt-stubs==10.13.*'  # asks for all of TensorRT
	touch $@ $(VENV)/base.stamp

clean:
	rm -rf $(VENV) demo-out zoo-out build *.egg-info
