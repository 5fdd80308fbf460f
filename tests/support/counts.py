"""What the suites counted: `record(section, points=3)` adds up over the session, and the pytest option
`--reliability-json=FILE` (tests/conftest.py) has the sums written at its end; tests/sim/report.py makes
docs/reliability.md of such files."""

import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from pathlib import Path

MACHINE = "machine"
_sections: dict[str, dict[str, float]] = defaultdict(dict)


def record(section: str, **numbers: float) -> None:
    """Add the numbers to those that the section already has, by name."""
    found = _sections[section]
    for name, number in numbers.items():
        found[name] = found.get(name, 0) + number


def recorded() -> dict[str, dict[str, float]]:
    """What was counted until now."""
    return {section: dict(numbers) for section, numbers in _sections.items()}


def machine() -> dict[str, str]:
    """Facts of the machine and the run that a reader needs to judge durations; no name and no path."""
    import sqlite3

    from novactl.version import __version__

    return {
        "novactl": __version__,
        "size": os.environ.get("NOVACTL_RELIABILITY", "ci"),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[2]:.1f}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "sqlite": sqlite3.sqlite_version,
        "postgresql": _version("postgres"),
        "mariadb": _version("mariadbd"),
    }


def _version(name: str) -> str:
    """What a server says of itself; nothing when it is not here."""
    from tests.support.servers import ServerError, program

    try:
        said = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True).stdout
    except (ServerError, OSError, subprocess.CalledProcessError):
        return "none"
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "none"


def write(file: Path) -> None:
    """Add what was counted to the file: a section that is already there is replaced, others stay."""
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**before, MACHINE: machine(), **recorded()}, indent=1, sort_keys=True) + "\n")
