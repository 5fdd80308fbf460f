"""Every command as the code has it: docs/commands.md and the man page are made from this, not by hand.

python -m novactl.cli.reference markdown > docs/commands.md
python -m novactl.cli.reference man > docs/novactl.1
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from novactl.cli import app


@dataclass(frozen=True)
class Parameter:
    """An argument or option: how it is written, and what it does."""

    words: str
    help: str
    option: bool


@dataclass(frozen=True)
class Command:
    """One command: its words after novactl, its paragraphs, and its examples."""

    path: tuple[str, ...]
    text: tuple[str, ...]
    examples: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        words = [parameter.words for parameter in self.parameters if not parameter.option]
        options = ["[OPTIONS]"] if any(parameter.option for parameter in self.parameters) else []
        return " ".join(["novactl", *self.path, *options, *words])


def tree() -> Any:
    """The root command as typer builds it."""
    import typer

    return typer.main.get_command(app.tree())


def commands() -> list[Command]:
    """All commands, those of a noun together."""
    return [_command(path, found) for path, found in _walk(tree(), ())]


def _walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in sorted(group.commands):
        found = group.commands[name]
        if getattr(found, "hidden", False):
            continue
        if hasattr(found, "commands"):
            yield from _walk(found, (*path, name))
            if found.invoke_without_command:
                yield (*path, name), found
        else:
            yield (*path, name), found


def _command(path: tuple[str, ...], found: Any) -> Command:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", found.help or "")]
    return Command(
        path=path,
        text=tuple(part for part in paragraphs if part and not part.startswith("novactl ")),
        examples=tuple(part for part in paragraphs if part.startswith("novactl ")),
        parameters=tuple(_parameter(one) for one in found.params if not _is_help(one)),
    )


def global_options() -> list[Parameter]:
    """Those that every command takes."""
    return [_parameter(one) for one in tree().params if not _is_help(one)]


def _is_help(parameter: Any) -> bool:
    return parameter.name == "help" or getattr(parameter, "hidden", False)


def _parameter(one: Any) -> Parameter:
    if one.param_type_name == "argument":
        name = one.metavar or one.name.upper()
        several = one.nargs == -1 and not name.endswith("…")
        word = f"{name}…" if several else name
        return Parameter(word if one.required else f"[{word.strip('[]')}]", one.help or "", option=False)
    flag = one.is_flag or one.count
    value = "" if flag else f" {one.metavar or one.type.name.upper()}"
    return Parameter(", ".join([*one.opts, *one.secondary_opts]) + value, one.help or "", option=True)


# --- markdown ---


def markdown() -> str:
    """docs/commands.md."""
    found = commands()
    lines = [
        "# Commands",
        "",
        "Made from the code by `make docs`, not by hand. What scripts may rely on: [cli.md](cli.md).",
        "",
        "Every command takes, before or after the verb:",
        "",
        *_table(global_options()),
        "",
    ]
    for one in found:
        lines += [f"## novactl {' '.join(one.path)}", "", f"    {one.usage}", ""]
        for part in one.text:
            lines += [part, ""]
        lines += [f"    {example}" for example in one.examples] + ([""] if one.examples else [])
        if described := [parameter for parameter in one.parameters if parameter.help or parameter.option]:
            lines += [*_table(described), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(parameters: list[Parameter]) -> list[str]:
    cells = [[text.replace("|", "\\|") for text in (one.words, one.help)] for one in parameters]
    rows = [f"| `{words}` | {help_} |" for words, help_ in cells]
    return ["| | |", "|---|---|", *rows]


# --- man ---


def man() -> str:
    """The man page, in man(7)."""
    lines = [
        '.TH NOVACTL 1 "" "novactl" "User Commands"',
        ".SH NAME",
        r"novactl \- run a fleet of KVM hosts over SSH, without a control plane",
        ".SH SYNOPSIS",
        ".B novactl",
        "[GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        _roff(str(tree().help)),
        "State lives in a database of yours; every change is journaled, can be shown before it is made"
        r" (\-\-dry\-run), and can be finished or undone after a kill (novactl op resume, op rollback).",
        ".SH GLOBAL OPTIONS",
        *(line for one in global_options() for line in _man_parameter(one)),
        ".SH COMMANDS",
    ]
    for one in commands():
        lines += [f".SS {_roff(one.usage)}"]
        for part in one.text:
            lines += [".PP", _roff(part)]
        for example in one.examples:
            lines += [".PP", ".EX", f"    {_roff(example)}", ".EE"]
        for parameter in one.parameters:
            lines += _man_parameter(parameter)
    lines += [".SH EXIT STATUS"]
    for code, meaning in exit_codes():
        lines += [".TP", f".B {code}", _roff(meaning)]
    lines += [
        ".SH FILES",
        ".TP",
        ".I ~/.config/novactl/",
        "Database, image store, generated SSH files, secret key, templates, playbooks.",
        ".SH SEE ALSO",
        ".BR virsh (1), ssh_config (5)",
    ]
    return "\n".join(lines) + "\n"


def _man_parameter(one: Parameter) -> list[str]:
    return [".TP", f"\\fB{_roff(one.words)}\\fR", _roff(one.help) or "\\&"]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def exit_codes() -> list[tuple[int, str]]:
    """(code, meaning) of every error class, each code once."""
    from novactl import errors

    found: dict[int, str] = {0: "Done, or it was so already."}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.NovactlError):
            found.setdefault(kind.code, (kind.__doc__ or "").splitlines()[0])
    return sorted(found.items())


WRITERS: dict[str, Callable[[], str]] = {"markdown": markdown, "man": man}

if __name__ == "__main__":
    sys.stdout.write(WRITERS[sys.argv[1]]())
