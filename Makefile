# Thin wrappers; README.md shows the plain command behind each.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: tutorial test lab notebooks book lint clean

tutorial: $(READY)
	$(BIN)/python notebooks/run.py --out build

test: $(READY)
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)
	$(BIN)/python notebooks/run.py --in-place

book: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[book]'
	$(BIN)/python -m sphinx.ext.apidoc --force --no-toc --templatedir docs/book/templates --output-dir docs/book/reference draem_aitex >/dev/null
	$(BIN)/python -m sphinx --quiet --fail-on-warning --conf-dir docs/book . build/book
	$(BIN)/python docs/book/check_links.py build/book

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check draem_aitex tests benchmarks notebooks/run.py
	$(BIN)/mypy

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

clean:
	rm -rf build docs/book/reference .venv
