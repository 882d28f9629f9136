# Everything a newcomer or CI calls. Needs git, make and Python 3.11 to 3.13; the rest is installed
# into .venv from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := 0.13.9
STAMP := $(VENV)/.installed
ARGS ?=
WORKERS ?= 4

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-min test-pythons test-postgres simulate chaos outages mutants bench bench-peers check format \
  docs configuration audit lock snapshot clean

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

# The smallest set on real servers that sees whether libraries and versions fit together.
SMALL := test_install.py test_capture.py test_apply.py
SMALL_SET := $(SMALL:%=replication_pipeline_tests/integration/%)

# Old packages with new ones below them give warnings that are nobody's fault here.
test-min: $(STAMP)  ## Unit tests and some on servers, with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .state/minimum
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --no-annotate --no-header \
	  --extra demo --extra dev --extra docs pyproject.toml -o .state/minimum.txt
	VIRTUAL_ENV=.state/minimum $(BIN)/uv pip install --quiet -r .state/minimum.txt
	VIRTUAL_ENV=.state/minimum $(BIN)/uv pip install --quiet --no-deps -e .
	.state/minimum/bin/pytest -q -W default -m unit $(ARGS)
	.state/minimum/bin/pytest -q -W default $(SMALL_SET) $(ARGS)

# Those that are neither installed (also by pyenv, whose shims uv can't look into) nor to be fetched are left
# out, in words; those of PYTHONS must be there.
PYENV_PYTHONS = $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin 2>/dev/null | tr '\n' ':')

test-pythons: $(STAMP)  ## Unit tests with each Python that is there (PYTHONS="3.12 3.13")
	@set -e; PATH="$(PYENV_PYTHONS)$$PATH"; for version in $(or $(PYTHONS),3.11 3.12 3.13); do \
	  if [ -z "$(PYTHONS)" ] && ! $(BIN)/uv python find --quiet $$version >/dev/null 2>&1 \
	    && ! $(BIN)/uv python install --quiet $$version >/dev/null 2>&1; then \
	    echo "Python $$version: not there, NOT TESTED"; continue; fi; \
	  echo "Python $$version"; \
	  $(BIN)/uv venv --quiet --clear --python $$version .state/python-$$version; \
	  VIRTUAL_ENV=.state/python-$$version $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock; \
	  VIRTUAL_ENV=.state/python-$$version $(BIN)/uv pip install --quiet --no-deps -e .; \
	  .state/python-$$version/bin/pytest -q -m unit $(ARGS); \
	done

# Not for others: what compares a dump with that of 18, or restores one that pg_dump of 18 has written.
OF_18 := snapshot_says or init_and_psql_install_the_same or restored_from_a_dump

test-postgres: $(STAMP)  ## Some tests on another PostgreSQL (VERSION=16)
	PYTHONPATH=$$($(BIN)/python -m replication_pipeline_tests.other_postgres $(or $(VERSION),17)) \
	  $(BIN)/pytest -q $(SMALL_SET) -k "not ($(OF_18))" $(ARGS)

simulate: $(STAMP)  ## The rules alone in a million worlds, minutes (SEEDS=1000000, ARGS="--replay 7")
	$(BIN)/python -m replication_pipeline_tests.simulation --seeds $(or $(SEEDS),1000000) $(ARGS)

chaos: $(STAMP)  ## Real servers under faults, with a report (ARGS="--seconds 3600 --seed 2 --rate 500")
	$(BIN)/python -m replication_pipeline_tests.chaos --report docs/reliability $(or $(ARGS),--seconds 300)

outages: OUTAGES ?= 15,60,300
outages: $(STAMP)  ## Cuts of 15 s, 60 s and 5 minutes, 45 minutes (OUTAGES=15,60 for shorter ones)
	OUTAGES=$(OUTAGES) $(BIN)/pytest -m outages -x --durations=0 $(ARGS)

mutants: $(STAMP)  ## Put bugs into the product one at a time, half an hour (ARGS="tombstone")
	$(BIN)/python -m replication_pipeline_tests.mutants $(ARGS)

bench: $(STAMP)  ## Measure, an hour and a half (ARGS="capture --rounds 10" for one scenario; bench/README.md)
	$(BIN)/python -m bench run $(or $(ARGS),all)
	$(BIN)/python -m bench report --write

bench-peers: $(STAMP)  ## The same beside other products, an hour or two (ARGS="--postgres FOLDER")
	$(BIN)/python -m bench run all-peers $(ARGS)
	$(BIN)/python -m bench report --write

check: $(STAMP)  ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## The documents as a site, in site/; links and anchors are checked
	$(BIN)/mkdocs build --strict

configuration: $(STAMP)  ## Write docs/configuration.md anew from the settings model
	$(BIN)/python docs/configuration_reference.py

audit: $(STAMP)  ## Are there known vulnerabilities in the locked packages? (asks PyPI)
	$(BIN)/uvx pip-audit --strict --disable-pip --require-hashes -r requirements.lock
	$(BIN)/uvx pip-audit --strict --disable-pip --require-hashes -r deploy/requirements.lock

snapshot: $(STAMP)  ## Write sql/schema.snapshot.sql and the text of the Dagster definitions anew
	UPDATE_SNAPSHOT=1 $(BIN)/pytest -q -k "is_what_the_snapshot_says or are_what_the_snapshot_says"

.PHONY: costs
costs: $(STAMP)  ## Write what can be counted (integration/costs.toml) anew: round trips, WAL, pages, plans
	UPDATE_COSTS=1 $(BIN)/pytest -q -m costs $(ARGS)

COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header pyproject.toml

lock: $(STAMP)  ## Resolve the dependencies again and write requirements.lock, and that of the image
	$(COMPILE) --upgrade --extra demo --extra dev --extra docs -o requirements.lock
	$(COMPILE) --extra kubernetes --constraint requirements.lock -o deploy/requirements.lock

clean:  ## Remove .venv, caches and the demo's state
	rm -rf $(VENV) .state site .pytest_cache .mypy_cache .ruff_cache
