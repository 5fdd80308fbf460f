"""Running novactl as a user does: the installed command, in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOVACTL = str(Path(sys.executable).parent / "novactl")


@dataclass
class Ended:
    """How a command ended."""

    argv: list[str]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error object that ends stderr with -o json."""
        return dict(json.loads(self.err.splitlines()[-1])["error"])


class Command:
    """novactl with a configuration directory of its own."""

    def __init__(self, config: Path, **environment: str) -> None:
        self.config = config
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NOVACTL_")},
            "NOVACTL_CONFIG": str(config),
            **environment,
        }

    def popen(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        """Started and not waited for, in its own session, so that signals reach it alone."""
        defaults: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen(
            [NOVACTL, *words],
            text=True,
            start_new_session=True,
            **{**defaults, "env": self.environment, **options},
        )

    def __call__(self, *words: str, input: str | None = None, timeout: float = 180) -> Ended:
        """Run to its end, whatever the exit code."""
        source = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        ended = subprocess.run(
            [NOVACTL, *words], env=self.environment, capture_output=True, text=True, timeout=timeout, **source
        )
        return Ended(list(words), ended.returncode, ended.stdout, ended.stderr)

    def ok(self, *words: str, **options: Any) -> Ended:
        """As calling it, and it must end with 0."""
        ended = self(*words, **options)
        assert ended.code == 0, f"novactl {' '.join(words)} ended with {ended.code}:\n{ended.out}{ended.err}"
        return ended

    def json(self, *words: str, **options: Any) -> Any:
        """What a successful command prints with -o json."""
        return self.ok(*words, "-o", "json", **options).json
