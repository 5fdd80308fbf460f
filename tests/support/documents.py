"""The commands that the documentation shows."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MADE = "commands.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / name / "README.md" for name in ("inventory", "playbooks")]

WORDS = re.compile(r"(?:^|[\s($|;&/])novactl (?P<rest>[^|;&)#>]*)")
SYNTAX = re.compile(r"\[OPTIONS\]|COMMAND| …$|\[-")


def shown_in(page: Path) -> Iterator[tuple[int, str]]:
    """(line, command) of every novactl command line in indented or fenced blocks, continued lines as one."""
    lines = page.read_text().splitlines()
    fenced, n = False, 0
    while n < len(lines):
        at, line = n + 1, lines[n]
        n += 1
        if line.startswith("```"):
            fenced = not fenced
            continue
        if not fenced and not line.startswith("    "):
            continue
        while line.endswith("\\") and n < len(lines):
            line = line[:-1] + lines[n].strip()
            n += 1
        for command in in_line(line):
            yield at, command


def in_line(line: str) -> Iterator[str]:
    """`id=$(novactl boot …)` and pipes too; remarks and descriptions of a syntax are left out."""
    for match in WORDS.finditer(line):
        if match["rest"].strip() and not SYNTAX.search(match["rest"].strip()):
            yield f"novactl {match['rest'].strip()}"
