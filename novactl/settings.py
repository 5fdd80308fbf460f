"""What the command line and the environment say, and the database they name."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from novactl.objects.names import check_name

if TYPE_CHECKING:
    from novactl.db.session import Database


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line and the environment say."""

    config: Path
    db: str | None = None
    project: str = "default"

    @classmethod
    def resolve(cls, config: str | None, db: str | None, project: str | None) -> "Settings":
        """Options first, then $NOVACTL_CONFIG, $NOVACTL_DB and $NOVACTL_PROJECT, then the XDG directory."""
        directory = config or os.environ.get("NOVACTL_CONFIG")
        if directory is None:
            base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
            directory = str(Path(base) / "novactl")
        return cls(
            config=Path(directory).expanduser().absolute(),
            db=db or os.environ.get("NOVACTL_DB"),
            project=check_name(project or os.environ.get("NOVACTL_PROJECT") or "default", "project"),
        )

    def command(self) -> list[str]:
        """The words that begin a command line of another novactl like this one. -P: nothing is imported from
        the directory that the command was called in."""
        words = [
            sys.executable,
            "-P",
            "-m",
            "novactl",
            "--config",
            str(self.config),
            "--project",
            self.project,
        ]
        return [*words, "--db", self.db] if self.db else words

    def database(self) -> "Database":
        """The database, there or not. Raises UsageError and DatabaseError as db.connect does."""
        from novactl.db import connect

        return connect.database(self.db, self.config / "novactl.db")
