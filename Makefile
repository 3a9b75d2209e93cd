# Each target sets up .venv by itself: with uv where there is one, else with the newest Python >= 3.12 found.
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.base  ## sample a Bayesian neural network on real data, remove its symmetries, judge its modes
	@$(BIN)/manymodes demo

test: $(VENV)/.test  ## everything that must hold, in under 15 minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-all: $(VENV)/.test  ## the full matrices as well
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --slow

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.test  ## ratios against NumPyro, BlackJAX, PyMC, nutpie, PyStan, ArviZ and the machine's limit
	$(BIN)/python -m benchmarks.scoreboard
	$(BIN)/python -m benchmarks.convergence

clean:  ## forget the environment
	rm -rf $(VENV)

# `python -m venv` needs an interpreter of 3.12 or newer; where there is none, uv (from the package index) brings one.
# The stamps are files of our own: bin/python is a link whose date is that of the interpreter it points to.
$(VENV)/.made: .python-version
	@if command -v uv >/dev/null; then uv venv --quiet --clear --seed --python "$$(cat .python-version)" $(VENV); touch $@; exit; fi; \
	for candidate in "python$$(cat .python-version)" python3.14 python3.13 python3.12 python3 python; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	    "$$candidate" -m venv --clear $(VENV); touch $@; exit; \
	  fi; \
	done; \
	echo "no Python >= 3.12 found; asking uv for one"; \
	python3 -m pip install --quiet --target $(VENV).uv uv; \
	PYTHONPATH=$(VENV).uv python3 -m uv venv --quiet --clear --seed --python "$$(cat .python-version)" $(VENV); \
	touch $@

$(VENV)/.base: pyproject.toml constraints.txt $(VENV)/.made
	@echo "installing manymodes into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.made
	@echo "installing manymodes and its test tools into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.base
