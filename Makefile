# Thin: every target sets up what it needs and then calls one command.
STUDY ?= augmentation
PROFILE ?= full
PYTEST_ARGS ?=
TEST_WORKERS ?= 2

BIN := .venv/bin
OVERLAY := $(if $(filter full,$(PROFILE)),,-f parameters/$(PROFILE).yaml)

.DEFAULT_GOAL := help
.PHONY: help book test lint lock clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8
	@echo "variables: STUDY=$(STUDY) PROFILE=$(PROFILE) (full or smoke) PYTEST_ARGS=... TEST_WORKERS=$(TEST_WORKERS)"

.venv/.complete: requirements.lock pyproject.toml scripts/setup
	scripts/setup

book: .venv/.complete  ## run the study and build its book: book/_build/html/index.html
	$(BIN)/mdhelpers run parameters/$(STUDY).yaml $(OVERLAY)
	$(BIN)/mdhelpers book $(STUDY) --profile $(PROFILE)

test: .venv/.complete  ## run the tests; those in a browser need chromium
	@command -v chromium chromium-browser google-chrome >/dev/null || \
		scripts/apt-install chromium || echo "The tests in a browser are skipped."
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: .venv/.complete  ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lock: .venv/.complete  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
		--no-header --no-annotate --upgrade --output-file requirements.lock

clean:  ## remove the built book and caches; runs and .venv stay
	rm -rf book/_build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
