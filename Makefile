# Two commands do all the set-up on a fresh Debian 12 clone: make demo, make test.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
PYTEST := $(SUDO) .venv/bin/python -m pytest
ALONE := tests/unit tests/db tests/cli tests/sim tests/virt
# what looks at all of the machine, or measures it, has it to itself; the rest of the lab runs twice at once
WHOLE := tests/lab/test_lab_fleet.py
LAB := -n 2 --dist loadfile --no-loadscope-reorder tests/lab --ignore=$(WHOLE)

.PHONY: help setup setup-tests demo test check docs unit lab bench matrix reliability clean

help:
	@echo "make demo    set everything up, boot an instance on two real hypervisors, clean up"
	@echo "make test    set everything up, run the whole suite (root)"
	@echo "make check   ruff, mypy, shellcheck"
	@echo "make unit    the tests that need no lab"
	@echo "make bench   measure, write docs/performance figures to bench.json"
	@echo "make matrix  every kill of every operation on SQLite; an hour"
	@echo "make reliability  every kill on the three databases, 10000 schedules; writes docs/reliability.md"
	@echo "make docs    write docs/commands.md and docs/novactl.1 from the code"
	@echo "make clean   remove .venv and caches"

setup:
	@scripts/setup

setup-tests:
	@scripts/setup tests

demo: setup
	@$(SUDO) .venv/bin/novactl demo

check: setup-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	shellcheck -s sh scripts/setup
	shellcheck -s bash novactl/cli/shells/novactl.bash
	cat novactl/remote/*.sh | shellcheck -s sh -

test: check
	$(PYTEST) -n 2 $(ALONE)
	$(PYTEST) $(LAB)
	$(PYTEST) $(WHOLE) tests/bench

# what is made from the code: the reference and the man page
docs: setup
	.venv/bin/python -m novactl.cli.reference markdown >docs/commands.md
	.venv/bin/python -m novactl.cli.reference man >docs/novactl.1

unit: setup-tests
	.venv/bin/python -m pytest -n 2 $(ALONE)

lab: setup-tests
	$(PYTEST) $(LAB)
	$(PYTEST) $(WHOLE)

bench: setup-tests
	$(PYTEST) tests/bench -s --bench-json=bench.json

# before a change of a step lands
matrix: setup-tests
	NOVACTL_RELIABILITY=full .venv/bin/python -m pytest -n 2 -q tests/sim/test_matrix.py -k "not on_a_server"

# hours; the part that runs in each `make test`: the same without the variables
reliability: setup-tests
	rm -f reliability.json
	NOVACTL_RELIABILITY=full NOVACTL_SEEDS=10000 .venv/bin/python -m pytest tests/sim -q --reliability-json=reliability.json
	NOVACTL_RELIABILITY=full .venv/bin/python -m pytest tests/db/test_migrations.py -q
	$(SUDO) NOVACTL_RELIABILITY=full NOVACTL_LAB_KILLS=100 .venv/bin/python -m pytest tests/lab/test_kills.py tests/lab/test_moved_guests.py -q --reliability-json=reliability.json
	$(SUDO) NOVACTL_RELIABILITY=full .venv/bin/python -m pytest tests/lab -m long -q
	.venv/bin/python -m tests.sim.report reliability.json docs/reliability.md

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
