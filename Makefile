# `make demo` and `make test` set up everything they need; see README.md. Nothing is installed twice: the stamp file is
# younger than what it was made from. pip is used as it is configured on this machine.
PYTHON ?= python3.11
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
# Tests wait a good part of their time, so two run beside each other.
PYTEST_JOBS ?= 2
GPU_BENCH_FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.sluice-setup
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt $(PIP_FLAGS)
# The wheel's dependencies (numpy 1 among them) do not fit ours, and only its files are used.
TRITON := nvidia-pytriton==0.7.0
# Triton's Python helper processes were built against numpy 1; it lies apart from the environment's numpy 2.
STUB_NUMPY := numpy==1.26.4

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint format types tests testtools verdicts faults chaos fuzz resilience load-proof \
    reference gpu-bench pins clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(STAMP)  ## environment with all packages and a real Triton in .venv

$(STAMP): pyproject.toml constraints.txt | system
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first: nothing that comes later may choose another version of it.
	$(PIP) --quiet "torch==2.13.0"
	$(PIP) --quiet --editable ".[export,cpu,s3,mlflow,otel,loadtest,demo,dev]"
	$(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) --no-deps "$(TRITON)"
	$(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) --no-deps --upgrade \
	    --target $(VENV)/share/sluice/triton-python "$(STUB_NUMPY)"
	@touch $@

# What pip cannot install. As root on Debian or Ubuntu it is installed, otherwise it is named.
system:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "Sluice needs $(PYTHON): install it (Debian 12: apt-get install python3.11) or name another with PYTHON=" >&2; \
	    exit 1; }
	@missing=; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing $(notdir $(PYTHON))-venv"; \
	$(PYTHON) -c 'import ctypes, pathlib, sys, sysconfig; \
	    name = "libpython%d.%d.so.1.0" % sys.version_info[:2]; \
	    own = pathlib.Path(sysconfig.get_config_var("LIBDIR") or "", name); \
	    own.is_file() or ctypes.CDLL(name)' 2>/dev/null || missing="$$missing lib$(notdir $(PYTHON))"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing; \
	else \
	    echo "Sluice needs these packages; on Debian or Ubuntu run as root: apt-get install$$missing" >&2; exit 1; \
	fi

demo: $(STAMP)  ## export, serve, route and measure real models; ends by itself
	$(BIN)/sluice demo

test: lint types tests  ## everything CI runs

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

tests: $(STAMP) | testtools  ## pytest, the import layering among it
	$(BIN)/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

# Rules, alerts and dashboards are tried by Prometheus itself; the overhead benchmark drives nginx with wrk.
testtools:
	@missing=; \
	command -v promtool >/dev/null && command -v prometheus >/dev/null || missing="$$missing prometheus"; \
	PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || missing="$$missing nginx-light"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $$missing; \
	else \
	    echo "The tests need these packages; on Debian or Ubuntu run as root: apt-get install$$missing" >&2; exit 1; \
	fi

verdicts: $(STAMP)  ## simulate 10,000 rollouts per setting and write what the tests promise; half an hour
	$(BIN)/python -m gateway.verdicts --out docs/benchmarks/verdicts.md

faults: $(STAMP)  ## seed every fault into the export pipeline and write what each got
	$(BIN)/python -m tests.export.faults docs/export-faults.md

chaos: $(STAMP)  ## minutes of load, kills, reloads and flapping backends, with invariants checked
	$(BIN)/python -m tests.faults.chaos --seconds 180

fuzz: $(STAMP)  ## a million inputs to every parser
	$(BIN)/python -m tests.fuzz

resilience: $(STAMP)  ## overload, slow clients, shadows, lost replicas, restarts: figures against their targets
	$(BIN)/sluice loadtest resilience --all --markdown docs/benchmarks/resilience.md

load-proof: $(STAMP)  ## the gateway under load beside Triton, ceiling, knees, stall: about ten minutes, on a quiet machine
	$(BIN)/sluice loadtest proof --markdown docs/benchmarks/load.md --json docs/benchmarks/load.json

reference: $(STAMP)  ## write docs/reference anew from the code
	$(BIN)/python -m gateway.reference

gpu-bench: $(STAMP)  ## measure models on an NVIDIA GPU, straight and through the gateway; GPU_BENCH_FLAGS=--cpu without one
	$(BIN)/python -m loadtest.gpu $(GPU_BENCH_FLAGS)

format: $(STAMP)  ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pins: $(STAMP)  ## write constraints.txt anew from the environment
	{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/python -m pip freeze --exclude-editable \
	  | grep -viE '^(nvidia-pytriton|sluice)==' | sed -E 's/\+[a-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt
	touch $(STAMP)

clean:  ## remove the environment, caches and run-time files
	rm -rf $(VENV) .sluice .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
