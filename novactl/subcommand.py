"""Another novactl, for one step of an operation of ours: actions.world.Novactl on processes."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from novactl.owner import ASKED_BY

POLL = 0.1
LARGEST = 16 << 20  # bytes of its answer that are read


class Novactl:
    """Starts them, each in a session of its own: what ends us does not end it, and its operation goes on."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command`: the words that begin a command line like ours."""
        self._command = list(command)

    def __call__(
        self, words: Sequence[str], *, asked_by: str, check: Callable[[], None]
    ) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                [*self._command, "--yes", "-o", "json", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, ASKED_BY: asked_by},
            )
            self._wait(process, check)
            for file in (out, err):
                file.seek(0)
            said = [file.read(LARGEST).decode(errors="replace") for file in (out, err)]
            return process.returncode, said[0], said[1]

    def _wait(self, process: "subprocess.Popen[bytes]", check: Callable[[], None]) -> None:
        while process.poll() is None:
            try:
                check()
            except BaseException:
                process.send_signal(signal.SIGTERM)  # it undoes what it does, and so does the caller then
                process.wait()
                raise
            time.sleep(POLL)
