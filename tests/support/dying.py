"""A real novactl that dies by SIGKILL at a chosen instant of a chosen step:

    python -m tests.support.dying [--runner] STEP INSTANT -- stop web1 --force

STEP is the step's number or its name, INSTANT one of novactl.engine.ports.INSTANTS, or `in-act:CALL:N`: when
the step's CALLth call is on its way to the host and its answer is not read, N ms later; a transfer dies with
its (N+2)th piece. A step that makes fewer calls dies after its act. With `--runner` it is not this process
that dies but the detached one that `--no-wait` starts.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from novactl import cloud, detach
from novactl.remote.shell import Channel, HostShell

MODULE = "tests.support.dying"


def die() -> None:
    """As kill -9 would have it: nothing is flushed, closed or said."""
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """Failpoints (engine/ports.py); `left` counts the calls of the thread that is in the act."""

    def __init__(self, step: str, instant: str) -> None:
        self.step = step
        self.point, *numbers = instant.split(":")
        self.call, self.delay = map(int, numbers or (1, 0))
        self.mine = threading.local()

    def reach(self, point: str, record: Any) -> None:
        """Called at each instant a process could die at."""
        if self.step not in (str(record.n), record.name):
            return
        if point == self.point:
            die()
        if self.point == "in-act" and point == "after-intent":
            self.mine.left = self.call
        if self.point == "in-act" and point == "after-act":
            die()

    def counted(self) -> bool:
        """One more call is made; whether it is the one."""
        left = getattr(self.mine, "left", 0)
        if left > 0:
            self.mine.left = left - 1
        return left == 1

    def watch_calls(self) -> None:
        """Have the calls on hosts counted, those on a channel and the transfers."""
        call, until_mark, feed = Channel.call, Channel._until_mark, HostShell._feed
        now = threading.local()

        def counted_call(channel: Channel, *words: Any) -> Any:
            now.dies = self.counted()
            return call(channel, *words)

        def answer(channel: Channel, receive: Any) -> Any:
            if getattr(now, "dies", False):
                time.sleep(self.delay / 1000)
                die()
            return until_mark(channel, receive)

        def counted_feed(shell: HostShell, channel: Any, send: Any) -> None:
            feed(shell, channel, self.cut(send) if self.counted() else send)

        Channel.call, Channel._until_mark = counted_call, answer  # type: ignore[method-assign]
        HostShell._feed = counted_feed  # type: ignore[method-assign]

    def cut(self, send: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """A transfer whose process dies with one of its pieces."""
        pieces = iter(range(self.delay + 2))

        def sending(readline: Any, write: Callable[[bytes], None]) -> None:
            def counted(data: bytes) -> None:
                if next(pieces, None) is None:
                    die()
                write(data)

            send(readline, counted)
            die()

        return sending


class Instead:
    """Stands for `subprocess` in novactl.detach: the process that it starts is a dying one."""

    def __init__(self, step: str, instant: str) -> None:
        self.words = ["-m", MODULE, step, instant, "--"]
        self.DEVNULL = subprocess.DEVNULL

    def Popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        at = argv.index("novactl")  # [python, "-m", "novactl", …]
        return subprocess.Popen([*argv[: at - 1], *self.words, *argv[at + 1 :]], **options)


def main() -> None:
    words = sys.argv[1:]
    at = words.index("--")
    *options, step, instant = words[:at]
    if "--runner" in options:
        detach.subprocess = Instead(step, instant)  # type: ignore[attr-defined, assignment]
    else:
        dying = Dying(step, instant)
        dying.watch_calls()
        cloud.NoFailpoints = lambda: dying  # type: ignore[assignment, misc]
    from novactl.cli import app

    sys.argv = ["novactl", *words[at + 1 :]]
    app.main()


if __name__ == "__main__":
    main()
