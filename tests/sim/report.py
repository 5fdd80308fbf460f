"""python -m tests.sim.report FILE.json docs/reliability.md: write the figures between the two markers."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.counts import MACHINE

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
KINDS = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
MET, PLANTED, LAB = "met in the schedules", "planted faults", "lab kills"

Sections = Mapping[str, Mapping[str, Any]]


def report(found: Sections) -> str:
    parts = (head(found), matrix(found), schedules(found), planted(found), lab(found))
    return "\n".join(["", *(line for part in parts for line in (*part, ""))])


def head(found: Sections) -> Iterator[str]:
    m = found[MACHINE]
    yield (
        f"novactl {m['novactl']} on {m['cores']} cores ({m['system']}, load {m['load']}), Python"
        f" {m['python']}, SQLite {m['sqlite']}, PostgreSQL {m['postgresql']}, MariaDB {m['mariadb']}."
    )
    yield ""
    if m["size"] == "full":
        yield "All points on all databases: `make reliability`."
    else:
        yield "**This is the part that is played in each run of the tests**, not `make reliability`."


def matrix(found: Sections) -> Iterator[str]:
    """Trials by database, with their seconds."""
    yield "### Disturbed, ended by somebody else, and checked\n"
    yield f"| trials | {' | '.join(KINDS.values())} | seconds |"
    yield f"|---|{'---:|' * (len(KINDS) + 1)}"
    sums = dict.fromkeys(KINDS, 0)
    for name in sorted(set(found) - {MACHINE, MET, PLANTED, LAB}):
        of = found[name]
        if not set(of) & set(KINDS):
            continue
        for kind in KINDS:
            sums[kind] += int(of.get(kind, 0))
        yield f"| {name} | {' | '.join(count(of.get(kind, 0)) for kind in KINDS)} | {seconds(of)} |"
    yield f"| **all** | {' | '.join(f'**{count(sums[kind])}**' for kind in KINDS)} | |"
    yield "\nNothing was wrong after any of them; one that ends otherwise fails the run, and this page."


def seconds(of: Mapping[str, Any]) -> str:
    known = [of[f"{kind} seconds"] for kind in KINDS if f"{kind} seconds" in of]
    return f"{sum(known):.0f}" if known else ""


def schedules(found: Sections) -> Iterator[str]:
    """What they met, and how fast they are."""
    if MET not in found:
        return
    yield "### What the random schedules met\n"
    ran = found.get("random schedules", {})
    rates = [
        f"{ran[kind] / ran[f'{kind} seconds']:.1f} on {KINDS[kind]}"
        for kind in KINDS
        if ran.get(f"{kind} seconds")
    ]
    yield f"Schedules a second: {', '.join(rates)}. A number behind a command is its exit code.\n"
    met = sorted((name, number) for name, number in found[MET].items() if number)
    yield "; ".join(f"{name}: {count(number)}" for name, number in met) + "."


def planted(found: Sections) -> Iterator[str]:
    names = sorted(found.get(PLANTED, {}))
    yield f"### Planted faults: {len(names)}, all found\n"
    for name in names:
        yield f"- {name.replace('_', ' ')}"


def lab(found: Sections) -> Iterator[str]:
    """Real processes, real hosts."""
    yield "### Real kills on the lab\n"
    if LAB not in found:
        yield "Not part of this run: `pytest tests/lab/test_kills.py --reliability-json=FILE` adds them."
        return
    yield "| what | how many |\n|---|---:|"
    for name, number in sorted(found[LAB].items()):
        yield f"| {name.replace('_', ' ')} | {count(number)} |"


def count(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ") if number else "–"


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    text = target.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{target}: has no {BEGIN} … {END}")
    target.write_text(f"{before}{BEGIN}\n{report(json.loads(source.read_text()))}{END}{after}")


if __name__ == "__main__":
    main()
