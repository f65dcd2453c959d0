# `make demo`, `make test` and `make bench` set up .venv first; `make bench-gpu` uses PYTHON as it is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OUT := out/demo

RESULTS := benchmarks/results

.PHONY: demo test test-slow test-with-ray test-without-ray soak screenshots lint format audit bench bench-pipeline bench-driver bench-gpu api setup setup-dev clean

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

# In two halves side by side, of which one has all that uses Ray; each tells what it did when it has ended.
test: setup-dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync test-with-ray test-without-ray

# What `make test` leaves out and .ci/run does not: tests that take longer than some seconds each.
test-slow: setup-dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync CHOSEN=slow test-with-ray test-without-ray

CHOSEN := not slow

# With the fault handler, so that a crash of a library says where, even after pytest's own has gone.
test-with-ray:
	@$(BIN)/python -X faulthandler -m pytest --durations=12 -m "ray and $(CHOSEN) and not soak"

test-without-ray:
	@$(BIN)/python -X faulthandler -m pytest --durations=12 -m "not ray and $(CHOSEN) and not soak"

# What CI leaves out, too, because it takes minutes, then runs under fifty blows each. Hours on two cores.
soak: setup-dev
	@$(BIN)/python -X faulthandler -m pytest -m soak
	@for seed in 1 2 3; do $(BIN)/python -m jobs.chaos --rows 200 --kills 50 --seed $$seed || exit 1; done

# Pictures of a campaign's page for the docs, of clips that the small checkpoint makes of the example. A minute on two cores.
screenshots: setup-dev
	@RAY_AUTH_MODE=token OMP_NUM_THREADS=1 $(BIN)/python -m jobs.localize --campaign examples/campaign.csv --output out/campaign --checkpoint checkpoints/mini
	@$(BIN)/python -m pytest tests/pipeline/localization/test_grid_in_browser.py -k pictures_for_the_docs --screenshots out/campaign

# Small networks on one thread of the CPU: ways of computing side by side. About ten minutes on two cores.
bench: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.inference --output $(RESULTS)/inference_cpu.json --baseline $(RESULTS)/inference_cpu_baseline.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.choices --output $(RESULTS)/choices_cpu.json
	@$(BIN)/python -m benchmarks.decoding --output $(RESULTS)/decoding_cpu.json

# Simulated stages on logical GPUs: how busy the slowest pool is kept, ours and two other ways. Three quarters of an hour on two idle cores.
bench-pipeline: setup-dev
	@RAY_AUTH_MODE=token OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pipeline_efficiency --output $(RESULTS)/pipeline_efficiency.json

# A manifest of a million rows, new and nine tenths done: start and memory of the driver. Writes 6 GB, by estimate for a quarter of an hour.
bench-driver: setup-dev
	@RAY_AUTH_MODE=token OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.driver_scale --output $(RESULTS)/driver_scale.json

# The release's networks on one GPU of 80 GB or more; nothing is begun after eight minutes. Needs torch, safetensors, einops and numpy;
# for text transformers, for sound diffusers, for the time of loading zstandard. Nothing of the cluster.
bench-gpu:
	@$(PYTHON) -m benchmarks.inference --device cuda --output $(RESULTS)/inference_gpu.json --baseline $(RESULTS)/inference_gpu_baseline.json --graphs out/graphs

# Pages of every module, from its docstrings: out/api/index.html.
api: setup-dev
	@$(BIN)/pdoc --docformat google --output-directory out/api actors jobs model pipeline
	@echo out/api/index.html

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Asks the package index for known weaknesses of the pinned versions; needs a network.
audit: setup-dev
	@$(BIN)/python -m pip check
	@$(BIN)/python -m pip install --quiet pip-audit
	@$(BIN)/pip-audit --strict --progress-spinner off --requirement constraints.txt --no-deps --disable-pip

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) out
