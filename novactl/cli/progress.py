"""What a person at a terminal sees while operations run."""

import contextlib
import sys
import threading
import time
from typing import Any

from novactl.cli.render import visible
from novactl.engine.operation import Operation, Record


class Progress:
    """An engine observer: one line rewritten on a TTY, lines with -v elsewhere, else nothing."""

    def __init__(self, session: Any) -> None:
        self._verbose = session.verbose > 0
        self._live = sys.stderr.isatty() and not session.quiet and not self._verbose
        self._lock = threading.RLock()  # a signal's handler may come in between
        self._began = time.monotonic()
        self._shown = False

    def note(self, text: str) -> None:
        """Show a line of another kind, on a TTY."""
        if self._live:
            with self._lock, contextlib.suppress(OSError):
                sys.stderr.write(f"\r\033[K{_fit(text)}")
                sys.stderr.flush()
                self._shown = True

    def clear(self) -> None:
        """Take the line away before anything else is printed."""
        with self._lock, contextlib.suppress(OSError):
            if self._shown:
                sys.stderr.write("\r\033[K")
                sys.stderr.flush()
                self._shown = False

    def __call__(self, op: Operation, record: Record, event: str, detail: str = "") -> None:
        """Never raises: what nobody can be shown must not stop an operation."""
        with contextlib.suppress(OSError):
            self._show(op, record, event, detail)

    def _show(self, op: Operation, record: Record, event: str, detail: str) -> None:
        if not self._live and not self._verbose:
            return
        text = f"{op.target}: {record.n}/{len(op.records)} {record.step.summary()}"
        words = {"started": "…", "done": "done", "undone": "undone", "failed": f"failed: {detail}"}
        state = visible(words.get(event, detail), keep="")
        with self._lock:
            if self._verbose:
                if event != "progress":
                    print(
                        f"{time.monotonic() - self._began:7.3f} {text}: {state}", file=sys.stderr, flush=True
                    )
            else:
                sys.stderr.write(f"\r\033[K{_fit(f'{text} {state}')}")
                self._shown = True
                sys.stderr.flush()


def _fit(text: str) -> str:
    import shutil

    width = shutil.get_terminal_size().columns - 1
    return text if len(text) <= width else text[: width - 1] + "…"
