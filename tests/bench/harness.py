"""Taking turns, keeping every run, and comparing medians with limits."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novactl.version import __version__
from tests.bench.limits import ATTEMPTS, QUICK_FACTOR

Run = Callable[[], float]  # does one measured thing and returns its seconds


class Over(AssertionError):
    """A limit did not hold."""


@dataclass
class Check:
    """One limit and what was measured against it."""

    name: str
    what: str
    figure: float
    limit: float
    unit: str

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit

    def __str__(self) -> str:
        state = "ok  " if self.holds else "OVER"
        return f"{state} {self.name}: {self.figure:.3f} {self.unit}, limit {self.limit:.3f}: {self.what}"


@dataclass
class Results:
    """Everything one run of the benchmarks found out."""

    full: bool
    runs: dict[str, list[float]] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def repeat(self, full: int, quick: int) -> int:
        return full if self.full else quick

    def add(self, name: str, *seconds: float) -> None:
        self.runs.setdefault(name, []).extend(seconds)

    def median(self, name: str) -> float:
        return statistics.median(self.runs[name])

    def check(self, name: str, what: str, figure: float, limit: float, unit: str = "s") -> None:
        """Compare with the limit (widened in the quick variant) and remember; verdict() fails the test."""
        if not self.full:
            limit *= QUICK_FACTOR
        self.checks[name] = Check(name, what, figure, limit, unit)
        print(f"  {self.checks[name]}")

    def check_time(self, name: str, limit: float, what: str = "") -> None:
        """The same for the seconds of runs of that name; `what` they are, when the name does not say it."""
        self.check(name, f"median of {what or name}", self.median(name), limit)

    def verdict(self, *names: str) -> None:
        """Raises Over when one of these checks is over its limit."""
        if over := [str(self.checks[name]) for name in names if not self.checks[name].holds]:
            raise Over("\n".join(over))

    def check_ratio(self, name: str, ours: str, raw: str, ratio: float, startup: str) -> None:
        """`ours` takes at most `ratio` times `raw`, plus start-up; the figure is the ratio so meant."""
        own, start, other = (self.median(of) for of in (ours, startup, raw))
        what = f"({ours} {own:.3f} s - start-up {start:.3f} s) / {raw} {other:.3f} s"
        self.check(name, what, (own - start) / other, ratio, "times")

    def as_dict(self) -> dict[str, Any]:
        return {
            "novactl": __version__,
            "full": self.full,
            "machine": machine(),
            "figures": {name: summary(runs) for name, runs in self.runs.items()},
            "checks": [
                {
                    "name": check.name,
                    "what": check.what,
                    "figure": round(check.figure, 4),
                    "limit": round(check.limit, 4),
                    "unit": check.unit,
                    "holds": check.holds,
                }
                for check in self.checks.values()
            ],
            "notes": self.notes,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=1) + "\n")


def summary(runs: Sequence[float]) -> dict[str, Any]:
    return {
        "n": len(runs),
        "median": round(statistics.median(runs), 5),
        "min": round(min(runs), 5),
        "max": round(max(runs), 5),
        "runs": [round(run, 5) for run in runs],
    }


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that tells whose machine it is."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "os": release.get("PRETTY_NAME", "").strip('"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def take_turns(results: Results, rounds: int, runs: Mapping[str, Run]) -> None:
    """Each of `runs` once a round, every round starting with another one, so that whatever else the machine
    does in the meantime falls on all of them alike."""
    names = list(runs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            results.add(name, runs[name]())


def timed(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, *, stdin: bytes = b""
) -> tuple[float, bytes]:
    """Seconds and stdout of a command that must succeed; its output is a pipe, as in a script."""
    began = time.perf_counter()
    ended = subprocess.run(argv, env=environment, input=stdin, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    assert ended.returncode == 0, (
        f"{' '.join(argv)}: {ended.returncode}\n{ended.stdout!r}\n{ended.stderr.decode()}"
    )
    return seconds, ended.stdout


def settle(measure: Callable[[], None]) -> None:
    """Measure again what is over its limit, ATTEMPTS times in all: noise passes, what has become slow stays.
    Runs that are kept add up, so that each attempt has more to take the median of."""
    for _ in range(ATTEMPTS - 1):
        try:
            return measure()
        except Over as over:
            print(f"measured again:\n{over}")
    return measure()
