# Two commands: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OUT := out/demo

.PHONY: demo test lint format setup setup-dev clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch comes first: with it in place nothing else pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, PYTHON=... names another")'
	@$(PYTHON) -m venv $(VENV) || (echo "error: cannot make $(VENV); on Debian: apt-get install python3-venv" >&2; exit 1)
	@echo "installing into $(VENV) ..."
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: setup
	@$(if $(FRESH),rm -rf $(DEMO_OUT))
	@$(BIN)/python -m jobs.generate --manifest examples/demo.jsonl --output $(DEMO_OUT) --checkpoint checkpoints/mini

# With the fault handler, so that a crash of a library says where, even after pytest's own has gone.
test: setup-dev
	@$(BIN)/python -X faulthandler -m pytest

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) out
