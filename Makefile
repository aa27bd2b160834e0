# Two commands for everybody, one for who changes something, one for those who doubt us. Each does all its set-up in .venv, so that a fresh
# machine needs only python3 and make; a stamp file remembers what pyproject.toml asked for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test quick docs bench clean browser

help:
	@echo "make demo    install, fit a real table of counts, write poplin-demo/report.html"
	@echo "make test    install, then ruff, pyright, the tests and the examples in the docstrings"
	@echo "make quick   install, then ruff, pyright and a tenth of the tests, some of every room: three minutes"
	@echo "make docs    install, build the documentation into site/ and run its code meanwhile: about three minutes"
	@echo "make bench   install pyPLNmodels too and run poplin and it side by side"

demo: $(VENV)/.ready
	$(BIN)/poplin demo --out poplin-demo

test: $(VENV)/.ready-test browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright src
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

# What tests/quick.txt lists, and no more installed than for `make test`.
quick: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright src
	$(BIN)/python -m pytest -n 2 --dist worksteal @tests/quick.txt

# The report is tested in a browser; without one that test is skipped by name, and the others run.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing chromium, in which the report is tested ..."; \
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 \
			|| echo "It could not be installed: tests/test_report_browser.py will be skipped."; \
	else echo "No chromium and chromedriver here: tests/test_report_browser.py will be skipped."; fi

docs: $(VENV)/.ready-docs
	$(BIN)/mkdocs build --strict
	@echo "The documentation: site/index.html"

bench: $(VENV)/.ready-bench
	$(BIN)/python -m benchmarks.run $(BENCH)

clean:
	rm -rf $(VENV) poplin-demo site .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "poplin needs Python 3.11 or newer; say which with make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	@echo "Installing poplin and what it needs into $(VENV) (a minute or two the first time) ..."
	@$(PIP) --editable '.[datasets,events,mcmc]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	@echo "Installing what the documentation is built with ..."
	@$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	@echo "Installing pyPLNmodels to compare with ..."
	@$(PIP) --editable '.[bench]'
	@touch $@
