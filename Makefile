# Everything that is done with this repository by hand or in CI. `make` alone lists it.

PORT ?= 8000
VENV ?= .venv
# A Python to use instead of the first that scripts/pythons.sh finds.
PYTHON ?=
# More words for pytest, as in: make test ARGS='-k router -x'
ARGS ?=
# COV=1 measures coverage as well.
COV ?=
# Several processes, as many tests wait; who is done takes tests from the others. ARGS='-n 0' has none, for a debugger.
# Coverage costs the processor so much that more than two would only be late.
WORKERS := -n $(if $(COV),2,4) --dist worksteal

SYSTEM_PACKAGES := chromium haproxy nginx-light postgresql python3-venv redis-tools

PY := '$(VENV)/bin/python'
PIP := $(PY) -m pip --disable-pip-version-check --no-input
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(INSTALLED) ## Run the chat example on http://127.0.0.1:8000 (PORT=9000 for another port)
	@'$(VENV)/bin/aq' compile
	@exec '$(VENV)/bin/aq' serve --port $(PORT)

# Tests start hundreds of processes, which would all compile aquilia/ again where the environment forbids .pyc files.
.PHONY: test
test: export PYTHONDONTWRITEBYTECODE :=
test: $(INSTALLED)-test ## Run the tests (COV=1 with coverage, ARGS='-k name' for some of them)
ifeq ($(COV),)
	@$(PY) -m pytest $(WORKERS) $(ARGS)
else
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest $(WORKERS) $(ARGS)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report
endif

.PHONY: coverage
coverage: ## The same as make test COV=1: fails under 95 %, and lists the lines not reached
	@$(MAKE) --no-print-directory test COV=1

.PHONY: test-all
test-all: ## Run the tests on every Python from 3.11 that is here, each in .venvs/X.Y
	@pythons=$$(sh scripts/pythons.sh) || exit 1; \
	printf '%s\n' "$$pythons" | { passed=; failed=; \
	while read -r version python; do \
		echo "== Python $$version"; \
		if $(MAKE) --no-print-directory test VENV=".venvs/$$version" PYTHON="$$python" </dev/null; \
		then passed="$$passed $$version"; else failed="$$failed $$version"; fi; \
	done; \
	echo "== passed on:$${passed:- none}; failed on:$${failed:- none}"; test -z "$$failed"; }

.PHONY: promises
promises: $(INSTALLED)-test ## Write the table of promises by adapter into docs/BROKERS.md
	@$(PY) tests/promises.py

.PHONY: check
check: $(INSTALLED)-check ## Check style and types: ruff, and mypy --strict
	@'$(VENV)/bin/ruff' check
	@'$(VENV)/bin/ruff' format --check
	@echo "mypy aquilia"; $(PY) -m mypy --strict --package aquilia
	@# One run for each module: their folders are import roots of their own, each with a `manifest`.
	@for module in modules/*/; do \
		echo "mypy $$module"; MYPYPATH="$$module" $(PY) -m mypy --strict "$$module" || exit 1; done

.PHONY: format
format: $(INSTALLED)-check ## Put the code into the house's style, as far as ruff can
	@'$(VENV)/bin/ruff' check --fix
	@'$(VENV)/bin/ruff' format

.PHONY: system-deps
system-deps: ## Install what the tests need of the system (Debian, as root)
	@if ! command -v dpkg-query >/dev/null || ! grep -qsE '^ID(_LIKE)?=.*debian' /etc/os-release; then \
		echo "This is no Debian. Install by the means of your system: $(SYSTEM_PACKAGES)" >&2; exit 1; fi; \
	missing=; for package in $(SYSTEM_PACKAGES); do \
		test "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed \
		|| missing="$$missing $$package"; done; \
	if test -z "$$missing"; then echo "Installed already: $(SYSTEM_PACKAGES)"; exit 0; fi; \
	if test "$$(id -u)" != 0; then \
		echo "Only root can install$$missing. Run: sudo make system-deps" >&2; exit 1; fi; \
	echo "Installing$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update && apt-get -qq -y --no-install-recommends install $$missing >/dev/null

.PHONY: soak
soak: $(INSTALLED)-test ## Kill servers and the broker under load, or replace workers (ARGS=--rolling): nothing may be lost
	@$(PY) tests/soak/soak.py $(ARGS)

.PHONY: simulate
simulate: $(INSTALLED)-test ## Run whole nodes and clients by seeds, on a simulated network (ARGS='--seed 4711': one)
	@PYTHONPATH=tests $(PY) -m simulation $(ARGS)

.PHONY: conformance
conformance: $(INSTALLED)-test ## Run the Autobahn suite on both transports (ARGS=--write: into docs/CONFORMANCE.md)
	@PYTHONPATH=tests:tests/sockets $(PY) -m conformance $(ARGS)

.PHONY: abuse
abuse: $(INSTALLED)-test ## Set clients that mean harm on a server: nothing may stay behind (ARGS='--seconds 600')
	@PYTHONPATH=tests:tests/sockets $(PY) -m abuse $(ARGS)

.PHONY: fuzz
fuzz: $(INSTALLED)-fuzz ## Feed hostile bytes to what reads them (ARGS='--seconds 600 --only frames')
	@PYTHONPATH=tests:tests/sockets $(PY) -m fuzzing $(ARGS)

.PHONY: bench
bench: $(INSTALLED)-test ## Measure the speed beside other servers, for half an hour (ARGS=--quick: a first look)
	@if command -v npm >/dev/null && ! test -d benchmarks/servers/node_modules/ws; then \
		npm install --prefix benchmarks/servers --no-package-lock --ignore-scripts --no-audit --no-fund \
			--loglevel error || echo "ws on Node could not be installed" >&2; fi
	@$(PY) benchmarks/run.py $(ARGS)

.PHONY: clean
clean: ## Remove everything that these commands made, environments too
	@rm -rf .venv .venvs build dist htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis artifacts
	@rm -rf benchmarks/servers/node_modules
	@rm -f .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments. One is made once, and filled again when pyproject.toml has changed; a stamp for each
# set of packages tells. Old versions of pip know no dependency groups (PEP 735): hence the first install.
$(INSTALLED) $(INSTALLED)-test $(INSTALLED)-check $(INSTALLED)-fuzz: pyproject.toml | $(VENV)/bin/python
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PIP) install --quiet 'pip>=25.1'
	@echo "Installing aquilia$(if $(group), and what its $(group)s need,) into $(VENV) …"
	@$(PIP) install --quiet --editable . $(if $(group),--group $(group))
	@touch '$@'

$(INSTALLED)-test: group := test
$(INSTALLED)-check: group := check
$(INSTALLED)-fuzz: group := fuzz

$(VENV)/bin/python:
	@pythons=$$(sh scripts/pythons.sh $(if $(PYTHON),'$(PYTHON)')) || exit 1; \
	first=$$(printf '%s\n' "$$pythons" | head -n 1); \
	echo "Making $(VENV) with Python $${first%% *}"; \
	"$${first#* }" -m venv --clear '$(VENV)'
