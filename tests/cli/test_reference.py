"""The reference and the man page are what the code says, and every command shown anywhere can be parsed."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from novactl.cli import reference
from novactl.cli.app import hoist
from tests.support.documents import PAGES, ROOT, in_line, shown_in


@pytest.mark.parametrize(("file", "writer"), [("commands.md", "markdown"), ("novactl.1", "man")])
def test_what_is_checked_in_is_what_the_code_says(file: str, writer: str) -> None:
    made = reference.WRITERS[writer]()
    assert (ROOT / "docs" / file).read_text() == made, "make docs"


def test_every_command_says_what_it_does_and_every_option_too() -> None:
    mute = [one.path for one in reference.commands() if not one.text]
    mute += [
        (*one.path, parameter.words)
        for one in reference.commands()
        for parameter in one.parameters
        if parameter.option and not parameter.help
    ]
    assert mute == []


def test_the_man_page_is_one() -> None:
    words = ["man", "--warnings", "-l", str(ROOT / "docs" / "novactl.1")]
    shown = subprocess.run(
        words, capture_output=True, text=True, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    )
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert "novactl boot" in shown.stdout


# --- commands in texts ---


COMMANDS = [(page, at, command) for page in PAGES for at, command in shown_in(page)]
COMMANDS += [
    (Path(" ".join(one.path)), 0, command)
    for one in reference.commands()
    for example in one.examples
    for command in in_line(example)
]


def parsed(words: list[str]) -> Any:
    """The command line understood as far as typer goes; raises what typer raises."""
    found = reference.tree()
    rest, context = hoist(words), None
    while True:
        context = found.make_context(found.name or "novactl", rest, parent=context)
        if not hasattr(found, "commands") or not (left := [*context._protected_args, *context.args]):
            return context
        _, found, rest = found.resolve_command(context, left)


@pytest.mark.parametrize(
    ("page", "at", "command"), COMMANDS, ids=[f"{page.name}:{at}:{text[8:48]}" for page, at, text in COMMANDS]
)
def test_a_command_that_is_shown_can_be_parsed(page: Path, at: int, command: str) -> None:
    words = shlex.split(command)[1:]
    parsed(words)


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 60
    assert list(in_line("    id=$(novactl boot web1 --image d --no-wait)")) == [
        "novactl boot web1 --image d --no-wait"
    ]
    assert list(in_line("    novactl list   # remark")) == ["novactl list"]
    assert list(in_line("    novactl COMMAND --help")) == []


def test_what_cannot_be_parsed_is_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["stop", "web1", "--frobnicate"])
    with pytest.raises(Exception, match="No such command"):
        parsed(["frobnicate"])
