# `make demo` and `make test` need Python 3.10 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
BIN = $(VENV)/bin

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml setup.py
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10), 'Python 3.10 or newer is needed, this is ' + sys.version"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python tools/make_city.py --out $(DEMO)/data/city
	$(BIN)/python tools/train.py --config-file configs/demo.yaml --root $(DEMO)/data --resume auto train.save_dir $(DEMO)
	$(BIN)/python tools/extract.py --weights $(DEMO)/weights.safetensors --root $(DEMO)/data -t city --out $(DEMO)/features.npz --workers 0
	$(BIN)/python tools/evaluate.py $(DEMO)/features.npz --config-file configs/demo.yaml --weights $(DEMO)/weights.safetensors
	@echo "The table is in $(DEMO)/card.json, the pictures are in $(DEMO)/pictures."

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build dist *.egg-info
