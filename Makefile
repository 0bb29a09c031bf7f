# Everything runs from a bare clone with Python 3.11 or later, pip and make: the targets make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: demo test examples bench bench-all bench-kernels bench-eager bench-compiled bench-memory torch-test test-browser format clean

demo: $(VENV)/.train-extra ## train the digits network and leave its report in runs/
	$(BIN)/chainrule train digits

test: $(VENV)/.test-extra ## lint, format, types, layers, then the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest $(PYTEST_ARGS)

torch-test: $(VENV)/.test-extra $(VENV)/.torch-extra ## the tests again, with those that compare with PyTorch
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-browser: $(VENV)/.test-extra ## install Chromium where there is none, then the tests of pages in it
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		$(BIN)/playwright install chromium || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install -y chromium; }
	$(BIN)/python -m pytest -m browser tests/*browser*

examples: $(VENV)/.train-extra ## train every named network, and write what they reach to docs/models.md; MNIST=DIR for those that can use it
	$(BIN)/python examples/_table.py --output docs/models.md $(if $(MNIST),--mnist $(MNIST))

bench: $(VENV)/.cpu-extra $(VENV)/.torch-extra $(VENV)/.xla-extra ## measure whole steps beside PyTorch and JAX; BENCH_ARGS=--torch-compile takes minutes more
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS) --output docs/performance.md

bench-all: bench bench-kernels bench-eager bench-compiled bench-memory ## and kernels, single operations, compiling, memory against time

bench-kernels: $(VENV)/.cpu-extra $(VENV)/.torch-extra
	$(BIN)/python benchmarks/ulp.py --output docs/performance.md
	$(BIN)/python benchmarks/conv.py --output docs/performance.md
	$(BIN)/python benchmarks/gemm.py --output docs/performance.md

bench-eager: $(VENV)/.train-extra $(VENV)/.torch-extra
	$(BIN)/python benchmarks/eager.py --output docs/performance.md

bench-compiled: $(VENV)/.train-extra $(VENV)/.torch-extra $(VENV)/.xla-extra
	$(BIN)/python benchmarks/compiled.py --output docs/compiled.md

bench-memory: $(VENV)/.train-extra
	$(BIN)/python benchmarks/remat.py --output docs/memory.md

format: $(VENV)/.test-extra
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV)

# A stamp per extra: installed again only when pyproject.toml changes.
$(VENV)/.%-extra: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
