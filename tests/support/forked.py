"""novactl as a user runs it, without paying for the start of Python each time: one process has imported
it and forks for every command, which then runs the installed entry point."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.command import Command, Ended

SERVER = """
import functools, gc, importlib, json, os, sys, traceback
import typer.main
typer.main.get_command = functools.cache(typer.main.get_command)  # half of a command's time
for name in ("cli.app", "cloud", "actions.operate", "actions.watch", "actions.images", "actions.hosts",
             "actions.catalogue", "db.tables", "images.store", "objects.keypair",
             "actions.inventory_apply", "actions.inventory_export"):
    importlib.import_module(f"novactl.{name}")
from novactl.cli.app import MODULES, outline, tree
typer.main.get_command(outline())
for word in (None, *(word for words in MODULES.values() for word in words)):
    typer.main.get_command(tree(word))
gc.disable()
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
                os.dup2(os.open(asked["files"][number], flags), number)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
            os.environ.clear()
            os.environ.update(asked["environment"])
            sys.argv = ["novactl", *asked["words"]]
            from novactl.cli.app import main
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
    _, status = os.waitpid(child, 0)
    sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\\n")
    sys.stdout.flush()
"""


class Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, words: list[str], environment: dict[str, str], files: list[str]) -> int:
        asked = {"words": words, "environment": environment, "files": files}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate("")


class Forked(Command):
    """A Command whose calls are forked."""

    def __init__(self, server: Server, config: Path, **environment: str) -> None:
        super().__init__(config, **environment)
        self.server = server

    def __call__(self, *words: str, input: str | None = None, timeout: float = 180) -> Ended:
        with tempfile.TemporaryDirectory() as directory:
            files = [str(Path(directory) / name) for name in ("in", "out", "err")]
            for file in files:
                Path(file).write_text(input or "" if file == files[0] else "")
            if input is None:
                files[0] = os.devnull
            code = self.server.run(list(words), self.environment, files)
            out, err = (Path(file).read_bytes().decode() for file in files[1:])
        return Ended(list(words), code, out, err)
