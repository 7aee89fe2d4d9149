# Every target says what it does; plain `make` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
STAMP := $(VENV)/.made

.DEFAULT_GOAL := help
WORKERS ?= 2
SEEDS ?= 2000
ROUNDS ?=
INPUTS ?= 100000
CASES ?= 5000
FIRST ?= 0

.PHONY: help setup setup-js demo demo-chat dev test test-js bench simulate mutants powercut chaos hotspots upgrade fuzz schemathesis interop authmatrix failures commands metrics-page alerts sync-client check docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with perdure and everything that its tests need

$(STAMP): pyproject.toml sdk/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "perdure needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt -e sdk/python -e '.[dev]'
	@mkdir -p .typing/perdure
	@for part in replication regions api; do ln -sfn ../../$$part .typing/perdure/$$part; done
	@touch $(STAMP)

setup-js: ## what the tests of the React hooks and of the chat transport need, from npm
	cd sdk/javascript && npm ci --no-audit --no-fund

demo: setup ## three regions, one killed in the middle of a word, and the proof that nothing was lost
	$(BIN)/perdure demo failover $(ARGS)

demo-chat: setup ## the same three with a page for the browser: share a session with an agent, kill a region
	$(BIN)/perdure demo chat $(ARGS)

dev: setup ## three regions eu, us, ap on ports 7101 to 7103, until Ctrl-C
	$(BIN)/perdure dev $(ARGS)

# Hundreds of processes are started: each would compile everything anew where this is set.
test: export PYTHONDONTWRITEBYTECODE =
test: setup ## the whole test suite, Python and JavaScript, in WORKERS=2 processes
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal $(ARGS)
	@$(MAKE) --no-print-directory test-js

test-js: ## the tests of the JavaScript client, and of the page's modules
	@if command -v node >/dev/null; then node --test sdk/javascript/test/*.test.js tests/page/*.test.mjs; \
	elif [ "$$CI" = true ]; then echo "the JavaScript tests need Node 18 or newer"; exit 1; \
	else echo "no node here: the JavaScript client was not tested"; fi

bench: setup ## what everything costs on this machine, by the kernel's accounting (about 15 minutes)
	$(BIN)/python -m tests.bench $(ARGS)

simulate: setup ## whole regions from seeds: SEEDS=2000 FIRST=0, or one again with SEED=
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST)) $(ARGS)

mutants: setup ## deliberate bugs: does the simulation catch them?
	$(BIN)/python -m tests.simulation --mutants $(ARGS)

chaos: setup ## real processes that are killed, stopped, wiped and cut off: ROUNDS=20 FIRST=0
	$(BIN)/python -m tests.chaos $(if $(ROUNDS),--rounds $(ROUNDS)) --first $(FIRST) $(ARGS)

hotspots: setup ## a storm of readers, diverged sessions, a link that flaps: ARGS="--flaps 600"
	$(BIN)/python -m tests.hotspots $(ARGS)

fuzz: setup ## damaged bytes against the parsers of Yjs, frames and cursors: INPUTS=1000000 each ARGS="--seed 7"
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) $(ARGS)

schemathesis: setup ## requests drawn from the description of the API, at a region: CASES=50000
	$(BIN)/python -m tests.schemathesis --cases $(CASES) $(ARGS)

interop: setup ## unmodified y-websocket clients at three regions; needs node, and npm with a registry
	$(BIN)/python -m tests.interop $(ARGS)

authmatrix: setup ## who may do what: every case of the model of grants, asked of a region
	PERDURE_AUTHMATRIX_ALL=1 $(BIN)/pytest -q -s -n 0 tests/api/test_authmatrix.py $(ARGS)

failures: setup ## docs/FAILURES.md anew, from the marks on the tests
	$(BIN)/python -m tests.failures

commands: setup ## docs/operating/command-line.md anew, from the command line and the settings
	$(BIN)/python -m tests.command_line

alerts: ## the alerts of deploy/monitoring by Prometheus' own promtool, which must be installed
	promtool check rules deploy/monitoring/alerts.yaml
	promtool test rules deploy/monitoring/alerts_test.yaml

metrics-page: setup ## the tables of docs/operating/metrics.md anew, from the code
	$(BIN)/python -m tests.metrics_page

sync-client: setup ## the blocking Python client anew, from the asynchronous one
	$(BIN)/python sdk/python/make_sync.py

upgrade: setup ## three regions of an older build, REV=, are replaced by this one while tokens stream
	$(BIN)/python -m tests.upgrade $(if $(REV),--rev $(REV)) $(ARGS)

docs: setup ## the site of the documentation, in site/; broken links are errors
	$(BIN)/python -m tests.handbook $(ARGS)

powercut: setup ## cut the power of a region: ROUNDS=2000 FIRST=0, or one round again with SEED=
	$(BIN)/python -m tests.powercut $(if $(SEED),--seed $(SEED),$(if $(ROUNDS),--rounds $(ROUNDS)) --first $(FIRST)) $(ARGS)

check: setup ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p perdure.replication -p perdure.regions -p perdure.api -p perdure_client

format: setup ## put the code into the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what setup and the tests made
	rm -rf $(VENV) .typing .data build dist site *.egg-info sdk/python/*.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
