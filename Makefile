# make help says what there is. PYTHON chooses the interpreter (3.10 or newer), PORT the one of the web page,
# HOURS how long to fuzz.
PYTHON ?= python3
PORT ?= 3000
HOURS ?= 1
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt

.PHONY: help demo ui test check bench fuzz prove servers clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## back up the sample ERP to three storage targets and prove it, from nothing
	@$(BIN)/python -m twist_dr_tests.demo

ui: $(VENV)/.demo ## the same application in the Dagster web page, on http://127.0.0.1:3000 (PORT=...)
	@$(BIN)/python -m twist_dr_tests.demo --ui --port $(PORT)

test: $(VENV)/.test servers ## everything: style, types, tests against real PostgreSQL and S3 servers
	$(MAKE) --no-print-directory check
	$(BIN)/python -m twist_dr_tests.in_memory $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 40

check: $(VENV)/.test ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test ## measure speed and memory, as ratios; writes .bench/results.json
	$(BIN)/python -m twist_dr_tests.bench

fuzz: $(VENV)/.test ## give every reader of bytes from outside bad ones, new ones each time, for an hour (HOURS=...)
	$(BIN)/python -m twist_dr_tests.fuzz --hours $(HOURS)

prove: $(VENV)/.test ## before a release, an hour: the README word for word with Wagtail, a week under the real daemon, kills at every step
	$(BIN)/python -m twist_dr_tests.prove

clean: ## remove what these targets made (.venv, .demo, .bench, .prove, .servers)
	@if [ -x $(BIN)/python ] && [ -d .demo ]; then $(BIN)/python -m twist_dr_tests.demo --remove; fi
	rm -rf $(VENV) .demo .bench .prove .servers

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "twist-dr needs Python 3.10 or newer; try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml deploy/constraints.txt
	@echo "installing twist-dr, Django and PostgreSQL 18 into $(VENV) (once, about a minute)"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests need"
	@$(PIP) --editable '.[demo,test]'
	@touch $@

# What the tests want beside Python: a second PostgreSQL, as Debian packages it today (an old one is brought up to it), bubblewrap for the
# sandboxes, and servers to store on: OpenSSH, Samba, Azurite. None of their services is started. Elsewhere the tests run on what is here and
# say what they skipped; CI insists on all of it. What they ran on, conftest.py says at their begin.
POLICY := /usr/sbin/policy-rc.d
servers: .servers/.made
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  [ -e $(POLICY) ] || { trap 'rm -f $(POLICY)' EXIT; printf '#!/bin/sh\nexit 101\n' >$(POLICY); chmod 755 $(POLICY); }; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      postgresql-15 bubblewrap locales openssh-server samba; } \
	    || echo "apt-get gave no packages: the tests run on what is here"; \
	fi
	@ls /usr/lib/postgresql/15/bin/postgres >/dev/null 2>&1 || echo "no PostgreSQL 15 here: the tests run on the wheel's PostgreSQL 18 only"

# This version of Azurite: later ones are three times as large, and tell Microsoft of their use.
.servers/.made: Makefile
	@mkdir -p .servers && echo '{"private": true}' >.servers/package.json
	@if command -v npm >/dev/null; then npm install --prefix .servers --loglevel=error --no-audit --no-fund --omit=optional --ignore-scripts azurite@3.31.0 && touch $@; fi \
	  || echo "npm gave no Azurite: the tests run without"
