# Words, no logic: every target sets up what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export PYTHONDONTWRITEBYTECODE :=
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

.PHONY: repro test check bench setup clean

repro: $(READY) ## the whole pipeline: shard -> validate -> pretrain -> evaluate -> export
	@dvc repro

test: $(READY) check ## all tests, slow ones too
	@OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --max-worker-restart 0

check: $(READY) ## lint, format, types, import contracts, configuration
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@python -m sunfish.config check

bench: $(READY) ## the measurements behind the speed claims
	@python -m benchmarks.training
	@python -m benchmarks.upkeep data/shards
	@python -m benchmarks.feeding data/shards
	@python -m benchmarks.tracking
	@python -m benchmarks.scaling data/shards
	@python -m benchmarks.inference
	@python -m benchmarks.int8 models/denoiser data/shards
	@python -m benchmarks.parity models/denoiser models/onnx
	@python -m benchmarks.cold_start models/onnx

setup: $(READY) ## the environment alone

# Packages are compiled when they are first imported: most of their files never are, and compiling all takes longer than installing.
$(READY): requirements.lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

clean: ## forget the environment; data, models and runs stay
	rm -rf $(VENV)
