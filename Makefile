# make demo   mine installed packages, train a small model on them with a large one as its teacher, compare, save it
# make test   run the tests
# Both set up what they need in .venv and can be repeated.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test lint setup clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		(echo "MTEB needs Python 3.11 or later: make PYTHON=python3.11 ..." && false)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(RUN) examples/quickstart.py

test: $(READY)
	$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy st_softinfonce examples/graph_code_bert/graph_code_bert

clean:
	rm -rf $(VENV) build dist *.egg-info
