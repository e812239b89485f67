# Nabla, the gradient service. `make` lists the targets.
# Needs Python 3.11 or newer and make; uses uv where it is installed.

PYTHON ?= python3
VENV ?= .venv
export HOST ?= 127.0.0.1
export PORT ?= 8000

BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(VENV)/.runtime ## set everything up and serve on HOST:PORT (127.0.0.1:8000); NABLA_DEMO=off leaves the demo out
	@$(BIN)/python scripts/demo.py --background; exec $(BIN)/python -m service serve

.PHONY: worker
worker: $(VENV)/.runtime ## compute runs, beside make serve or on another machine with the same NABLA_DATABASE
	@exec $(BIN)/python -m service worker

.PHONY: postgres
postgres: ## a PostgreSQL of your own in .postgres, without rights and ports; it prints NABLA_DATABASE (apt install postgresql)
	@exec $(PYTHON) scripts/postgres.py .postgres

WORKERS ?= 2
CLUSTER_PORT ?= 8786
DASK := $(BIN)/python -m dask

.PHONY: cluster
cluster: $(VENV)/.dev ## start a Dask scheduler and WORKERS workers; then NABLA_CLUSTER=tcp://127.0.0.1:8786 make serve
	@files=$$(mktemp -d); pids=; trap 'kill $$pids; rm -rf "$$files"' EXIT; trap 'exit 0' INT TERM; \
	export OPENBLAS_NUM_THREADS=1 MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456 \
		DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=1s; \
	$(DASK) scheduler --host 127.0.0.1 --port $(CLUSTER_PORT) --no-dashboard & pids=$$!; \
	for each in $$(seq $(WORKERS)); do \
		$(DASK) worker tcp://127.0.0.1:$(CLUSTER_PORT) --nthreads 1 --no-nanny --no-dashboard \
			--local-directory "$$files" & pids="$$pids $$!"; \
	done; wait

.PHONY: demo
demo: $(VENV)/.runtime ## build the demo, the page at /, if it is not what demo/ and openapi.yaml say
	@$(BIN)/python scripts/demo.py

# Tests start dozens of processes: without compiled files each would compile everything again.
test: export PYTHONDONTWRITEBYTECODE :=

# Tests in a browser have a process of their own, so that one Chromium and one server do; the demo is built before them. The
# others have one more process than there are cores, because some wait for servers. What the browser's and `lint` say follows.
BROWSER := tests/browser tests/test_demo.py

.PHONY: test
test: $(VENV)/.dev ## set everything up and run every check and test
	@said=$$(mktemp -d); trap 'rm -rf "$$said"' EXIT; \
	$(MAKE) --no-print-directory lint >"$$said/lint" 2>&1 & lint=$$!; \
	{ $(BIN)/python scripts/demo.py || [ $$? = 3 ]; } >"$$said/browser" 2>&1 && \
		$(BIN)/python -m pytest $(BROWSER) >>"$$said/browser" 2>&1 & browser=$$!; \
	$(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(1 + (os.cpu_count() or 1))') --dist worksteal \
		$(BROWSER:%=--ignore=%); tested=$$?; \
	wait $$browser; browsed=$$?; wait $$lint; linted=$$?; cat "$$said/browser" "$$said/lint"; \
	[ $$tested = 0 ] && [ $$browsed = 0 ] && [ $$linted = 0 ]

.PHONY: check
check: lint ## format, lint, types, and openapi.yaml against the schemas
	@$(BIN)/python -m service.openapi --check

.PHONY: lint
lint: $(VENV)/.dev ## format, lint and types: what `check` does that no test does
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev ## format the code and mend what the linter can mend
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

.PHONY: openapi
openapi: $(VENV)/.dev ## write openapi.yaml from the schemas
	@$(BIN)/python -m service.openapi

.PHONY: screenshots
screenshots: $(VENV)/.dev ## make the pictures of README and docs anew, in docs/images
	@$(BIN)/python scripts/demo.py
	@$(BIN)/python -m pytest tests/browser/screenshots.py

.PHONY: bench
bench: $(VENV)/.dev ## measure; see benchmarks/README.md for the peers it can compare with
	@$(BIN)/python -m benchmarks

.PHONY: attack
attack: $(VENV)/.dev ## attack a server on loopback; ATTACK="heavy --seconds 60" chooses, see benchmarks/README.md
	@$(BIN)/python -m benchmarks.attacks $(ATTACK)

.PHONY: image
image: ## build the container image; BASE=python:3.11-slim@sha256:... pins what it is made of, LOCK=cluster adds Dask
	docker build $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(LOCK),--build-arg LOCK=$(LOCK)) -t nabla .

.PHONY: sbom
sbom: ## write sbom.json, the bill of materials of the lock
	@$(PYTHON) scripts/sbom.py

.PHONY: audit
audit: $(VENV)-audit/.installed ## ask whether packages of the lock have known weaknesses
	@$(VENV)-audit/bin/python scripts/audit.py

.PHONY: lock
lock: ## renew requirements/*.txt from pyproject.toml (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		pyproject.toml -o requirements/runtime.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		-c requirements/runtime.txt --extra postgresql pyproject.toml -o requirements/image.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		-c requirements/image.txt --extra postgresql --extra cluster pyproject.toml -o requirements/cluster.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		-c requirements/runtime.txt --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		-c requirements/dev.txt --group audit -o requirements/audit.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
		--group demo -o requirements/node.txt

.PHONY: clean
clean: ## remove everything that was made
	rm -rf $(VENV) $(VENV)-audit sbom.json service/demo demo/.build demo/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp per set of packages, renewed when its lock changes. Every file is checked against its hash.
$(VENV)/.runtime: requirements/runtime.txt
$(VENV)/.dev: requirements/dev.txt
$(VENV)/.runtime $(VENV)/.dev: | $(VENV)/pyvenv.cfg
	@echo "Installing $(notdir $<) into $(VENV) ..."
ifdef UV
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $<
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
endif
	@touch $@

# Apart from the others: the audit brings packages that neither the service nor its tests need.
$(VENV)-audit/.installed: requirements/audit.txt | $(VENV)/pyvenv.cfg
	@echo "Installing $(notdir $<) into $(VENV)-audit ..."
	@$(BIN)/python -m venv --clear $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Nabla needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
ifdef UV
	@$(UV) venv --quiet --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
endif
