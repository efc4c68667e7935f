# One entry for people and for CI: make setup demo check controlplane test bench docs
# Needs git, make and Python 3.11 or newer with venv; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
TESTS ?= tests
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help setup demo check controlplane test bench docs chart lock clean
.DEFAULT_GOAL := help

help:  ## Say what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with everything in it; the program is .venv/bin/mlsched

$(STAMP): pyproject.toml requirements/dev.txt requirements/uv.txt deploy/setup.sh
	@PYTHON="$(PYTHON)" sh deploy/setup.sh
	@touch $(STAMP)

demo: $(STAMP)  ## Run the main job on real data: build a dataset, train on it, report
	@$(BIN)/mlsched demo

check: $(STAMP)  ## Lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

controlplane:  ## Build a Kubernetes control plane and nodes for the tests, once a machine
	@$(PYTHON) tests/controlplane/build.py

test: $(STAMP)  ## Run all tests; those on Kubernetes where `make controlplane` was run
	$(BIN)/python -m pytest $(TESTS) -n $(JOBS)

bench: $(STAMP)  ## Measure what docs/performance.md tells
	$(BIN)/python -m tests.perf

docs: $(STAMP)  ## Write what is generated: JSON Schema, field tables, diagrams
	$(BIN)/python -m mlsched.specs.schema > docs/schema/mljob.v1alpha1.json

chart: $(STAMP)  ## Complete the Helm chart in deploy/helm/mlsched with the CRDs
	@mkdir -p deploy/helm/mlsched/files
	$(BIN)/mlsched controller crds > deploy/helm/mlsched/files/crds.yaml

lock: $(STAMP)  ## Renew the locked requirements from pyproject.toml
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-header \
	  --no-annotate -q pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-header \
	  --no-annotate -q --extra agent pyproject.toml -o requirements/base.txt
	$(BIN)/uv pip compile --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header \
	  --python-version 3.11 --no-annotate -q --extra dask --extra s3 pyproject.toml \
	  requirements/ray-image.in -o requirements/ray-image.txt

clean:  ## Remove what the other targets made
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
