"""Where image files are that operators share: a directory on a host, or a pool of RBD that a host reaches."""

import re
from dataclasses import dataclass

from novactl.errors import UsageError
from novactl.objects import names

POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
KINDS = {"host": (names.PATH, "a directory"), "rbd": (POOL, "a pool")}


@dataclass(frozen=True)
class Place:
    """`where` on `host`: of kind host an absolute path, of kind rbd the name of a pool."""

    kind: str
    host: str
    where: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        """What str() made. Raises UsageError."""
        kind, host, where = (*text.split(":", 2), "", "")[:3]
        if kind not in KINDS or not where:
            raise UsageError(
                f"image store {text!r} is not a place", hint="host:NAME:/DIRECTORY, or rbd:NAME:POOL"
            )
        pattern, what = KINDS[kind]
        names.check_name(host, "image store: host name")
        return cls(kind, host, names.check_pattern(where, pattern, f"image store: {what}"))

    def __str__(self) -> str:
        return f"{self.kind}:{self.host}:{self.where}"


def places_of(locations: tuple[str, ...]) -> list[Place]:
    """Those of an image's locations that are shared; the others are files of one operator."""
    return [Place.parse(one) for one in locations if one.partition(":")[0] in KINDS]


def host_of(source: str) -> str:
    """The host of a source of base files: a host's name, or a place."""
    return Place.parse(source).host if ":" in source else source
