# What a person (and CI) does here. Needs python3 >= 3.11, git and make; everything else is installed below .venv.
PYTHON ?= python3
BIN := .venv/bin
UV := .uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
	--python-version 3.11 --custom-compile-command "make lock"

.PHONY: help run test check format bench chaos db lock clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

run: .venv ## serve the gateway, with a database and a model of its own if none is given
	@$(BIN)/freya serve

test: .venv ## all tests but the long ones, with the coverage gates
	@scripts/test

check: .venv ## format, lint, types, layers, migrations, duplicates, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pytest tests/test_layers.py tests/integration/test_migrations.py
	$(BIN)/pylint --disable=all --enable=duplicate-code freya_gateway benchmarks
	$(BIN)/zizmor --offline --quiet .github

format: .venv ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv ## the figures, next to their peers
	$(BIN)/python -m benchmarks

chaos: .venv ## the long runs of kills and cuts
	$(BIN)/pytest -m chaos --timeout 1800

db: .venv ## psql on the development database
	@$(BIN)/freya db shell

lock: $(UV) ## pin the newest versions that fit, with hashes
	$(COMPILE) --upgrade pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade pyproject.toml --extra local --extra migrate --group dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) --upgrade requirements-build.in -c requirements-dev.lock -o requirements-build.lock
	$(COMPILE) --upgrade requirements-uv.in -o requirements-uv.lock

clean: ## remove what was installed and measured; the development database stays
	rm -rf .venv .uv .coverage* .pytest_cache .ruff_cache .hypothesis

$(UV): requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .uv || { echo "python3 has no venv module: install python3-venv" >&2; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@touch $@

.venv: .venv/installed

.venv/installed: $(UV) requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements-dev.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
