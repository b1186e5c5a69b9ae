# make demo   set up, then serve the shipped bundles on http://127.0.0.1:8000
# make test   set up, then check the code and run every test that this machine can run
# make check  formatting, lint, types, layers
# make gpu    set up the GPU extra (CUDA toolkit needed: pycuda is compiled); GPU=gpu-rtx takes TensorRT-RTX
# make gpu-test  … and run and measure everything that needs a GPU; the results go to tests/gpu/results

PYTHON ?= python3
VENV ?= .venv
GPU ?= gpu
BIN = $(VENV)/bin
PIP = $(BIN)/pip install --quiet --constraint constraints.txt
# The data sets that tests marked "data" read; they are not part of the tree.
export MAREY_DATA ?= $(abspath ../shared/data)
export ORT_DISABLE_TELEMETRY = 1

# Real servers under load, benchmarks and what needs a GPU: they measure time, one by one. The others run two at a time, most of which keep one core.
ALONE = tests/e2e tests/bench tests/gpu tests/scale

.PHONY: demo test test-together test-alone check gpu gpu-test clean

demo: $(VENV)/.service
	$(BIN)/marey serve

test: test-together test-alone

test-together: check
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(addprefix --ignore ,$(ALONE))

test-alone: check
	$(BIN)/pytest $(ALONE)
	$(BIN)/pytest --ray tests/api # the same tests, of two replicas behind Ray's proxy

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

gpu: $(VENV)/.service
	$(PIP) --editable '.[$(GPU)]'

gpu-test: gpu
	$(PIP) pytest pytest-asyncio pytest-timeout
	$(BIN)/python -m tests.gpu tests/gpu/results

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Marey needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) cannot make environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.service: $(VENV)/.pip pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml constraints.txt
	$(PIP) --editable '.[build-cpu,otel,scale,tune]' --group dev
	$(PIP) --no-deps tf-keras # it asks for tensorflow, and tensorflow-cpu is that
	touch $(VENV)/.service $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
