"""Shared by all tests: the rule that a skip must have a reason that is checked in, and the counts of what
the reliability suites went through."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import counts

ALLOWED = [
    line.strip()
    for line in (Path(__file__).parent / "skips.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
_unexpected: list[str] = []


# A suite that is started in the background has signals ignored, and so would every novactl that it starts.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability-json",
        metavar="FILE",
        type=Path,
        help="write what tests.support.counts.record() was told to FILE (sections that FILE has are kept)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked long is `make reliability`'s: pytest says how many were left out."""
    if os.environ.get("NOVACTL_RELIABILITY") == "full":
        return
    if left := [item for item in items if item.get_closest_marker("long")]:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(reason.startswith(allowed) for allowed in ALLOWED):
            _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if file := session.config.getoption("--reliability-json"):
        counts.write(file)
    if _unexpected and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unexpected:
        terminalreporter.section("skips whose reason is not in tests/skips.txt", red=True)
        for line in _unexpected:
            terminalreporter.line(line)
