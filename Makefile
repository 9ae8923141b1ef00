# Each target sets itself up in .venv; a fresh machine needs Python alone, with venv and pip.
#   PYTHON=...   the interpreter to use       ARGS="..."   more arguments for demo, test and bench
.NOTPARALLEL:
.PHONY: demo test test-lowest check bench

BIN := .venv/bin

# What is imported gets compiled when it is first run, instead of all of pandas at set-up: that halves it.
unexport PYTHONDONTWRITEBYTECODE

# The first Python of 3.12 or newer, else of 3.10: run, not looked up, as a pyenv shim may stand for nothing.
CANDIDATES := $(or $(PYTHON),python3 python3.12 python3.13 python3.14 python3.15 python3.11 python3.10)
ASK := import os, sys, venv, ensurepip; least = (3, int(sys.argv[1])); \
	sys.exit(1) if sys.version_info < least else None; \
	print("%d.%d.%d" % sys.version_info[:3], os.path.realpath(sys.executable))
FOUND := $(shell for minor in 12 10; do for python in $(CANDIDATES); do \
	"$$python" -c '$(ASK)' $$minor 2>/dev/null && exit; done; done)
VERSION := $(firstword $(FOUND))
INTERPRETER := $(wordlist 2,99,$(FOUND))
MADE := .venv/python-$(VERSION)

# What another Python made, or a make that is no more left unfinished, goes; a .venv of other origin stays and is used.
BEGIN := mkdir .venv-unfinished && echo $$PPID >.venv-unfinished/make
$(if $(VERSION),$(shell { \
	if test -e .venv-unfinished; then ! kill -0 "$$(cat .venv-unfinished/make)"; \
	else ls .venv/python-* && ! test -e $(MADE); fi && rm -rf .venv .venv-unfinished; } >/dev/null 2>&1))

demo: .venv/installed-demo
	@$(BIN)/otel-queue-bridge demo $(ARGS)

# Most of the time is waiting for real processes: three at once, whatever the cores.
test: .venv/installed-test
	@$(BIN)/python -m pytest --numprocesses=3 --dist=loadscope $(ARGS)

# The contract again, with the oldest versions that pyproject.toml allows, and FastWorker's behaviour: only the
# oldest has subworkers as shipped. Their drivers warn a lot.
test-lowest: .venv-lowest/installed
	@.venv-lowest/bin/python -W ignore -m pytest --numprocesses=3 --dist=loadscope --override-ini=filterwarnings= \
		tests/contract tests/brokers/test_fastworker*.py -k "not rabbitmq" $(ARGS)

check: .venv/installed-test .venv/installed-check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# ARGS=--instructions counts them too; that takes valgrind and minutes.
bench: .venv/installed-test
	@$(BIN)/python -m benchmarks $(ARGS)

# Python 3.10 and 3.11 bring a pip that takes minutes to find a set of packages that fit: hence the upgrade.
$(MADE):
	@test -n "$(VERSION)" || { echo "No Python 3.10 or newer with venv and pip found: install Python 3.12" \
		"or newer (on Debian and Ubuntu: apt install python3 python3-venv)." >&2; exit 1; }
	@echo "Making .venv with Python $(VERSION)"
	@case $(VERSION) in 3.1[01].*) echo "FastWorker needs Python 3.12 or newer: it is left out." ;; esac
	@$(BEGIN)
	@PIP_QUIET=2 "$(INTERPRETER)" -m venv --upgrade-deps .venv
	@touch $@
	@rm -r .venv-unfinished

.venv-lowest/installed: pyproject.toml tests/lowest.txt | $(MADE)
	@echo "Installing the lowest versions into .venv-lowest"
	@"$(INTERPRETER)" -m venv --clear .venv-lowest
	@.venv-lowest/bin/python -m pip install -qq --disable-pip-version-check --no-compile -e '.[contract]' -c tests/lowest.txt
	@touch $@

.venv/installed-%: pyproject.toml | $(MADE)
	@echo "Installing what '$*' needs into .venv"
	@$(BEGIN)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -e '.[$*]'
	@touch $@
	@rm -r .venv-unfinished
