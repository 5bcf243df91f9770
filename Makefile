# Words, no logic: every target sets up what it needs. `make` alone says what there is.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
TRY := .venv-try
PIP_QUIET := --quiet --disable-pip-version-check
LOCKED := $(PIP_QUIET) --no-compile --no-deps --require-hashes
TORCH ?= cpu
CPU_BUILDS ?= https://download.pytorch.org/whl/cpu
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export PYTHONDONTWRITEBYTECODE :=
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help try repro test check bench page setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s @

try: $(TRY)/.ready ## three stories by the model that is shipped, without torch: a minute
	@$(TRY)/bin/python -m sunfish generate --num 3

# what was downloaded without git has none to ask
repro: $(READY) ## the whole pipeline: shard, validate, pretrain, evaluate, report, export
	@git rev-parse --git-dir > /dev/null 2>&1 || dvc config --local core.no_scm true
	@dvc repro
	@echo
	@echo "made    data/shards         the corpus as tokens; results/data.html shows it"
	@echo "        models/denoiser     the trained denoiser"
	@echo "        models/onnx         the same without torch, for sampling"
	@echo "        results/report.html every number and picture, from this run"
	@echo "try     $(BIN)/sunfish generate --model models/onnx --num 3"
	@echo "        $(BIN)/sunfish infill --model models/onnx 'once there was a [MASK:3] .'"
	@echo "        dvc exp run -S sampler=ddim        another sampler, without training again"

test: $(READY_DEV) check ## all tests, slow ones too
	@OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --max-worker-restart 0

check: $(READY_DEV) ## lint, format, types, import contracts, configuration: half a minute
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@python -m sunfish.config check

bench: $(READY_DEV) ## the measurements behind the speed claims
	@python -m benchmarks.training
	@python -m benchmarks.upkeep data/shards
	@python -m benchmarks.feeding data/shards
	@python -m benchmarks.tracking
	@python -m benchmarks.scaling data/shards
	@python -m benchmarks.inference
	@python -m benchmarks.int8 models/denoiser data/shards
	@python -m benchmarks.parity models/denoiser models/onnx
	@python -m benchmarks.cold_start models/onnx

page: web/node_modules ## the page on which noise becomes text, in web/dist; needs Node.js
	@npm run --silent --prefix web build

web/node_modules: web/package-lock.json
	@npm ci --silent --no-audit --no-fund --prefix web
	@touch web/node_modules

setup: $(READY_DEV) ## the environment alone, with what tests need

# Packages are compiled when they are first imported: most files never are, and compiling all takes long.
# CPU builds of torch have an index of their own. Where neither it nor a place that pip is told of has one,
# the package index's build with CUDA will do, as with TORCH=cuda: it is larger, and runs on CPUs, too.
$(READY): locks/runtime.lock locks/train.lock locks/torch-$(TORCH).lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@test $(TORCH) = cpu && $(BIN)/python -m pip install $(LOCKED) --retries 1 --extra-index-url $(CPU_BUILDS) \
		-r locks/torch-cpu.lock || $(BIN)/python -m pip install $(LOCKED) -r locks/torch-cuda.lock
	@$(BIN)/python -m pip install $(LOCKED) -r locks/runtime.lock -r locks/train.lock
	@$(BIN)/python -m pip install $(PIP_QUIET) --no-deps --no-build-isolation -e .
	@touch $(READY)

$(READY_DEV): $(READY) locks/dev.lock
	@$(BIN)/python -m pip install $(LOCKED) -r locks/dev.lock
	@touch $(READY_DEV)

$(TRY)/.ready: locks/runtime.lock pyproject.toml
	@test -d $(TRY) || $(PYTHON) -m venv $(TRY)
	@$(TRY)/bin/python -m pip install $(LOCKED) -r locks/runtime.lock
	@$(TRY)/bin/python -m pip install $(PIP_QUIET) --no-deps -e .
	@touch $(TRY)/.ready

clean: ## forget the environments; data, models and runs stay
	rm -rf $(VENV) $(TRY)
