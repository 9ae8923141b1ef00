# Each target sets itself up in .venv; a fresh machine needs only Python, with venv and pip.
#   PYTHON=...   the interpreter to use       ARGS="..."   more arguments for demo, test, soak and the benchmarks
.NOTPARALLEL:
.PHONY: demo test test-lowest test-fastworker0.1 test-rq2.0 test-rq2 host-suites check recipes docs dashboards dist newest flaky soak bench bench-worker bench-growth bench-latency bench-view

BIN := .venv/bin

# Modules are compiled when they are first imported. Compiling all of pandas at set-up takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

# Take the first Python that is 3.12 or newer, else 3.10 or newer. Run each: a pyenv shim may lead nowhere.
CANDIDATES := $(or $(PYTHON),python3 python3.12 python3.13 python3.14 python3.15 python3.11 python3.10)
ASK := import os, sys, venv, ensurepip; least = (3, int(sys.argv[1])); \
	sys.exit(1) if sys.version_info < least else None; \
	print("%d.%d.%d" % sys.version_info[:3], os.path.realpath(sys.executable))
FOUND := $(shell for minor in 12 10; do for python in $(CANDIDATES); do \
	"$$python" -c '$(ASK)' $$minor 2>/dev/null && exit; done; done)
VERSION := $(firstword $(FOUND))
INTERPRETER := $(wordlist 2,99,$(FOUND))
MADE := .venv/python-$(VERSION)

# Remove a .venv that another Python made, or that a dead make left unfinished. Use one of any other origin.
BEGIN := mkdir .venv-unfinished && echo $$PPID >.venv-unfinished/make
$(if $(VERSION),$(shell { \
	if test -e .venv-unfinished; then ! kill -0 "$$(cat .venv-unfinished/make)"; \
	else ls .venv/python-* && ! test -e $(MADE); fi && rm -rf .venv .venv-unfinished; } >/dev/null 2>&1))

demo: .venv/installed-demo
	@$(BIN)/otel-queue-bridge demo $(ARGS)

# Tests mostly wait for real processes: so some run at once, however few cores there are. Those with the longest
# waits come first, as they are collected: else one would still run when all others have ended.
AT_ONCE := --numprocesses=4 --dist=loadscope --no-loadscope-reorder
test: .venv/installed-test
	@$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

# Run what another Python or another version can change: the core and the contract, once for each queue, without the
# rows that depend on neither. Old drivers warn a lot, and old packages do on a new Python.
OTHER := CONTRACT_SHOWN_BY="the newest versions"
WITH := -W ignore -m pytest $(AT_ONCE) --override-ini=filterwarnings=
ONCE := -k "not (rabbitmq or postgresql or SimpleWorker)"
CORE := $(wildcard $(foreach name,aggregations bridge config failures fork* instrument* lifecycle metrics operation \
	overrides patch* propagation relay* semconv spans traces tracing,tests/test_$(name).py))

# Run them on another Python: `make test-python3.13`.
test-python3.%: .venv-python3.%/installed
	@$(OTHER) .venv-python3.$*/bin/python $(WITH) $(ONCE) tests/contract $(CORE) $(ARGS)

# Run the contract with the oldest versions that pyproject.toml allows, on the oldest Python that is there.
test-lowest: .venv-lowest/installed
	@$(OTHER) .venv-lowest/bin/python $(WITH) $(ONCE) tests/contract $(ARGS)

# Run FastWorker's tests with its first version, the only one whose subworkers start.
test-fastworker0.1: .venv-fastworker0.1/installed
	@$(OTHER) .venv-fastworker0.1/bin/python $(WITH) tests/brokers/test_fastworker*.py \
		tests/contract/test_fastworker.py $(ARGS)

# Run RQ's tests with its first version, and with the last before 3; there on Python 3.11, with the core's tests.
test-rq2.0: .venv-rq2.0/installed
	@.venv-rq2.0/bin/python $(WITH) tests/brokers/test_rq*.py $(ARGS)
test-rq2: .venv-rq2/installed
	@$(OTHER) .venv-rq2/bin/python $(WITH) $(ONCE) tests/brokers/test_rq*.py tests/contract/test_rq.py $(CORE) $(ARGS)

# Run the tests of queue libraries, out of their source distributions, with us on as off.
host-suites: .venv-host-suites/installed
	@.venv-host-suites/bin/python -m tests.host_suites $(ARGS)

check: .venv/installed-test .venv/installed-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# Follow README's recipes with what their own commands install: it may be older than what .venv has.
recipes: .venv/installed-test
	@$(BIN)/python .ci/recipes.py .venv-recipes

# Write the pages that are made of the code.
docs: .venv/installed-test
	@$(BIN)/python docs/generate.py

# Write the dashboards and alerts that the package carries.
dashboards: .venv/installed-test
	@$(BIN)/python -m dashboards

# Build what users download, and try it as they do: alone, in a fresh venv, outside of this folder; on the oldest
# Python and on the newest.
WHEEL := .venv-wheel
FIRST = $(shell for minor in $(1); do python3.$$minor -c 'import sys; print(sys.executable)' 2>/dev/null && exit; done)
ENDS = $(or $(sort $(call FIRST,10 11 12 13 14) $(call FIRST,14 13 12 11 10)),$(INTERPRETER))
dist: .venv/installed-dist
	@rm -rf dist
	@said=$$($(BIN)/python -m build --no-isolation 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/twine check --strict dist/*
	@set -e; for python in $(ENDS); do \
		echo "Trying the wheel with $$("$$python" -V)"; \
		PIP_QUIET=2 "$$python" -m venv --clear --upgrade-deps $(WHEEL); \
		$(WHEEL)/bin/python -m pip install -qq --disable-pip-version-check --no-compile dist/*.whl; \
		(cd $(WHEEL) && bin/otel-queue-bridge --help && bin/otel-queue-bridge dashboards --out dashboards) >/dev/null; \
		$(WHEEL)/bin/python -m pip install -qq --disable-pip-version-check --no-compile "$$(echo dist/*.whl)[demo]"; \
		(cd $(WHEEL) && bin/otel-queue-bridge demo $(ARGS)); \
	done

# Say which newest releases lie outside what .venv has: a reader of CI's output decides what to do.
newest: .venv/installed-test
	@$(BIN)/python .ci/newest.py

# Repeat chosen tests beside BUSY other processes: make flaky N=20 ARGS="tests/test_x.py::test_y"
N := 10
BUSY := 4
flaky: .venv/installed-test
	@$(BIN)/python .ci/flaky.py '$(N)' '$(BUSY)' $(ARGS)

# Load workers of every queue while things fail, and compare telemetry with what happened: see docs/reliability.md.
soak: .venv/installed-test
	@$(BIN)/python -m soak $(ARGS)

# ARGS=--instructions counts instructions, too; that needs valgrind and takes minutes. ARGS=--gate does only
# that, and fails where a goal is missed.
bench: .venv/installed-test
	@$(BIN)/python -m benchmarks $(ARGS)

bench-growth: .venv/installed-test
	@$(BIN)/python -m benchmarks.growth $(ARGS)

bench-latency: .venv/installed-test
	@$(BIN)/python -m benchmarks.latency $(ARGS)

bench-view: .venv/installed-test
	@$(BIN)/python -m benchmarks.view

# CPU of real workers: some 10 minutes. ARGS="--queues rq --rounds 2 --tasks 1000" takes less.
bench-worker: .venv/installed-test
	@$(BIN)/python -m benchmarks.workers $(ARGS)

# Upgrade pip: dependency groups need 25.1, and that of Python 3.10 and 3.11 takes minutes to find what fits together.
$(MADE):
	@test -n "$(VERSION)" || { echo "No Python 3.10 or newer with venv and pip found: install Python 3.12" \
		"or newer (on Debian and Ubuntu: apt install python3 python3-venv)." >&2; exit 1; }
	@echo "Making .venv with Python $(VERSION)"
	@case $(VERSION) in 3.1[01].*) echo "FastWorker needs Python 3.12 or newer: it is left out." ;; esac
	@$(BEGIN)
	@PIP_QUIET=2 "$(INTERPRETER)" -m venv --upgrade-deps .venv
	@touch $@
	@rm -r .venv-unfinished

# ARQ (0.28) allows no redis-py from 6 on, and Celery none before. It runs with the newest: so it comes without its
# own dependencies, which are there.
ARQ := -qq --disable-pip-version-check --no-compile --no-deps 'arq>=0.25,<0.29'

# Which Python each takes, if it is there; else that of .venv.
.venv-lowest/installed: ON = python3.10
.venv-rq2/installed: ON = python3.11
.venv-python3.%/installed: ON = $(patsubst .venv-%/installed,%,$@)

.PRECIOUS: .venv-%/installed
CONSTRAINTS = $(patsubst %,-c %,$(wildcard tests/$*.txt))

.venv-%/installed: pyproject.toml $(wildcard tests/*.txt) | $(MADE)
	@python=$$("$(or $(ON),$(INTERPRETER))" -c 'import sys; print(sys.executable)' 2>/dev/null) || \
		case $* in python*) echo "$* is not there." >&2; exit 1 ;; *) python="$(INTERPRETER)" ;; esac; \
	echo "Making .venv-$* with $$("$$python" -V)"; \
	PIP_QUIET=2 "$$python" -m venv --clear --upgrade-deps .venv-$*
	@.venv-$*/bin/python -m pip install -qq --disable-pip-version-check --no-compile --group contract -e . $(CONSTRAINTS)
	@.venv-$*/bin/python -m pip install $(ARQ) $(CONSTRAINTS)
	@touch $@

.venv-host-suites/installed: pyproject.toml | $(MADE)
	@echo "Installing what the suites of queue libraries need into .venv-host-suites"
	@PIP_QUIET=2 "$(INTERPRETER)" -m venv --clear --upgrade-deps .venv-host-suites
	@.venv-host-suites/bin/python -m pip install -qq --disable-pip-version-check --no-compile --group host-suites -e .
	@touch $@

.venv/installed-%: pyproject.toml | $(MADE)
	@echo "Installing the dependencies of '$*' into .venv"
	@$(BEGIN)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile $(if $(filter demo,$*),-e '.[demo]',--group $* -e .)
	@$(if $(filter demo test,$*),$(BIN)/python -m pip install $(ARQ))
	@touch $@
	@rm -r .venv-unfinished
