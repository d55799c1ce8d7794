# The project's own targets. `make image` builds the sample; `make check` runs the tests. Both set up
# what they need: Debian packages (packages.txt, as root, where any is missing) and .venv.

PYTHON_BIN := .venv/bin/python
SAMPLE     := fixtures/sample

.PHONY: image zipapp check check-unit check-integration check-full check-walls check-zfs lint format docs bench bench-quick clean deps dev help
.DEFAULT_GOAL := help

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

deps: ## install the Debian packages that are missing (as root)
	@bin/deps check

dev: ## the virtual environment with what tests and linters need
	@bin/setup dev

image: ## build the sample: a Debian system with a web server and one page
	@bin/deps image
	bin/build -m $(SAMPLE)/m.json -o bits/hello $(SAMPLE)/proto

zipapp: dev ## dist/buildstep.pyz: one file that needs nothing but Python; PYTHON=... says for which one
	$(PYTHON_BIN) -m scripts.make_zipapp $(if $(PYTHON),--python $(PYTHON))

check: deps lint check-unit check-integration ## lint, types, unit and integration tests

# Workers of a test run; the tests of one file stay together, as they share what they make.
WORKERS := 2
PYTEST  := $(PYTHON_BIN) -m pytest -q --numprocesses=$(WORKERS) --dist=loadfile

check-unit: dev ## quick tests: no root, no network
	$(PYTEST) tests/unit

check-integration: deps dev ## real tools and file systems, as root
	$(PYTEST) tests/integration tests/walls

# Two files at a time, each with its own report; the time limits are for a machine with two cores.
# The two that take longest begin.
WALLS := walls-kills walls-pairs
WALLS += $(filter-out $(WALLS),$(patsubst tests/walls/test_%.py,walls-%,$(sort $(wildcard tests/walls/test_*.py))))

check-walls: deps dev ## hostile scripts, damage, kills, full disks, pairs: all rounds, as root (under 25 minutes)
	timeout --foreground --kill-after=30 1500 $(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target $(WALLS)

walls-%: ## one file of them: make walls-hostile
	BUILDSTEP_FULL=1 timeout --foreground --signal=INT --kill-after=30 1200 $(PYTHON_BIN) -m pytest -q --durations=3 -p no:cacheprovider tests/walls/test_$*.py

check-full: check-walls ## and all rounds of what make check runs a sample of
	BUILDSTEP_FULL=1 $(PYTEST) tests/integration/test_backends.py tests/integration/test_growth.py tests/integration/test_build.py tests/integration/test_docs.py
	$(MAKE) --no-print-directory check-zfs BUILDSTEP_FULL=1

check-zfs: deps dev ## the ZFS backend on a real pool, in a small guest
	$(PYTHON_BIN) tests/guest/guest.py run --timeout 3600 -- sh -c 'cd /src && BUILDSTEP_FULL=$(BUILDSTEP_FULL) python3 -m pytest -q -p no:cacheprovider tests/integration/test_backends.py tests/integration/test_native_defects.py tests/integration/test_cgroup2.py tests/integration/zfs -k zfs'

lint: dev ## ruff, mypy, codespell, shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/codespell
	shellcheck bin/build bin/deps bin/setup .ci/run bench/peers/*.sh tests/guest/*.sh tests/install/*.sh

format: dev ## let ruff write
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: dev ## make man pages, the command reference and the tables of the docs anew
	$(PYTHON_BIN) -m scripts.make_docs

bench: deps dev ## measure, beside other tools (under 15 minutes)
	$(PYTHON_BIN) -m bench

bench-quick: deps dev ## the same, smaller (under 2 minutes)
	$(PYTHON_BIN) -m bench --quick

clean: ## remove what the targets above made here
	rm -rf bits build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
