# Two commands do all the set-up on a fresh Debian 12 clone: make demo, make test.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
PYTEST := $(SUDO) .venv/bin/python -m pytest

.PHONY: help setup demo test check unit lab bench reliability clean

help:
	@echo "make demo    set everything up, boot an instance on two real hypervisors, clean up"
	@echo "make test    set everything up, run the whole suite (root)"
	@echo "make check   ruff, mypy, shellcheck"
	@echo "make unit    the tests that need no lab"
	@echo "make bench   measure, write docs/performance figures to bench.json"
	@echo "make reliability  every kill on the three databases, 10000 schedules; writes docs/reliability.md"
	@echo "make clean   remove .venv and caches"

setup:
	@scripts/setup

demo: setup
	@$(SUDO) .venv/bin/novactl demo

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	shellcheck -s sh scripts/setup
	shellcheck -s bash novactl/cli/shells/novactl.bash
	cat novactl/remote/host.sh novactl/remote/jobs.sh novactl/remote/survey.sh novactl/remote/states.sh | shellcheck -s sh -

test: check
	$(PYTEST) tests

unit: setup
	.venv/bin/python -m pytest tests/unit tests/db tests/cli tests/sim tests/virt

lab: setup
	$(PYTEST) tests/lab

bench: setup
	$(PYTEST) tests/bench -s --bench-json=bench.json

# hours; the part that runs in each `make test`: the same without the two variables
reliability: setup
	rm -f reliability.json
	NOVACTL_RELIABILITY=full NOVACTL_SEEDS=10000 .venv/bin/python -m pytest tests/sim -q --reliability-json=reliability.json
	$(SUDO) NOVACTL_RELIABILITY=full .venv/bin/python -m pytest tests/lab/test_kills.py -q --reliability-json=reliability.json
	.venv/bin/python -m tests.sim.report reliability.json docs/reliability.md

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
