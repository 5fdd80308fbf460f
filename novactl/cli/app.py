"""The root command, the global options, and the one place where an error becomes words."""

import contextlib
import functools
import itertools
import os
import signal
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from novactl.cli.render import FORMATS, say
from novactl.cli.session import Session
from novactl.cli.words import MODULES
from novactl.errors import NovactlError, OperationIncomplete, UsageError
from novactl.version import __version__

HELP = ["-h", "--help"]
VALUED = {"-o": "--output", "-c": "--column"}
FLAGS = {"-q", "--quiet", "-v", "-vv", "--verbose", "--debug", "-y", "--yes", "--version"}
LONG_VALUED = {"--output", "--column", "--db", "--config", "--project"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hoist(argv: list[str]) -> list[str]:
    """Global options moved to the front, wherever they stand before `--`."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in FLAGS:
            front.append(word)
        elif word in VALUED or word in LONG_VALUED:
            if (value := next(words, None)) is None:
                return [*front, word]  # typer says that its value is missing
            front += [VALUED.get(word, word), value]
        elif word.partition("=")[0] in LONG_VALUED or (word[:2] in VALUED and not word.startswith("--")):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def _version(value: bool) -> None:
    if value:
        print(f"novactl {__version__}")
        raise typer.Exit


def root(
    ctx: typer.Context,
    output: Annotated[str, typer.Option("-o", "--output", help="|".join(FORMATS))] = "table",
    column: Annotated[list[str] | None, typer.Option("-c", "--column", help="Show only these.")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No hints, no progress.")] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Each step; -vv: each call.")
    ] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
    db: Annotated[str | None, typer.Option("--db", metavar="URL", help="Database ($NOVACTL_DB).")] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="DIR", help="Configuration ($NOVACTL_CONFIG).")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project ($NOVACTL_PROJECT).")] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Answer yes to every question.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Nova without the control plane: run a fleet of KVM hosts over SSH."""
    if output not in FORMATS:
        raise UsageError(f"-o {output!r} is not one of {', '.join(FORMATS)}")
    session: Session = ctx.obj
    session.output, session.columns, session.quiet = output, list(column or []), quiet
    session.verbose, session.debug, session.yes = verbose, debug, yes
    session.db, session.config, session.project = db, config, project
    if verbose > 1 or debug:
        import logging

        logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, stream=sys.stderr)
        for noisy in ("paramiko", "fabric", "invoke"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("novactl").setLevel(logging.DEBUG)


def _bare() -> typer.Typer:
    app = typer.Typer(
        name="novactl",
        help="Nova without the control plane: run a fleet of KVM hosts over SSH.",
        epilog="Global options may stand before or after the verb. Exit codes: docs/cli.md.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": HELP},
    )
    app.callback()(root)
    return app


@functools.cache
def tree(word: str | None = None) -> typer.Typer:
    """The root with the commands of that word's module, or with all of them: importing what is not asked
    for would be half of the time that a command takes to start."""
    app = _bare()
    for module, words in MODULES.items():
        if word is None or word in words:
            import_module(f"novactl.cli.{module}").register(app)
    return app


@functools.cache
def outline() -> typer.Typer:
    """The root with the names of all commands and nothing behind them: for `--help`, for the completion of
    a word, and for a word that is none."""
    app = _bare()
    for words in MODULES.values():
        for word, line in words.items():
            app.command(word, help=line)(lambda: None)
    return app


def needed(words: list[str]) -> typer.Typer:
    """The root as far as a command line needs it."""
    word = verb(words)
    return tree(word) if any(word in of for of in MODULES.values()) else outline()


def verb(words: list[str]) -> str | None:
    """The first word of a command line that is no option and no option's value; none after a `--help` of
    the root."""
    rest = iter(words)
    for word in rest:
        if word in HELP:
            return None
        if word in VALUED or word in LONG_VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    for number in SIGNALS:  # all is done: an interpreter that is killed while it ends would hide the code
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """The exit code of one command line."""
    if argv[:1] == ["__complete"]:
        from novactl.cli import completion

        return completion.answer(_command, argv[1:])
    words = hoist(argv)
    session = Session(output=_output_asked(words))  # an unknown command is told before root() is called
    _catch_signals(session)
    try:
        code = needed(words)(args=words, prog_name="novactl", standalone_mode=False, obj=session)
        return code if isinstance(code, int) else 0
    except NovactlError as error:
        return _told(session, error)
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return UsageError.code
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's own usage errors
            context = getattr(error, "ctx", None)
            hint = f"{context.command_path} --help" if context else "novactl --help"
            return _told(session, UsageError(_lower(error.format_message()), hint=hint))
        if session.debug:
            raise
        return _told(session, _unexpected(error))
    finally:
        session.close()


def _command(words: list[str]) -> Any:
    return typer.main.get_command(needed(words))


def _output_asked(words: list[str]) -> str:
    for word, value in itertools.pairwise(words):
        if word == "--output" and value in FORMATS:
            return value
    return "table"


def _unexpected(error: Exception) -> NovactlError:
    return NovactlError(
        f"{type(error).__name__}: {error}",
        hint="this is a fault of novactl: --debug shows where; please report it",
    )


def _told(session: Session, error: NovactlError) -> int:
    if session.debug:
        import traceback

        traceback.print_exception(error)
    session.progress.clear()
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    if session.output in ("json", "jsonl"):
        import json

        say(json.dumps({"error": error.as_dict()}, ensure_ascii=False))
    return error.code


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _catch_signals(session: Session) -> None:
    """The first Ctrl-C, SIGTERM or SIGHUP: finish the step and undo. The second: stop now."""

    def caught(number: int, frame: Any) -> None:
        cloud = session.opened
        if cloud is None or not cloud.interrupt.armed:
            raise KeyboardInterrupt
        if cloud.interrupt.is_set():
            _whisper(b"stopped; novactl op list --active shows what is left\n")
            os._exit(OperationIncomplete.code)
        cloud.interrupt.set()
        _whisper(b"interrupted: undoing (once more to stop at once)\n")

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, caught)


def _whisper(text: bytes) -> None:
    """To stderr from within a signal's handler: no locks, no buffers, and a dead terminal is no error."""
    with contextlib.suppress(OSError):
        os.write(2, text)
