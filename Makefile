# Each target sets itself up in .venv; a fresh machine needs only Python, with venv and pip.
#   PYTHON=...   the interpreter to use       ARGS="..."   more arguments for demo, test, soak and the benchmarks
.NOTPARALLEL:
.PHONY: demo test test-lowest test-rq2.0 test-rq2 host-suites check recipes docs dashboards dist newest flaky soak bench bench-worker bench-growth bench-latency bench-view

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

# Run the contract, but for our options, with the oldest versions that pyproject.toml allows, and FastWorker's
# tests, because only its oldest version has subworkers that start. The old drivers warn a lot.
OLD := CONTRACT_SHOWN_BY="the newest versions"
test-lowest: .venv-lowest/installed
	@$(OLD) .venv-lowest/bin/python -W ignore -m pytest $(AT_ONCE) --override-ini=filterwarnings= \
		tests/contract tests/brokers/test_fastworker*.py -k "not (rabbitmq or postgresql or SimpleWorker)" $(ARGS)

# Run RQ's tests with its first version, and with the last before 3.
test-rq2.0: .venv-rq2.0/installed
	@.venv-rq2.0/bin/python -W ignore -m pytest $(AT_ONCE) --override-ini=filterwarnings= \
		tests/brokers/test_rq*.py $(ARGS)
test-rq2: .venv-rq2/installed
	@$(OLD) .venv-rq2/bin/python -W ignore -m pytest $(AT_ONCE) --override-ini=filterwarnings= \
		tests/brokers/test_rq*.py tests/contract/test_rq.py $(ARGS)

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

# Build what users download, and try it as they do: alone, in a fresh venv, outside of this folder.
WHEEL := .venv-wheel
dist: .venv/installed-dist
	@rm -rf dist
	@said=$$($(BIN)/python -m build --no-isolation 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/twine check --strict dist/*
	@PIP_QUIET=2 "$(INTERPRETER)" -m venv --clear --upgrade-deps $(WHEEL)
	@$(WHEEL)/bin/python -m pip install -qq --disable-pip-version-check --no-compile dist/*.whl
	@cd $(WHEEL) && bin/otel-queue-bridge --help
	@cd $(WHEEL) && bin/otel-queue-bridge dashboards --out dashboards
	@$(WHEEL)/bin/python -m pip install -qq --disable-pip-version-check --no-compile "$$(echo dist/*.whl)[demo]"
	@cd $(WHEEL) && bin/otel-queue-bridge demo $(ARGS)

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

.venv-%/installed: pyproject.toml tests/%.txt | $(MADE)
	@echo "Installing the versions of tests/$*.txt into .venv-$*"
	@PIP_QUIET=2 "$(INTERPRETER)" -m venv --clear --upgrade-deps .venv-$*
	@.venv-$*/bin/python -m pip install -qq --disable-pip-version-check --no-compile --group contract -e . -c tests/$*.txt
	@.venv-$*/bin/python -m pip install $(ARQ) -c tests/$*.txt
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
