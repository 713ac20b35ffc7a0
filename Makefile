# make demo   from nothing to a trained, exported, searchable model
# make test   the tests, two files at a time, in some 13 minutes; `make test-fast` leaves out the slow ones,
#             `make test-all` runs the long ones as well: outages, kills, clusters
# make lint   ruff and mypy
# make bench  what docs/benchmarks.md shows, measured here; two hours and more, on a machine that does nothing else
#
# PIP_ARGS is given to pip: an index with torch's CPU build, for example, saves gigabytes.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
CORPUS := corpora/python
RUN := $(BIN)/softnce-ray
MEASURE := $(BIN)/python tests/benchmarks

.PHONY: demo test test-fast test-all lint format bench clean

demo: $(VENV)/.installed
	test -f $(CORPUS)/manifest.json || $(RUN) corpus mine --python-environment --out $(CORPUS) --limit 30000
	$(RUN) launch search_spaces/quickstart.yaml
	$(RUN) report quickstart
	$(RUN) export quickstart --to best --overwrite
	$(RUN) search best --corpus $(CORPUS) --top 3 "parse a date string" "remove a directory and all its files" "split a list into chunks"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -m ""

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.lint
	$(BIN)/ruff check softnce_ray tests
	$(BIN)/ruff format --check softnce_ray tests
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff format softnce_ray tests
	$(BIN)/ruff check --fix softnce_ray tests

bench: $(VENV)/.bench
	test -f $(CORPUS)/manifest.json || $(RUN) corpus mine --python-environment --out $(CORPUS) --limit 30000
	$(RUN) launch search_spaces/quickstart.yaml
	$(MEASURE)/training_step.py $(CORPUS)
	$(MEASURE)/step_profile.py $(CORPUS)
	$(MEASURE)/matrix_limit.py $(CORPUS)
	$(MEASURE)/step_cost.py $(CORPUS)
	$(MEASURE)/step_cost.py $(CORPUS) transformer
	$(MEASURE)/preparation_rates.py $(CORPUS)
	$(MEASURE)/evaluation_scale.py
	$(MEASURE)/orchestration.py $(CORPUS) --trials 20 --epochs 4
	$(MEASURE)/slot_memory.py $(CORPUS)
	$(MEASURE)/driver_scale.py $(CORPUS)
	$(MEASURE)/tracking_cost.py $(CORPUS)
	$(MEASURE)/start_up.py softnce_runs quickstart

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: then nothing asks for another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $$(grep '^torch==' constraints.txt)
	$(INSTALL) -e .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(INSTALL) -e ".[test]"
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(INSTALL) -e ".[bench]"
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(INSTALL) -e ".[test,lint]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
