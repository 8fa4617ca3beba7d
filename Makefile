# `make demo` and `make test` do all the set-up on a fresh machine: a virtual environment in .venv with pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Changes to these two files mean that the environment must be made again.
READY := $(VENV)/.ready
DEMO := runs/demo

.PHONY: demo test lint slow bench models gallery tables clean

demo: $(READY)  ## train on 8x8 digits (about a minute on 2 cores) and show pictures and an honest number
	rm -rf $(DEMO)
	$(BIN)/nextpixel train digits --out $(DEMO) $(DEMO_ARGS)

test: $(READY)  ## all tests but the slow ones and those that need a GPU
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

slow: $(READY)
	$(BIN)/python -m pytest -m slow

bench: $(READY)  ## sampling and training against what this machine's arithmetic would allow
	$(BIN)/nextpixel bench

models: $(READY)  ## train all bundled models (days of one core; resumable), data from the folder in NEXTPIXEL_DATA
	$(BIN)/python tools/models.py

models/%: $(READY)  ## one of them
	$(BIN)/python tools/models.py $*

gallery: $(READY)  ## docs/gallery.md: samples and completions of each bundled model
	$(BIN)/python tools/gallery.py

tables: $(READY)  ## the tables of README and docs, from nextpixel/results
	$(BIN)/python -m nextpixel.results.tables

# torch first and alone: the plain wheel of this version is the CPU build, and nothing after it may exchange it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools
	$(PIP) torch
	$(PIP) -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache
