"""Public keys of people."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from novactl.errors import UsageError
from novactl.objects.names import check_text

TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


@dataclass(frozen=True, kw_only=True)
class Keypair:
    """A public key under a name; novactl never sees the private one."""

    name: str
    fingerprint: str
    public_key: str


def parse_public_key(name: str, text: str) -> Keypair:
    """The one OpenSSH public key in `text` (RFC 4253 §6.6), else UsageError."""
    if "PRIVATE KEY" in text:
        raise UsageError(f"keypair {name}: this is a private key", hint="give the .pub file")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise UsageError(f"keypair {name}: the file holds {len(lines)} lines, not one public key")
    line = check_text(lines[0].strip(), "public key", limit=16384)
    parts = line.split(None, 2)
    if len(parts) < 2 or parts[0] not in TYPES:
        raise UsageError(f"keypair {name}: not an OpenSSH public key")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except binascii.Error as error:
        raise UsageError(f"keypair {name}: the key's base64 is broken") from error
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length].decode("ascii", "replace") != parts[0]:
        raise UsageError(f"keypair {name}: the key's content is not {parts[0]}")
    return Keypair(name=name, fingerprint=fingerprint(blob), public_key=line)


def fingerprint(blob: bytes) -> str:
    """As ssh-keygen -l shows it: SHA256 and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
