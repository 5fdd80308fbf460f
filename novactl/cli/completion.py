"""novactl completion bash|zsh|fish, and what those scripts ask for at each Tab: `novactl __complete`.

Commands and options come from the typer app itself. What a value is follows from its option's name, its
metavar (HOST, FILE, a|b|c) or the noun that its command belongs to, so a new command needs nothing here.
Names come from the database as it is: nothing is created, no host is asked, what goes wrong is silence.
"""

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli.render import FORMATS
from novactl.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
FILES = "files"  # instead of words: the shell's own completion of file names
LIMIT = 200  # names
SECONDS = 2.0  # a database that does not answer holds up nobody's shell
SAFE = re.compile(
    r"[A-Za-z0-9_./:=,@%+][A-Za-z0-9_./:=,@%+-]*"
)  # no shell takes any of it for something else
NEW = ("add", "create", "boot", "up")  # commands whose NAME is none yet
VALUES = {
    "--output": FORMATS,
    "--on": "host",
    "--host": "host",
    "--flavor": "flavor",
    "--image": "image",
    "--network": "network",
    "--key": "keypair",
    "--group": "group",
    "--project": "project",
    "--status": "status",
    "--power-state": "power-state",
    "--sort": "sort",
}
METAVARS = {
    "HOST": "host",
    "ID": "op",
    "PROJECT": "project",
    "RESOURCE=N": "limit",
    "PROJECT RESOURCE=N": "limit",
    "FILE": FILES,
    "PATH": FILES,
    "DIR": FILES,
}
NOUNS = ("host", "flavor", "image", "keypair", "network", "group", "project", "op")

Kind = str | Sequence[str] | None
"""What a value is: a kind of name, a key of FIXED, FILES, or the very words."""


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command()(completion)


def completion(
    shell: Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="For which shell.")],
) -> None:
    """Print a script that makes the shell complete commands, options and names.

    novactl completion bash > /etc/bash_completion.d/novactl
    """
    if shell not in SHELLS:
        raise UsageError(f"shell {shell!r} is not one of {', '.join(SHELLS)}")
    sys.stdout.write((Path(__file__).parent / "shells" / f"novactl.{shell}").read_text())


def answer(command: Callable[[list[str]], Any], argv: list[str]) -> int:
    """`novactl __complete WORD…`, the last word being completed, or `--line TEXT` as it is typed: FILES or a
    line for each word. `command` gives the root command that the words before it need. Always 0."""
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    with contextlib.suppress(Exception):
        words = _split(argv[1]) if argv[:1] == ["--line"] else argv
        found = list(Completer(command(words[:-1]), words).words())
        sys.stdout.write("".join(f"{word}\n" for word in found))
    return 0


def _split(line: str) -> list[str]:
    """The words of a command line that is being typed, without the command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    return [*words[1:], ""] if line[-1:].isspace() else words[1:]


def _statuses() -> Sequence[str]:
    from novactl.objects.states import status_words

    return status_words()


def _powers() -> Sequence[str]:
    from novactl.objects.states import PowerState

    return [str(state) for state in PowerState]


def _sort_keys() -> Sequence[str]:
    from novactl.db.pages import SORT_KEYS

    return sorted(SORT_KEYS)


def _limits() -> Sequence[str]:
    from novactl.objects.project import NOVA_LIMITS

    return [f"{resource}=" for resource in NOVA_LIMITS]


FIXED: dict[str, Callable[[], Sequence[str]]] = {
    "status": _statuses,
    "power-state": _powers,
    "sort": _sort_keys,
    "limit": _limits,
}
"""Values that are the same everywhere."""


class Completer:
    """One question."""

    def __init__(self, root: Any, words: list[str]) -> None:
        *self.before, self.current = words or [""]
        self.root = self.command = root
        self.path: list[str] = []
        self.arguments: list[str] = []
        self.pending: Any = None  # the option whose value comes next
        self.given: dict[str, str] = {}
        self.literal = False  # after --
        for word in self.before:
            self._take(word)

    def _take(self, word: str) -> None:
        if self.pending is not None:
            self.given[self.pending.name], self.pending = word, None
        elif self.literal:
            self.arguments.append(word)
        elif word == "--":
            self.literal = True
        elif word.startswith("-") and word != "-":
            name, sign, value = word.partition("=")
            option = self._option(name)
            if option is not None and sign:
                self.given[option.name] = value
            elif option is not None and _takes_value(option):
                self.pending = option
        elif word in getattr(self.command, "commands", {}):
            self.command = self.command.commands[word]
            self.path.append(word)
        else:
            self.arguments.append(word)

    def _options(self) -> Iterator[Any]:
        """Of the command and, since those may stand anywhere, of the root."""
        for command in {id(one): one for one in (self.command, self.root)}.values():
            yield from (one for one in command.params if one.param_type_name == "option")

    def _option(self, name: str) -> Any:
        return next((one for one in self._options() if name in one.opts), None)

    def words(self) -> Iterator[str]:
        """What the current word may become."""
        name, sign, value = self.current.partition("=")
        if self.pending is not None:
            yield from self._values(_kind_of_option(self.pending), self.current)
        elif not self.literal and self.current.startswith("--") and sign:
            if (option := self._option(name)) is not None:
                found = self._values(_kind_of_option(option), value)
                yield from (word if word == FILES else f"{name}={word}" for word in found)
        elif not self.literal and self.current.startswith("-"):
            names = sorted({opt for one in self._options() for opt in one.opts if opt.startswith("--")})
            yield from (opt for opt in [*names, "--help"] if opt.startswith(self.current))
        elif (commands := getattr(self.command, "commands", None)) and not self.arguments:
            shown = sorted(name for name, one in commands.items() if not one.hidden)
            yield from (word for word in shown if word.startswith(self.current))
        elif not commands and (argument := self._argument()) is not None:
            yield from self._values(_kind_of_argument(argument, self.path), self.current)

    def _argument(self) -> Any:
        """The argument that the current word would be."""
        place = len(self.arguments)
        for one in self.command.params:
            if one.param_type_name != "argument":
                continue
            if place == 0 or one.nargs == -1:
                return one
            place -= 1
        return None

    def _values(self, kind: Kind, start: str) -> Iterator[str]:
        if kind == FILES:
            yield FILES
        elif kind is not None:
            fixed = not isinstance(kind, str)
            found = kind if fixed else self._found(str(kind), start)
            taken = set(self.arguments)
            yield from (
                word
                for word in found
                if word.startswith(start) and SAFE.fullmatch(word) and (fixed or word not in taken)
            )

    def _found(self, kind: str, start: str) -> Sequence[str]:
        """Names of that kind that begin so, as the database has them."""
        if kind in FIXED:
            return FIXED[kind]()
        from novactl.db import completions
        from novactl.settings import Settings

        settings = Settings.resolve(*(self.given.get(name) for name in ("config", "db", "project")))
        database = settings.database()
        if not database.exists:
            return ()
        return database.read(lambda tx: completions.names(tx, kind, start, settings.project, LIMIT))


def _takes_value(option: Any) -> bool:
    return not (option.is_flag or option.count)


def _kind_of_option(option: Any) -> Kind:
    known = next((VALUES[name] for name in option.opts if name in VALUES), None)
    return known or _kind_of_metavar(option)


def _kind_of_argument(argument: Any, path: Sequence[str]) -> Kind:
    kind = _kind_of_metavar(argument)
    if kind is not None or path[-1] in NEW:
        return kind
    if len(path) > 1:
        return path[0] if path[0] in NOUNS else None
    return "instance" if "NAME" in (argument.metavar or "") else None


def _kind_of_metavar(param: Any) -> Kind:
    metavar = re.sub(r"[\[\]…]", "", param.metavar or "")
    if "|" in metavar:
        words = [word for word in metavar.split("|") if not word.isupper()]
        return [word.partition("=")[0] + "=" if "=" in word else word for word in words]
    if metavar in METAVARS:
        return METAVARS[metavar]
    return FILES if "path" in type(param.type).__name__.lower() else None
