# Two commands on a fresh machine: `make run` and `make test`. `make bench` measures; see tests/bench/.
#
#   make test-quick   under a minute: the tests that start no server, for the time between two edits
#   make test         under 12 minutes on two cores: lint and tests, with third-party clients; gateways run on SQLite and
#                     the tests of the store on both databases
#   make test-all     under 20 minutes: the same, then what a release is checked for, and the tests of the API once more,
#                     with gateways on MariaDB
#   make faults       the long runs: the largest bodies, many at once, and hundreds of kills; no part of test-all
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test-quick test test-all faults lint openapi schema dist bench bench-compare caches screenshots packages clean

run: $(VENV)/.run
	@exec $(BIN)/antiphon init --serve

# The markers are in setup.cfg. tests/conftest.py sets `server` from what a test and its fixtures start.
test-quick: $(VENV)/.test
	$(BIN)/pytest -n 2 -m "not server and not faults"

test: packages $(VENV)/.test lint
	$(BIN)/pytest -n 4 --dist loadfile -m "not release and not faults"

test-all: test
	$(BIN)/pytest -n 4 --dist loadfile -m release
	$(BIN)/pytest -n 3 --dist loadfile --database mariadb tests/endpoints tests/every_format tests/relay

# They measure memory, so they need the machine for themselves. They take about four minutes and some 6 GiB of memory, of
# which the gateway takes 800 MiB. FAULTS="-k memory" and other options of pytest.
faults: $(VENV)/.test
	$(BIN)/pytest -m faults $(FAULTS)

# `antiphon init` copies the table of the package, which must be equal to the one at the top.
lint: $(VENV)/.test
	cmp channels.yaml app/cli/channels.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The description of the API that /openapi.json serves. A test compares it with the code.
openapi: $(VENV)/.test
	$(BIN)/python -c 'import app, app.schemas.openapi as o; print(o.encoded(app.__version__).decode(), end="")' \
		>app/web/static/openapi.json

# The JSON Schema of the channel table that `antiphon schema` prints. A test compares it with the code.
schema: $(VENV)/.test
	$(BIN)/python -c 'from app import formats; from app.schemas.channels import encoded_schema as encoded; \
		print(encoded(formats.names()).decode(), end="")' >app/cli/channels.schema.json

# The wheel and the source archive, in dist/.
dist: $(VENV)/.test
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .

# Pictures of every page of the console, in build/screenshots, and the two of the README. Takes two minutes.
screenshots: $(VENV)/.test
	mkdir -p build/screenshots
	ANTIPHON_SCREENSHOTS=$(CURDIR)/build/screenshots $(BIN)/pytest -q tests/console/test_looks.py
	$(BIN)/python -m tests.console.screenshots build/screenshots deploy/screenshots

# Prints the README's table of cached shares, which tests/caches checks. Takes half a minute.
caches: $(VENV)/.test
	@$(BIN)/python -m tests.caches

# Takes two minutes. BENCH="--json FILE" and other options: `python -m tests.bench --help`.
bench: $(VENV)/.test
	@$(BIN)/python -m tests.bench $(BENCH)

# Takes ten minutes. LITELLM=/path/to/litellm when it is not on the PATH.
bench-compare: $(VENV)/.test
	@LITELLM="$(LITELLM)" $(BIN)/python -m tests.bench --tests all --compare litellm,nginx,flask --seconds 3 --rounds 3 $(BENCH)

# Installs the servers that the tests start, from the system's packages. None of them runs as a service.
packages:
	@.ci/packages

$(VENV)/.run: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[tools]'
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[mysql,test]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
