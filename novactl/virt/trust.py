"""Trust between two hosts for the length of one operation (remote/trust.sh)."""

from collections.abc import Sequence

from novactl.virt.calls import Calls, trust_word


class Trust(Calls):
    """A host as the source or the target of a key: an operation's, or of one of its steps (names.key_of). All
    of it may be done twice."""

    def trust_key(self, op: str, address: str) -> tuple[str, str]:
        """The operation's key is there: (the address that connections to `address` come from, public key)."""
        came_from, key = self._ours("nv_trust_key", trust_word(op), address).strip().splitlines()
        return came_from, key

    def trust_to(self, op: str, address: str, port: int, host_keys: Sequence[str]) -> None:
        """The source knows the target and its pinned host keys ("type base64")."""
        data = "".join(f"{key}\n" for key in host_keys).encode()
        self._ours("nv_trust_to", trust_word(op), address, str(port), data=data)

    def trust_try(self, op: str) -> None:
        """The source gets in at the target. HostFault with ssh's words when it does not."""
        self._ours("nv_trust_try", trust_word(op))

    def trust_allow(
        self, op: str, key: str, came_from: str, seconds: int, *, receives: Sequence[str] = ()
    ) -> None:
        """The target lets the key in from that address within so many seconds: to forward sockets, or with
        `receives` to carry out the call of these words alone."""
        purpose = ["receive", *receives] if receives else ["forward"]
        data = f"{key}\n".encode()
        if receives:
            data += self.shell.receiver()
        self._ours("nv_trust_allow", trust_word(op), came_from, str(seconds), *purpose, data=data)

    def trust_end(self, op: str) -> None:
        """Nothing of the operation's key is left there."""
        self._ours("nv_trust_end", trust_word(op))

    def trusts(self) -> list[str]:
        """Whose keys are there."""
        return self._ours("nv_trusts").split()
