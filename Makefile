# `make demo` shows it on a made-up fleet; `make run` opens the console; `make test` installs what the tests need and
# runs them all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where the surroundings forbid bytecode, each start of a program would compile all of it again: tests start hundreds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run demo test test-vm check lint types imports format bench clean

run: $(VENV)/.run
	@if [ -t 0 ] && [ -t 1 ]; then exec $(BIN)/nixfleet console $(ARGS); else echo 'the console needs a terminal'; fi

demo: $(VENV)/.run
	@if [ -t 0 ] && [ -t 1 ]; then exec $(BIN)/nixfleet demo $(ARGS); else echo 'the demo needs a terminal'; fi

test: $(VENV)/.dev system-packages bytecode
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Machines that a real systemd boots, with the agent as its unit: root, five minutes, and once a download. `-s` shows
# their journals.
test-vm: $(VENV)/.dev system-packages bytecode
	@sh tests/system-packages.sh vm
	$(BIN)/python -m pytest -m vm tests/vm $(ARGS)

check: lint types imports

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev system-packages bytecode
	$(BIN)/python -m bench $(ARGS)

# Beforehand, for devices of the tests see the checkout read-only.
.PHONY: bytecode
bytecode: $(VENV)/.dev
	@$(BIN)/python -m compileall -q src

.PHONY: system-packages
system-packages:
	@sh tests/system-packages.sh

$(VENV)/bin/python:
	@[ ! -t 1 ] || echo 'setting up $(VENV): half a minute, once'
	@sh tests/system-packages.sh venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,postgres]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
