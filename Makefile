# `make demo` and `make chat` show the library at work, `make test` holds it to its promises. All set themselves up in .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALL = $(PYTHON) -m venv $(VENV) && $(RUN)/python -m pip install --disable-pip-version-check -c constraints.txt -e

# Five at a time: half of them wait for processes that were killed.
PYTEST := $(RUN)/python -m pytest -n 5 --dist worksteal

# The versions that pyproject.toml promises, and the one that runs here.
VERSIONS := 3.11 3.12 3.13
THIS = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo about-demo chat about-chat test about-test engines about-engines test-others test-without-servers check check-engines bench format clean
.NOTPARALLEL: # two targets may set up the same folder

demo: about-demo $(VENV)/.ready-for-demo
	@$(RUN)/reset-flow demo

chat: about-chat $(VENV)/.ready-for-demo
	@$(RUN)/reset-flow demo --chat

about-chat:
	@echo "A reset in a chat, its process killed half-way: 4 seconds. The first run sets up $(VENV): half a minute more."

about-demo:
	@echo "A whole reset, its process killed half-way: 2 seconds. The first run sets up $(VENV): half a minute more."

test: about-test check
	$(PYTEST) -m "not engine"

about-test:
	@echo "All checks and tests: about fifteen minutes on two cores. The first run sets up $(VENV) and a browser: two minutes more."

# Resets that processes elsewhere wait for: on a real Restate, and on DBOS, both killed. Two at a time: each has servers.
engines: about-engines $(VENV)/.ready-for-tests .engines/.ready check-engines
	RESET_FLOW_TEST_REQUIRE_SERVERS=1 $(PYTEST) -n 2 -m engine

about-engines:
	@echo "Durable engines: about four minutes on two cores. The first run installs Restate in .engines (216 MB), and the SDKs of"
	@echo "others in .venv-engines (450 MB): two minutes more."

.engines/.ready: Makefile
	npm install --prefix .engines --no-save --no-package-lock --ignore-scripts --no-audit --no-fund @restatedev/restate-server@1.7.12
	@touch $@

# Each version in a folder of its own, such as .venv-3.12.
test-others:
	@echo "The tests that need no server, on each other Python: about eight minutes for each, on two cores."
	@$(MAKE) --no-print-directory $(patsubst %,test-on-%,$(filter-out $(THIS),$(VERSIONS)))

test-on-%:
	@for python in python$* $(wildcard $(HOME)/.pyenv/versions/$*.*/bin/python3); do \
		if "$$python" -c '' 2>/dev/null; then \
			exec $(MAKE) --no-print-directory test-without-servers VENV=.venv-$* PYTHON="$$python"; \
		fi; \
	done; \
	echo "Python $*: NOT TESTED, there is none on this machine."

test-without-servers: $(VENV)/.ready-for-tests
	$(PYTEST) -m "not server and not engine"

# What needs no running code: style, types, the direction of imports.
check: $(VENV)/.ready-for-tests
	$(RUN)/ruff format --check
	$(RUN)/ruff check
	$(RUN)/mypy
	$(RUN)/lint-imports

# The examples for other engines, in an environment of their own: it takes 450 MB.
check-engines: .venv-engines/.ready
	.venv-engines/bin/mypy --explicit-package-bases examples/engines/*.py tests/other_engines/*.py
	AIRFLOW_HOME=$(CURDIR)/.venv-engines/airflow .venv-engines/bin/python -m pytest tests/other_engines

# What it costs: below ten minutes, on a machine that does nothing else. What grows with what is stored takes longer, and
# is a command of its own: `python -m benchmarks.scale`.
bench: $(VENV)/.ready-for-tests
	$(RUN)/python -m benchmarks
	$(RUN)/python -m benchmarks.imports
	$(RUN)/python -m benchmarks.masking
	$(RUN)/python -m benchmarks.web

format: $(VENV)/.ready-for-tests
	$(RUN)/ruff format
	$(RUN)/ruff check --fix

clean:
	rm -rf $(VENV) $(VERSIONS:%=.venv-%) .venv-engines .engines

$(VENV)/.ready-for-demo: pyproject.toml constraints.txt
	$(INSTALL) '.[cli,chat]'
	@touch $@

$(VENV)/.ready-for-tests: pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	@touch $(VENV)/.ready-for-demo $@

.venv-engines/.ready: pyproject.toml constraints.txt $(wildcard examples/engines/*.txt)
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
		-c examples/engines/constraints.txt -r examples/engines/requirements.txt -e .
	@touch $@
