"""What one invocation carries from the command line to its commands."""

import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from novactl.cli.render import say
from novactl.errors import NeedsConfirmation

if TYPE_CHECKING:
    from novactl.cli.progress import Progress
    from novactl.cloud import Cloud
    from novactl.settings import Settings


@dataclass
class Session:
    """The global options, and the cloud they lead to, opened when first used."""

    output: str = "table"
    columns: list[str] = field(default_factory=list)
    quiet: bool = False
    verbose: int = 0
    debug: bool = False
    db: str | None = None
    config: str | None = None
    project: str | None = None
    yes: bool = False

    @cached_property
    def settings(self) -> "Settings":
        from novactl.settings import Settings

        return Settings.resolve(self.config, self.db, self.project)

    @cached_property
    def cloud(self) -> "Cloud":
        from novactl.cloud import Cloud

        self.opened = Cloud(self.settings, tell=self.tell, observe=self.progress)
        return self.opened

    @cached_property
    def progress(self) -> "Progress":
        from novactl.cli.progress import Progress

        return Progress(self)

    opened: "Cloud | None" = field(default=None, repr=False)

    def tell(self, text: str) -> None:
        """A hint or warning for people: stderr, unless --quiet."""
        if not self.quiet:
            self.progress.clear()
            say(text)

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def ask(self, question: str) -> bool:
        """Yes or no on a TTY; without one, False unless --yes."""
        if self.yes:
            return True
        if not self.interactive:
            return False
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def confirm(self, question: str) -> None:
        """Raises NeedsConfirmation unless the answer is yes."""
        if not self.ask(question):
            raise NeedsConfirmation(f"not confirmed: {question}", hint="--yes answers yes")

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
