# Two commands matter: `make repro` runs the study, `make test` checks the code. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCAL := data/machines/local
export PATH := $(abspath $(BIN)):$(PATH)
.DEFAULT_GOAL := help
.PHONY: help setup repro report accuracy recipes test test-slow lint format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.ready ## install the locked versions and the package into .venv
	@$(BIN)/python -c 'import visionquant' 2>/dev/null || { echo "setup: $(VENV) does not work any more (its Python was removed or replaced, or the checkout was moved); run make clean, then this again" >&2; exit 1; }

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c '' 2>/dev/null || { echo "setup: no $(PYTHON) found; install Python 3.11 or newer, or run make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: $(PYTHON) is $$($(PYTHON) -V 2>&1), 3.11 or newer is needed; run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@git --version >/dev/null 2>&1 || { echo "setup: git is not installed; install it" >&2; exit 1; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "setup: this folder is no git checkout, which DVC needs; clone the repository instead of unpacking an archive" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The first time a round of as many models as fit into three minutes comes first, and a report of it.
# What was busy is tried in three runs in all. DVC writes its lock file whole after every stage: the many small stages
# of `measure` run while it is short. However it ends, the answer in words is last.
ANSWER = trap '$(BIN)/visionquant measure --keep-going >/dev/null; $(BIN)/visionquant summary; exit 130' INT;
repro: setup ## run the study, with first figures early, and say where the report is
	@$(ANSWER) ls $(LOCAL)/latency/*.json >/dev/null 2>&1 || { $(BIN)/dvc repro download && { $(BIN)/visionquant sample --rounds 1 --minutes 3 || [ $$? = 75 ]; } \
	  && $(MAKE) --no-print-directory report && echo "first figures: $(CURDIR)/reports/index.html; more rounds narrow them"; }
	@$(ANSWER) $(BIN)/dvc repro measure && $(BIN)/dvc repro
	@$(ANSWER) for run in 2 3; do ! grep -qsE '"status": "(busy|out_of_memory|failed)"' $(LOCAL)/latency/*.json || \
	  { $(BIN)/visionquant sample --retry && $(BIN)/dvc repro; } || exit 1; done
	@$(BIN)/visionquant summary

report: setup ## records, tables, notebooks and pages from the samples that are there; measures nothing
	@for verb in "measure --keep-going" analyse claims notebooks report; do $(BIN)/visionquant $$verb || exit 1; done

accuracy: setup ## train and evaluate every fold of every network, and probe trained weights, hours on two cores
	@for network in $$($(BIN)/python -c 'from visionquant.core.paths import Project; from visionquant.settings.params import load; print(*load(Project.find()).training.networks)'); do \
	  $(BIN)/visionquant train --network $$network --all-folds && $(BIN)/visionquant evaluate --network $$network --all-folds || exit 1; done
	@for model in $$($(BIN)/python -c 'from visionquant.core.paths import Project; from visionquant.settings.params import load; print(*load(Project.find()).evaluation.probe.models)'); do \
	  $(BIN)/visionquant download --model $$model && $(BIN)/visionquant probe --model $$model || exit 1; done

recipes: setup ## run and measure every recipe of the guide, more than an hour on two cores
	@for recipe in $$($(BIN)/python -c 'from visionquant.recipes import NAMES; print(*NAMES)'); do \
	  $(BIN)/visionquant recipe $$recipe || exit 1; done

test: setup lint ## lint, types and all fast tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

# The GPU tests fork a process that has opened no GPU, so they get one in which no other test was collected or run.
test-slow: setup ## the tests that take minutes, and those for a GPU
	$(BIN)/python -m pytest -m "slow and not gpu"
	$(BIN)/python -m pytest tests/bench/test_gpu.py

lint: setup ## ruff (also over the notebooks), format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## format code and notebooks
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv and caches; records and reports stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .dvc/tmp .dvc/cache
