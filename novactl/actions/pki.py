"""pki: an authority of the fleet, and certificates by which its hosts know each other.

As with hosts themselves (actions.hosts) the record comes first, then the host, and all of it may be done
again: what a killed command left is a certificate that nobody has seen placed.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from novactl.actions.world import World
from novactl.db import certificates, hosts
from novactl.db.session import Tx
from novactl.engine.step import Kind
from novactl.errors import Busy, HostFault, HostRefused, NotFound, NovactlError, Refused, UsageError
from novactl.objects.certificate import EXPIRING, Authority, Certificate, CertificateState
from novactl.objects.moments import seconds_between
from novactl.objects.names import near
from novactl.remote.fanout import fan_out

AUTHORITY_DAYS = 3650
HOST_DAYS = 730
MOST_DAYS = 36500
DEADLINE = 30.0  # seconds for one host to take a revocation list


@dataclass(frozen=True, kw_only=True)
class Published:
    """A host and the newest revocation list: it has it now, had it before, or why it has not."""

    host: str
    result: str
    error: NovactlError | None = None


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What a revocation did: the serials that were good until now, and who knows."""

    serials: list[str]
    crl_number: int
    hosts: list[Published]


def init(world: World, days: int = AUTHORITY_DAYS, *, replace: bool = False) -> tuple[Authority, bool]:
    """The fleet's authority, made unless it is there: (it, whether it is new). `replace`: another one, and
    all that the first has signed is forgotten: each host needs a new certificate."""
    from novactl.db import x509

    _check_days(days)
    there = world.db.read(certificates.authority)
    if there is not None and not replace:
        return there, False
    key, now, secret = x509.new_key(), world.clock.now(), world.ids.uuid()
    pem = x509.authority(key, world.fleet, now, days)
    not_before, not_after = x509.span(pem)
    crl = x509.revocations(pem, key, 1, [], now)

    def work(tx: Tx) -> tuple[Authority, bool]:
        if (found := certificates.authority(tx)) is not None and found != there:
            return found, False  # somebody was faster
        certificates.forget_all(tx)
        made = Authority(
            pem=pem,
            key=world.secrets.seal(tx, secret, certificates.OWNER, key.encode()),
            not_before=not_before,
            not_after=not_after,
            crl=crl,
            crl_number=1,
        )
        certificates.keep_authority(tx, made)
        return made, True

    return world.db.write(work)


def issue(world: World, name: str, days: int = HOST_DAYS) -> Certificate:
    """A new certificate for a host, and its key, are there. Raises Refused without an authority or when the
    host has certificates of somebody else, HostUnreachable."""
    from novactl.db import x509

    where(world, name, days)
    key = x509.new_key()

    def record(tx: Tx) -> tuple[Authority, Certificate]:
        authority, host = _authority(tx), hosts.get(tx, name)
        signing = world.secrets.open(tx, authority.key).decode()
        made = x509.issue(authority.pem, signing, key, name, host.address, world.clock.now(), days)
        certificates.add(tx, made)
        return authority, made

    authority, made = world.db.write(record)
    world.hypervisor(name).pki_place(authority.crl_number, _files(authority, made, key))

    def placed(tx: Tx) -> tuple[Authority, Certificate]:
        done = certificates.placed(tx, made, authority.crl_number, world.clock.now())
        return _authority(tx), done

    newest, made = world.db.write(placed)
    if newest.pem != authority.pem:
        raise Busy("the authority was replaced meanwhile", hint="the same again")
    if newest.crl_number > authority.crl_number:  # somebody revoked meanwhile, and did not know of this host
        _publish(world, newest, [name])
    return made


def where(world: World, name: str, days: int) -> str:
    """The directory that a certificate would be placed in; nothing is changed. Raises as issue()."""
    _check_days(days)

    def work(tx: Tx) -> None:
        hosts.get(tx, name)
        _refuse_expired(_authority(tx), world.clock.now())

    world.db.read(work)
    try:
        return world.hypervisor(name).pki_where()
    except HostRefused as error:
        raise Refused(
            error.message, hint="move the certificates there away to let novactl place its own"
        ) from error


def _refuse_expired(authority: Authority, now: str) -> None:
    if authority.not_after <= now:
        raise Refused(
            f"the authority has expired at {authority.not_after}",
            hint="novactl pki init --replace makes another",
        )


def _files(authority: Authority, made: Certificate, key: str) -> dict[str, str]:
    """One certificate for both ends of a migration."""
    pairs = {
        f"{role}-{kind}.pem": text
        for role in ("server", "client")
        for kind, text in (("cert", made.pem), ("key", key))
    }
    return {"ca-cert.pem": authority.pem, "ca-crl.pem": authority.crl, **pairs}


def revoke(world: World, which: str) -> Revoked:
    """No certificate of a host (or the one of a serial) is good any more: recorded and signed first, then
    every host that has certificates is told. Again: those that have not been told yet. Raises NotFound."""
    now = world.clock.now()

    def work(tx: Tx) -> tuple[Authority, list[str], list[str]]:
        authority, fresh = _authority(tx), in_force(tx, which, now)
        if fresh:
            for serial in fresh:
                certificates.revoke(tx, serial, now)
            authority = _signed_anew(world, tx, authority, now)
            certificates.keep_authority(tx, authority)
        return authority, fresh, _told_of_revocations(tx)

    world.db.read(lambda tx: _check_known(tx, which))
    authority, fresh, names = world.db.write(work)
    return Revoked(serials=fresh, crl_number=authority.crl_number, hosts=_publish(world, authority, names))


def _signed_anew(world: World, tx: Tx, authority: Authority, now: str) -> Authority:
    from novactl.db import x509

    key = world.secrets.open(tx, authority.key).decode()
    number = authority.crl_number + 1
    revoked = [(one.serial, one.revoked_at) for one in certificates.everything(tx) if one.revoked_at]
    return dataclasses.replace(
        authority, crl_number=number, crl=x509.revocations(authority.pem, key, number, revoked, now)
    )


def _publish(world: World, authority: Authority, names: Sequence[str]) -> list[Published]:
    """The hosts have the newest revocation list; those that cannot be told are named."""
    number = authority.crl_number
    rows = world.db.read(certificates.everything)
    behind = sorted({one.host for one in rows if one.host in names and one.crl_number < number})
    answers = dict(
        fan_out(
            lambda host: world.hypervisor(host).pki_publish(number, authority.crl),
            behind,
            deadline=DEADLINE,
            arrivals=world.arrivals,
        )
    )

    def work(tx: Tx) -> dict[str, NovactlError | None]:
        newest = _authority(tx).crl_number
        told = {host: _refused(host, answer, newest) for host, answer in answers.items()}
        for host, error in told.items():
            if error is None:
                certificates.told(tx, host, number)
        return told

    told = world.db.write(work)
    results = {host: "done" if error is None else "failed" for host, error in told.items()}
    return [
        Published(host=host, result=results.get(host, "unchanged"), error=told.get(host)) for host in names
    ]


def _refused(host: str, answer: int | NovactlError, newest: int) -> NovactlError | None:
    """Why a host that answered has not got the list. One that has a newer list than the database ever made
    has taken ours for old."""
    if isinstance(answer, NovactlError):
        return answer
    if answer > newest:
        return HostFault(
            f"{host}: has revocation list {answer}, this database made {newest} at most: it is an older copy",
            hint="novactl pki init --replace",
        )
    return None


def in_force(tx: Tx, which: str, now: str) -> list[str]:
    """The serials of a host's certificates (or that serial) that are not revoked and have not expired."""
    found = [one for one in certificates.everything(tx) if which in (one.host, one.serial)]
    return [one.serial for one in found if one.revoked_at is None and one.not_after > now]


def _told_of_revocations(tx: Tx) -> list[str]:
    """The hosts of the fleet that have certificates."""
    placed = {one.host for one in certificates.everything(tx) if one.placed_at is not None}
    return [host.name for host in hosts.everything(tx) if host.name in placed]


def listed(tx: Tx, now: str) -> list[tuple[Certificate, CertificateState]]:
    """All certificates and what each is good for."""
    by_host = [list(found) for _, found in groupby(certificates.everything(tx), lambda one: one.host)]
    return [
        (one, state_of(one, current, now))
        for found, current in ((found, certificates.current(found)) for found in by_host)
        for one in found
    ]


def state_of(one: Certificate, current: Certificate | None, now: str) -> CertificateState:
    """What a certificate is good for, when its host has `current`. Pure."""
    if one.revoked_at is not None:
        return CertificateState.REVOKED
    if one.not_after <= now:
        return CertificateState.EXPIRED
    if one.placed_at is None:
        return CertificateState.UNPLACED
    if current is not None and one.serial != current.serial:
        return CertificateState.REPLACED
    soon = seconds_between(now, one.not_after) < EXPIRING
    return CertificateState.EXPIRING if soon else CertificateState.VALID


def tls_ready(tx: Tx, host: str, now: str) -> str | None:
    """None when the host can be an end of a TLS migration, else why it cannot. A migration needs both."""
    one = certificates.current(certificates.of_host(tx, host))
    hint = f"novactl pki issue {host}"
    if one is None:
        return f"{host} has no certificate: {hint}"
    state = state_of(one, one, now)
    if state in (CertificateState.REVOKED, CertificateState.EXPIRED):
        return f"the certificate of {host} is {state}: {hint}"
    if (address := hosts.get(tx, host).address) not in one.names:
        return f"the certificate of {host} does not name its address {address}: {hint}"
    return None


def _authority(tx: Tx) -> Authority:
    found = certificates.authority(tx)
    if found is None:
        raise Refused("the fleet has no certificate authority", hint="novactl pki init makes it")
    return found


def _check_known(tx: Tx, which: str) -> None:
    """Raises NotFound unless it is a host with a certificate, or a certificate's serial; Refused without an
    authority."""
    _authority(tx)
    found = certificates.everything(tx)
    if not any(which in (one.host, one.serial) for one in found):
        close = near(which, {one.host for one in found})
        raise NotFound(
            f"{which!r} is no host with a certificate, and no serial",
            hint=f"did you mean {', '.join(close)}?" if close else "novactl pki list shows what exists",
            candidates=close,
        )


def _check_days(days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise UsageError(f"--days {days} is not within 1 to {MOST_DAYS}")


# --- plans, as --dry-run prints them: what would be done, nothing of it is journaled ---


def planned_init(world: World, days: int, *, replace: bool) -> dict[str, Any]:
    """Raises UsageError."""
    _check_days(days)
    if not replace and world.db.read(certificates.authority) is not None:
        return _plan("pki-init", "authority", [])
    return _plan("pki-init", "authority", [(None, "make", f"an authority for {days} days, its key sealed")])


def planned_issue(world: World, name: str, days: int) -> dict[str, Any]:
    """Raises as issue()."""
    place = where(world, name, days)
    return _plan("pki-issue", name, [(name, "place", f"a key and a certificate for {days} days in {place}")])


def planned_revoke(world: World, which: str) -> dict[str, Any]:
    """Raises as revoke()."""

    def work(tx: Tx) -> list[tuple[str | None, str, str]]:
        number = _authority(tx).crl_number
        _check_known(tx, which)
        fresh = in_force(tx, which, world.clock.now())
        behind = {one.host for one in certificates.everything(tx) if fresh or one.crl_number < number}
        steps: list[tuple[str | None, str, str]] = [(None, "revoke", f"certificate {one}") for one in fresh]
        told = [host for host in _told_of_revocations(tx) if host in behind]
        return steps + [(host, "publish", "the list of what is revoked") for host in told]

    return _plan("pki-revoke", which, world.db.read(work))


def _plan(kind: str, target: str, steps: Sequence[tuple[str | None, str, str]]) -> dict[str, Any]:
    rows = [
        {"n": n, "name": name, "kind": Kind.RETRIABLE, "host": host, "summary": summary}
        for n, (host, name, summary) in enumerate(steps, 1)
    ]
    host = target if kind == "pki-issue" else None
    return {"kind": kind, "target": target, "host": host, "alternates": [], "steps": rows, "changes": {}}
