# Everything runs in .venv, which this file makes. PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run experiment test check format bench clean

NAME ?= table1
SCALE ?= minilab

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(STAMP)  ## install, then train and compare TinyLLM on the embedded dataset (offline)
	$(BIN)/tinyllm rationales
	$(BIN)/tinyllm train -m method=full_ft,tinyllm
	$(BIN)/tinyllm report runs=runs/minilab metric=accuracy_ranked

experiment: $(STAMP)  ## a table or figure: NAME=table1|table2_ablation|fig2_train_size|fig3_alpha|fig4_cases SCALE=minilab|paper [ARGS=...]
	$(BIN)/python experiments/run.py $(NAME) $(SCALE) $(ARGS)

test: $(STAMP)  ## all tests that this machine can run
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not network"

check: $(STAMP)  ## formatter, linter, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## training and evaluation speed against the plain way; ROOT=<published data> for OBQA
	$(BIN)/python experiments/throughput/run.py $(if $(ROOT),--root $(ROOT))

clean:  ## remove the environment and caches (runs and the store stay)
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache dist
