# Everything runs in a virtual environment of its own, which the first target that needs it creates.
PYTHON ?= python3
VENV ?= .venv
# A file of versions that pip has to keep to, or nothing for the newest.
CONSTRAINTS ?=
RESULTS ?= results/quadratic
# Where the site is built.
SITE ?= docs/_build/html
BIN := $(VENV)/bin
# Each worker begins with a stretch of neighbouring tests, which share compiled programs.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The oldest and the newest Python that are supported: the first of these that runs.
first_that_runs = $(firstword $(foreach name,$(1),$(shell $(name) -c '' 2>/dev/null && echo $(name))))
PYTHON_OLDEST ?= $(call first_that_runs,python3.11)
PYTHON_NEWEST ?= $(call first_that_runs,python3.13 python3.12)

.PHONY: demo test test-thorough test-oldest test-newest test-all lint docs clean

demo: $(VENV)/installed  ## Learns an optimizer for quadratic functions and compares it with tuned baselines
	$(BIN)/python -m experiments.quadratic --workdir=$(RESULTS)

test: $(VENV)/installed  ## Runs the first tier of the test suite
	$(PYTEST)

test-thorough: $(VENV)/installed  ## Runs both tiers of the test suite
	$(PYTEST) -m 'thorough or not thorough'

test-oldest:  ## Runs the first tier on the oldest supported versions
	$(if $(PYTHON_OLDEST),,$(error There is no Python 3.11 on PATH: name one, PYTHON_OLDEST=...))
	$(MAKE) test PYTHON=$(PYTHON_OLDEST) VENV=$(VENV)-oldest CONSTRAINTS=requirements/oldest.txt

test-newest:  ## Runs the first tier on the newest versions
	$(if $(PYTHON_NEWEST),,$(error There is no Python 3.12 or newer on PATH: name one, PYTHON_NEWEST=...))
	$(MAKE) test PYTHON=$(PYTHON_NEWEST) VENV=$(VENV)-newest

test-all:  ## Runs both tiers, and the first on the oldest and on the newest versions
	$(MAKE) test-thorough
	$(MAKE) test-oldest
	$(MAKE) test-newest

lint: $(VENV)/installed  ## Runs the linter, the formatter's check and the type checker
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/documented  ## Builds the site, and looks for broken links in it
	rm -rf $(SITE)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs $(SITE)
	$(BIN)/python -m experiments.links $(SITE)
	@echo "The site is in $(SITE)/index.html."

$(VENV)/documented: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev,docs]'
	touch $@

$(VENV)/installed: setup.cfg setup.py pyproject.toml $(CONSTRAINTS) $(wildcard learned_opt/native/src/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
	touch $@

clean:  ## Removes the virtual environments
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest
