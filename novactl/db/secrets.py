"""Secret contents as AES-GCM blobs; the key is never in the database."""

import base64
import contextlib
import os
import threading
from pathlib import Path

from novactl.db.session import Row, Tx
from novactl.errors import DatabaseError, Refused, UsageError

KEY_BYTES = 32


def sealed(tx: Tx, reference: str) -> Row:
    """The row {id, owner, sealed} of a reference. Raises DatabaseError when it is not there."""
    secret_id = reference.removeprefix("secret:")
    row = tx.one("SELECT id, owner, sealed FROM secrets WHERE id = :id", id=secret_id)
    if row is None:
        raise DatabaseError(f"secret {secret_id} is not in the database")
    return row


def erase(tx: Tx, reference: str) -> None:
    """It is there no more."""
    tx.run("DELETE FROM secrets WHERE id = :id", id=reference.removeprefix("secret:"))


class Secrets:
    """Seals and opens with the key of `$NOVACTL_KEY` (base64) or of the config directory, made there
    (0600) when first needed."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    def seal(self, tx: Tx, secret_id: str, owner: str, content: bytes) -> str:
        """Keep `content`, erased with its owner. Returns the reference that steps may carry."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        blob = nonce + AESGCM(self._key()).encrypt(nonce, content, secret_id.encode())
        tx.insert("secrets", id=secret_id, owner=owner, sealed=base64.b64encode(blob).decode())
        return f"secret:{secret_id}"

    def open(self, tx: Tx, reference: str) -> bytes:
        """The content. Raises Refused when this operator has another key."""
        return self.unseal(sealed(tx, reference))

    def unseal(self, row: Row) -> bytes:
        """The content of a row that sealed() gave, which may be in no database any more; as open()."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        blob = base64.b64decode(row["sealed"])
        try:
            return AESGCM(self._key()).decrypt(blob[:12], blob[12:], row["id"].encode())
        except InvalidTag as error:
            raise Refused(
                "the secret was sealed with another key",
                hint=f"copy {self._key_file} from the operator who made it, or set $NOVACTL_KEY",
            ) from error

    def _key(self) -> bytes:
        text = os.environ.get("NOVACTL_KEY") or self._read_or_make()
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise UsageError("the secret key is not base64") from error
        if len(key) != KEY_BYTES:
            raise UsageError(f"the secret key has {len(key)} bytes instead of {KEY_BYTES}")
        return key

    def _read_or_make(self) -> str:
        self._key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._key_file.exists():
            self._make_key()
        return self._key_file.read_text().strip()

    def _make_key(self) -> None:
        """The file is there whole or not at all, on disk before anything is sealed; of two, one wins."""
        fresh = self._key_file.with_name(f".{self._key_file.name}.{os.getpid()}.{threading.get_ident()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(base64.b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                self._key_file.hardlink_to(fresh)
        finally:
            fresh.unlink()
