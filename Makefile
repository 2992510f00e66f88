# `make demo` shows the library at work, `make test` holds it to its promises. Both set themselves up in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test check bench format clean

demo: $(VENV)/.ready
	@$(RUN)/reset-flow demo

# Four at a time: half of it waits for processes that were killed.
test: check
	$(RUN)/python -m pytest -n 4 --dist worksteal

# What needs no running code: style, types, the direction of imports.
check: $(VENV)/.ready
	$(RUN)/ruff format --check
	$(RUN)/ruff check
	$(RUN)/mypy
	$(RUN)/lint-imports

# What it costs: below ten minutes, on a machine that does nothing else. What grows with what is stored takes longer, and
# is a command of its own: `python -m benchmarks.scale`.
bench: $(VENV)/.ready
	$(RUN)/python -m benchmarks
	$(RUN)/python -m benchmarks.imports
	$(RUN)/python -m benchmarks.masking

format: $(VENV)/.ready
	$(RUN)/ruff format
	$(RUN)/ruff check --fix

clean:
	rm -rf $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,postgres,redis,otel,dev]'
	@touch $@
