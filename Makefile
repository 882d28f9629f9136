# Everything a newcomer or CI calls. Needs git, make and Python 3.11 to 3.13; the rest is installed
# into .venv from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := 0.13.9
STAMP := $(VENV)/.installed
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit simulate chaos mutants bench check format lock snapshot clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv and install the locked dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps -e .
	@touch $@

demo: $(STAMP)  ## Two contours, Kafka and the Dagster UI on this machine (ARGS="--seconds 60")
	@exec $(BIN)/replication-pipeline demo $(ARGS)

test: $(STAMP)  ## The whole suite on real servers, in WORKERS processes, each with servers of its own
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: $(STAMP)  ## The tests that need no server
	$(BIN)/pytest -m unit $(ARGS)

simulate: $(STAMP)  ## The rules alone in a million worlds, minutes (SEEDS=1000000, ARGS="--replay 7")
	$(BIN)/python -m replication_pipeline_tests.simulation --seeds $(or $(SEEDS),1000000) $(ARGS)

chaos: $(STAMP)  ## Real servers under faults, with a report (ARGS="--seconds 3600 --seed 2 --rate 500")
	$(BIN)/python -m replication_pipeline_tests.chaos --report docs/reliability $(or $(ARGS),--seconds 300)

mutants: $(STAMP)  ## Put bugs into the product one at a time, half an hour (ARGS="tombstone")
	$(BIN)/python -m replication_pipeline_tests.mutants $(ARGS)

bench: $(STAMP)  ## Measure, an hour (ARGS="capture --rounds 10" for one scenario; bench/README.md)
	$(BIN)/python -m bench run $(or $(ARGS),all)

check: $(STAMP)  ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

snapshot: $(STAMP)  ## Write sql/schema.snapshot.sql and the text of the Dagster definitions anew
	UPDATE_SNAPSHOT=1 $(BIN)/pytest -q -k "is_what_the_snapshot_says or are_what_the_snapshot_says"

lock: $(STAMP)  ## Resolve the dependencies again and write requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --upgrade --extra demo --extra dev pyproject.toml -o requirements.lock

clean:  ## Remove .venv, caches and the demo's state
	rm -rf $(VENV) .state .pytest_cache .mypy_cache .ruff_cache
