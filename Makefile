# `make demo` and `make test` are all that a new machine needs: both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
CODE := core serving gateway trainer clients tests bench

.DEFAULT_GOAL := help

.PHONY: help demo demo-loop up test test-all check check-deploy format gen released lock bench bench-ghz bench-k6 bench-environment clean

help:
	@echo "make demo    data, training, model server, gateway, classified images; about ten minutes the first time"
	@echo "make demo-loop   a first version, new labelled images, retraining, gate, promotion: what was gained"
	@echo "make up      model server and gateway over what the demo left"
	@echo "make test    the tests but the slow ones"
	@echo "make test-all    all tests"
	@echo "make check   formatting, lint, types, import rules, contract, images; needs nothing but .venv"
	@echo "make check-deploy    clients in Go and TypeScript, built and run; needs go and npx"
	@echo "make bench   what docs/performance.md states, measured on this machine"

demo: .venv/.installed
	$(BIN)/neurogate demo

# A first version from few images, new ones uploaded, retraining, gate, promotion, accuracy before and after.
demo-loop: .venv/.installed
	$(BIN)/neurogate demo --loop

up: .venv/.installed
	$(BIN)/neurogate up

# More workers than cores, since most tests wait for servers. A file stays on one worker, which shares its fixtures.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: .venv/.installed
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

check: .venv/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/check

# What needs more than .venv: `go` and `npx`, which .ci/run installs where they are missing.
check-deploy: .venv/.installed
	$(BIN)/python -m pytest tests/deploy

format: .venv/.installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

gen: .venv/.installed
	PYTHON=$(BIN)/python proto/gen.sh

# Makes today's contract the one that later changes are compared with; part of a release.
released: gen
	PATH="$(CURDIR)/$(BIN):$$PATH" buf build --path proto/neurogate --exclude-source-info --as-file-descriptor-set -o proto/released.binpb

# Measures what docs/performance.md states, in about twenty minutes; SCENARIO="single saturation" measures some of it.
bench: .venv/.installed bench-environment
	$(BIN)/python bench/run.py $(SCENARIO)

# The same calls by the tools that users know; ghz is built from its pinned Go module.
bench-ghz: .venv/.installed build/bin/ghz
	$(BIN)/python bench/ghz.py

GHZ := v0.121.0
build/bin/ghz: Makefile
	GOBIN="$(CURDIR)/build/bin" go install github.com/bojand/ghz/cmd/ghz@$(GHZ)
	touch $@

bench-k6: .venv/.installed bench-environment
	$(BIN)/python bench/k6.py

# New versions for everyone: dev.txt holds all, the images' files are cuts of it.
lock: .venv/.installed
	bash requirements/lock.sh

clean:
	rm -rf .venv build dist demo demo-loop runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# What Neurogate is measured against, apart from its own environment.
bench-environment: build/bench-venv/.installed

build/bench-venv/.installed: requirements/bench.txt pyproject.toml
	$(PYTHON) -m venv build/bench-venv
	build/bench-venv/bin/python -m pip install --quiet --require-hashes -r requirements/bench.txt
	touch $@

# Exact versions with hashes; no index address is written anywhere, so pip's own configuration decides.
.venv/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	    f"Neurogate needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; set PYTHON, as in: make PYTHON=python3.12 demo")'
	@echo "Installing into .venv: some minutes and 3 GB, most of it TensorFlow"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
