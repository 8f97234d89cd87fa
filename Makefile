# Everything runs in a virtual environment of its own, which the first target that needs it creates.
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results/quadratic
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/installed  ## Learns an optimizer for quadratic functions and compares it with tuned baselines
	$(BIN)/python -m experiments.quadratic --workdir=$(RESULTS)

test: $(VENV)/installed  ## Runs the test suite
	$(BIN)/python -m pytest --numprocesses auto

lint: $(VENV)/installed  ## Runs the linter
	$(BIN)/python -m ruff check .

$(VENV)/installed: setup.cfg setup.py pyproject.toml $(wildcard learned_opt/native/src/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:  ## Removes the virtual environment
	rm -rf $(VENV)
