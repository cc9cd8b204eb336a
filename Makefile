# `make demo` and `make test` do everything on a bare machine with Python 3.11 or newer.

PYTHON ?= python3
UV ?= $(shell uv --version >/dev/null 2>&1 && echo uv)
# `make test FAST=1` leaves the slow tests out; ARGS goes to pytest or to the demo, UPGRADE=1 to `make lock`.
ARGS ?=
UPGRADE ?=

VENV := .venv
READY := $(VENV)/.mri-unroll-ready
EXTRAS := cluster,dev,dicom,docs,nufft,serve,train

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs format lock versions
.DELETE_ON_ERROR:

help:
	@echo "make demo    reconstruct the sample scan and say where the report is"
	@echo "make test    run the tests (FAST=1: without the slow ones; ARGS: for pytest)"
	@echo "make check   form, lint, types, floors; make format puts form right"
	@echo "make docs    build the pages of docs/ as a site, docs/_site/index.html"
	@echo "make versions  try the oldest dependencies and every Python that is supported (ARGS: which; needs uv)"
	@echo "make lock    pin again: constraints.txt, requirements*.lock (UPGRADE=1: newest versions; needs uv)"
	@echo "Each makes $(VENV) when it is missing or out of date. PYTHON=... says from which Python."

demo: $(READY)
	@$(VENV)/bin/mri-unroll demo $(ARGS)

# What both do stands in the scripts alone, which people and CI call as well; each begins with `make setup`.
test:
	@scripts/test $(ARGS)

check:
	@scripts/check

versions:
	@scripts/check_versions $(ARGS)

docs: $(READY)
	@$(VENV)/bin/python -m sphinx -W --keep-going -q docs docs/_site
	@echo docs/_site/index.html

setup: $(READY)

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# The stamp is written last: a set-up that was cut short is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "mri_unroll needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	    exit 1; }
	@if [ -e $(VENV) ]; then \
	    echo "== bringing $(VENV) up to date"; \
	else \
	    echo "== first set-up: making $(VENV); PyTorch and the rest may be a few GB to download"; \
	fi
ifneq ($(UV),)
	@$(VENV)/bin/python -c '' 2>/dev/null || \
	    $(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@echo "== installing into $(VENV) with uv, held to constraints.txt"
	@$(UV) pip install --python $(VENV)/bin/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
else
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "$(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; }
	@echo "== installing into $(VENV) with pip, held to constraints.txt"
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
endif
	@touch $@

COMPILE = uv pip compile --universal --fork-strategy fewest --no-annotate --no-emit-index-url --no-emit-find-links \
    --custom-compile-command "make lock" --quiet $(if $(UPGRADE),--upgrade)
LOCK = printf 'hatchling\n' | $(COMPILE) --python-version 3.12 --constraint constraints.txt --generate-hashes

# The locks are for the Dockerfile: with hashes, and with the build backend, so that nothing unpinned is fetched there.
lock:
	$(COMPILE) --python-version 3.11 --all-extras pyproject.toml --output-file constraints.txt
	$(LOCK) pyproject.toml - --extra dicom --extra postgres --extra serve --output-file requirements.lock
	$(LOCK) pyproject.toml - --extra dicom --extra postgres --extra serve --extra gpu --output-file requirements-gpu.lock
