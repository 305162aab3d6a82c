# `make demo` and `make test` are all that a new machine needs: both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check gen bench up lock clean format

demo: .venv/.installed
	$(BIN)/neurogate demo

up: .venv/.installed
	$(BIN)/neurogate up

test: .venv/.installed
	$(BIN)/python -m pytest

# Exact versions with hashes; no index address is written anywhere, so pip's own configuration decides.
.venv/.installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

gen: .venv/.installed
	PYTHON=$(BIN)/python proto/gen.sh
