# make demo      the main job on the bundled models, from circuit to verdict
# make test      every test but those of make examples
# make examples  what people are shown runs: the notebooks, the README's Python, the diffs of docs/extending.md
# make check     lint, format and types
# make docs      the documentation as pages, in build/site; a broken link or name stops it
# make kernel    the GPU kernel without a GPU: Triton (1 GB) interprets, compiles and disassembles it
# Each makes .venv and installs what it needs first. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
TRITON := triton==3.9.0
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test examples check docs kernel format clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/sparsebridge demo

# Workers of one thread each: most tests are small, and two threads of one test help little. A file stays with one worker.
test: $(VENV)/.developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

examples: $(VENV)/.developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 5 examples

check: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Apart from the environment's own packages, so that the other tests run as they do for most people: without Triton.
kernel: $(VENV)/.triton
	PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest tests/sparse_model/transformer/test_abs_topk_triton.py

format: $(VENV)/.developed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

# Stamps, so that a second run installs nothing; a changed pin or dependency does.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "sparsebridge needs Python 3.11 or newer; run make again with PYTHON=python3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.made
	$(PIP) install $(TORCH)
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.documented: $(VENV)/.developed
	$(PIP) install -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.triton: $(VENV)/.developed Makefile
	$(PIP) install --no-deps --upgrade --target $(VENV)/triton $(TRITON)
	touch $@
