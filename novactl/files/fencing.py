"""fencing.yaml in the configuration directory: the commands that switch hosts off."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from novactl.files import document

Word = Annotated[str, Field(min_length=1)]


class File(BaseModel):
    """`{host}` and `{address}` in a word are the host's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    fencing: dict[str, Annotated[list[Word], Field(min_length=1)]] = {}


def load(path: Path) -> dict[str, list[str]]:
    """The commands by their names, none when there is no file. Raises UsageError."""
    return document.load(path).as_model(File).fencing if path.exists() else {}
