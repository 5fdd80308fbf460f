"""Every deterministic name novactl makes or accepts: names, paths, MACs, taps, domains.

Nothing a user types ever becomes a path: paths come from uuids and SHA-256 only.
"""

import difflib
import hashlib
import re
import unicodedata
import uuid as _uuid
from collections.abc import Iterable

from novactl.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,14}")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?")
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,254}")
PATH = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
HOST_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._+@:-]+)+")  # also of hidden files; nothing goes up

STATE_DIR = "/var/lib/novactl"
INSTANCES_PATH = f"{STATE_DIR}/instances"


def check_name(value: str, what: str = "name") -> str:
    """`value` when it is a name novactl accepts, else UsageError (docs/cli.md, Grammar)."""
    if not NAME.fullmatch(value):
        raise UsageError(
            f"{what} {value!r} is not acceptable",
            hint="1 to 63 of A-Z a-z 0-9 . _ - and the first a letter or digit",
        )
    if UUID.fullmatch(value.lower()):
        raise UsageError(f"{what} {value!r} is shaped like a uuid", hint="choose a name that is not")
    return value


def check_pattern(value: str, pattern: re.Pattern[str], what: str, hint: str = "") -> str:
    """`value` when the whole of it matches, else UsageError."""
    if not pattern.fullmatch(value):
        raise UsageError(f"{what} {value!r} is not acceptable", hint=hint)
    return value


def check_text(value: str, what: str, limit: int = 255) -> str:
    """Free text of a person: any characters but control characters and those that are none
    (surrogates, U+FFFE, U+FFFF: XML cannot carry them), `limit` at most."""
    if len(value) > limit:
        raise UsageError(f"{what} is longer than {limit} characters")
    if any(unicodedata.category(ch) in ("Cc", "Cs") or ord(ch) & 0xFFFE == 0xFFFE for ch in value):
        raise UsageError(f"{what} {value!r} has control characters")
    return value


def check_path(value: str, what: str) -> str:
    """An absolute path of plain characters, as given for a host's directory."""
    return check_pattern(value, PATH, what, "an absolute path of letters, digits, . _ and -")


def key_values(items: Iterable[str], what: str) -> dict[str, str]:
    """`["k=v", …]` as a dict. Raises UsageError for a missing `=`, a bad key or control characters."""
    pairs: dict[str, str] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise UsageError(f"{what} {item!r} is not of the form key=value")
        check_pattern(key, KEY, f"{what} key", "letters, digits and . _ : -")
        pairs[key] = check_text(value, f"{what} {key}")
    return pairs


def near(name: str, known: Iterable[str]) -> list[str]:
    """Known names that a person may have meant."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)


def domain_name(uuid: str) -> str:
    """What `virsh list` shows; acts always go by the uuid."""
    return f"instance-{uuid.replace('-', '')[:12]}"


def port_id(uuid: str, index: int) -> str:
    """The id of an instance's n-th NIC: the same every time it is made again."""
    return str(_uuid.uuid5(_uuid.UUID(uuid), f"port-{index}"))


def tap_name(port: str) -> str:
    """As Nova: 'tap' and 11 characters, within Linux's 15 (IFNAMSIZ)."""
    return f"tap{port[:11]}"


def mac_address(port: str, salt: int = 0) -> str:
    """A MAC in OpenStack's fa:16:3e range, from the port's id; `salt` when the first is taken."""
    digest = hashlib.sha256(f"{port}/{salt}".encode()).digest()
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def instance_dir(instances_path: str, uuid: str) -> str:
    return f"{instances_path}/{uuid}"


def base_name(sha256: str) -> str:
    """The base file of an image within `_base`."""
    return check_pattern(sha256, SHA256, "image checksum")


def key_of(op: str, n: int) -> str:
    """The key between hosts that the operation's n-th step has for itself."""
    return f"{op}-{n}"


def operation_of(key: str) -> str:
    """Whose key between hosts it is: an operation's, or that of one of its steps."""
    return "-".join(key.split("-")[:2])


def ephemeral_base(gib: int) -> str:
    """The base file of an empty ext4 disk; the name says all that decides its content. Without its ending it
    is one of before, which each host has made another way."""
    return f"ephemeral_{gib}_ext4_v2"


def swap_base(mib: int) -> str:
    return f"swap_{mib}_v2"
