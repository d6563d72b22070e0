# Needs Python 3.11 or newer and make; everything else goes into .venv.
# `make run PORT=8001` chooses the port, `make run PYTHON=/path/to/python3.12` the interpreter.

PORT ?= 8000
PYTHON ?=
BIN := .venv/bin
PACKAGES := governance llm billing config
# What decides about money, of which no statement and no branch is left untried, and the tests that try it.
MONEY := */rules/* */ledger/*
TRIES_MONEY := $(wildcard tests/*/rules) tests/governance/ledger tests/governance/actions tests/governance/upkeep \
	tests/governance/api/test_claims.py tests/governance/api/test_closed_periods.py tests/governance/api/test_extensions.py \
	tests/governance/api/test_reservations.py tests/llm/state tests/llm/gateway/test_conversations.py \
	tests/llm/gateway/test_exact_counts.py tests/llm/gateway/test_odd_requests.py
# Percent of statements and branches of all there is: `make coverage`.
COVERED := 95
KNOWS_POSTGRES := tests/governance/ledger tests/governance/upkeep tests/concurrency/test_window_races.py \
	tests/concurrency/test_failures.py tests/config/test_databases.py tests/config/backups tests/config/test_migrations.py \
	tests/llm/gateway/test_endings.py tests/config/litellm/test_database.py
# What is the same on either database: pure rules, what passes between clients, gateway and upstream, pages and settings,
# what a key is told, and what Stripe's objects are worth.
ONE_DATABASE := $(wildcard tests/*/rules) tests/mutants tests/benchmarks tests/browser tests/config tests/llm/gateway \
	tests/journeys/test_openapi.py tests/journeys/test_nobody_reaches_across.py tests/properties/test_stripe_machine.py \
	tests/billing/worth
# Those that stop the server, which the workers share.
STOPS_POSTGRES := tests/concurrency/test_database_restart.py tests/concurrency/test_frozen_database.py
# Puts another file in the place of the database, which nothing that ran before in the same process may hold open.
REPLACES_SQLITE := tests/config/backups
# Workers, each with a database, a model's API and processes of the product: two more than there are cores, since tests wait
# for sockets up to half of their time, and eight at most.
SIDE_BY_SIDE := --numprocesses=$(shell expr $$(getconf _NPROCESSORS_ONLN) + 2) --maxprocesses=8 --dist=loadfile \
	--no-loadscope-reorder
comma := ,
space := $(subst ,, )
# Without Playwright's greenlets, of which pyproject.toml tells: to ask for them at each call is more than half the cost.
MEASURED := $(BIN)/coverage run --concurrency=thread -m pytest

# A machine to try things out on, unless .env or the environment says otherwise.
ifeq ($(origin DEBUG),undefined)
ifeq ($(shell grep -s '^DEBUG=' .env),)
export DEBUG := true
endif
endif
ifeq ($(origin APP_URL),undefined)
ifeq ($(shell grep -s '^APP_URL=' .env),)
export APP_URL := http://127.0.0.1:$(PORT)
endif
endif

# The tests start hundreds of processes, each of which would compile the product afresh where nothing compiled is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test explore test-dates coverage mutants check bench bench-peers storm pictures wheel sbom install fmt \
	lock clean
.DEFAULT_GOAL := help

help:
	@echo "make run      install, migrate, add demo data and start everything on http://127.0.0.1:$(PORT)"
	@echo "make test     the whole test suite on SQLite, what depends on the database on PostgreSQL too, and whether all that decides about money was tried"
	@echo "make coverage what of the product the tests run; half an hour"
	@echo "make explore  the property tests with other examples than make test, and more of them"
	@echo "make test-dates  the tests as of other days and hours, in three time zones; two hours"
	@echo "make mutants  change rules and ledger a little, many times, and see whether tests notice; hours"
	@echo "make check    lint, types, import rules, migrations, templates"
	@echo "make bench    measure the gateway"
	@echo "make bench-peers  measure it beside other gateways, each in an environment of its own; ten minutes"
	@echo "make storm    hostile clients, upstream and operators against the product; 20 minutes"
	@echo "make pictures take the documents' pictures of the console again"
	@echo "make wheel    build the package into dist/"
	@echo "make sbom     list what is shipped with its licences, as CycloneDX and as text, in dist/"
	@echo "make install  create .venv with the locked dependencies"
	@echo "make fmt      format the code"
	@echo "make lock     resolve the dependencies of pyproject.toml into requirements/"

run: .venv/runtime
	@exec $(BIN)/python manage.py serve --demo --port $(PORT)

# Measuring takes time, a third more, so it is done where it decides something.
test: .venv/dev .venv/shipped.installed .venv/clients.installed .venv/generated.installed .venv/node_clients.installed
	$(BIN)/coverage erase
	$(MEASURED) $(SIDE_BY_SIDE) $(TRIES_MONEY)
	$(MEASURED) $(SIDE_BY_SIDE) --database=postgres $(KNOWS_POSTGRES)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --include='$(subst $(space),$(comma),$(strip $(MONEY)))' --fail-under=100
	$(BIN)/python -m pytest $(REPLACES_SQLITE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(TRIES_MONEY:%=--ignore=%) --ignore=$(REPLACES_SQLITE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --database=postgres \
		$(addprefix --ignore=,$(KNOWS_POSTGRES) $(ONE_DATABASE) $(STOPS_POSTGRES))
	$(BIN)/python -m pytest --database=postgres $(STOPS_POSTGRES)

coverage: .venv/dev .venv/shipped.installed .venv/clients.installed .venv/generated.installed .venv/node_clients.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) --ignore=tests/properties
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) --database=postgres $(KNOWS_POSTGRES)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERED)

explore: .venv/dev
	STRIPE_CUSTOMERS=60 STRIPE_SPENDERS=40 CUSTOMER_LIVES=60 LEDGERS=300 $(BIN)/python -m pytest $(SIDE_BY_SIDE) --hypothesis-profile=others \
		tests/properties $(wildcard tests/*/rules) tests/billing

test-dates: .venv/dev
	$(BIN)/python tests/any_day

# `make mutants MODULES=governance/rules/money.py` for one; see docs/development.md.
mutants: .venv/dev
	nice $(BIN)/python -m tests.mutants $(MODULES)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/mypy --config-file= --strict clients/python/src
	$(BIN)/lint-imports
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m pytest -q tests/config/test_templates.py \
		tests/config/test_deployment.py::test_djangos_deployment_checks_find_nothing

bench: .venv/dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.streams
	$(BIN)/python -m benchmarks.cap
	$(BIN)/python -m benchmarks.failover
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.overload

bench-peers: .venv/dev
	$(BIN)/python -m benchmarks.peers

storm: .venv/dev
	$(BIN)/python -m benchmarks.storm

pictures: .venv/dev
	$(BIN)/python -m tests.browser.pictures

wheel: .venv/dev
	@rm -rf dist
	$(BIN)/python -m hatchling build --target wheel

sbom: .venv/shipped.installed
	@mkdir -p dist
	.venv/shipped/bin/python deploy/sbom.py >dist/sbom.cdx.json
	.venv/shipped/bin/python deploy/sbom.py --licences >dist/licences.txt

install: .venv/dev

fmt: .venv/dev
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

# The header that uv writes names its command line; it is left out, as nothing reads it.
RESOLVE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	--python-version 3.11 $(if $(UPGRADE),--upgrade)
lock: .venv/dev
	$(RESOLVE) pyproject.toml --group dev -o requirements/dev.txt
	$(RESOLVE) pyproject.toml --constraint requirements/dev.txt --no-annotate -o requirements/runtime.txt
	$(RESOLVE) --group pyproject.toml:clients -o requirements/clients.txt
	$(RESOLVE) --group pyproject.toml:generated -o requirements/generated.txt
	$(RESOLVE) pyproject.toml --extra tokenizers --constraint requirements/dev.txt --no-annotate -o requirements/tokenizers.txt
	$(RESOLVE) pyproject.toml --extra otel --constraint requirements/dev.txt --no-annotate -o requirements/otel.txt

clean:
	rm -rf .venv var dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		tests/clients/node/node_modules

# A lock names all there is to install, so nothing is resolved again.
PIP_INSTALL := -m pip install --no-deps --require-hashes --prefer-binary --quiet --disable-pip-version-check \
	--no-input --no-warn-script-location
PIP := $(BIN)/python $(PIP_INSTALL)

# The two stamps below are newer than their lock as long as what it names is installed.
.venv/runtime: requirements/runtime.txt | $(BIN)/python
	@echo "Installing the product's locked dependencies into .venv"
	@$(PIP) -r requirements/runtime.txt
	@touch $@

.venv/dev: requirements/dev.txt requirements/runtime.txt | $(BIN)/python
	@echo "Installing the locked development dependencies into .venv"
	@$(PIP) -r requirements/dev.txt
	@touch .venv/runtime $@

# What is shipped and nothing else, not even pip: tests/config/test_shipped.py starts the product from it. The stamp is
# a copy of the lock, so that the tests can tell whether it is still the one in force.
.venv/shipped.installed: requirements/runtime.txt | $(BIN)/python
	@echo "Installing the product's locked dependencies alone into .venv/shipped"
	@$(BIN)/python -m venv --clear --without-pip .venv/shipped
	@PIP_PYTHON=.venv/shipped/bin/python $(PIP) --no-compile -r requirements/runtime.txt
	@cp requirements/runtime.txt $@

# The extra `tokenizers`: its versions are those of the other locks, so that it goes into .venv itself.
.venv/tokenizers.installed: requirements/tokenizers.txt | .venv/dev
	@echo "Installing the extra tokenizers into .venv"
	@$(PIP) -r requirements/tokenizers.txt
	@touch $@

# The extra `otel`, likewise.
.venv/otel.installed: requirements/otel.txt | .venv/dev
	@echo "Installing the extra otel into .venv"
	@$(PIP) -r requirements/otel.txt
	@touch $@

# Real clients that tests/clients/ starts, each kind in an environment of its own.
.venv/clients.installed: requirements/clients.txt | $(BIN)/python
	@echo "Installing the locked Python clients of the tests into .venv/clients"
	@$(BIN)/python -m venv --clear .venv/clients
	@.venv/clients/bin/python $(PIP_INSTALL) --no-compile -r requirements/clients.txt
	@touch $@

# What makes a client of the API's description, and that client's libraries.
.venv/generated.installed: requirements/generated.txt | $(BIN)/python
	@echo "Installing the locked generator of clients into .venv/generated"
	@$(BIN)/python -m venv --clear .venv/generated
	@.venv/generated/bin/python $(PIP_INSTALL) --no-compile -r requirements/generated.txt
	@touch $@

# Node is asked for by no more than these tests: without it they are skipped, and say so; with REQUIRE_NODE=1 they fail.
.venv/node_clients.installed: tests/clients/node/package-lock.json | $(BIN)/python
	@if tests/clients/node/install; then touch $@; else [ "$$REQUIRE_NODE" != 1 ]; fi

$(BIN)/python:
	@.ci/create-venv "$(PYTHON)"
