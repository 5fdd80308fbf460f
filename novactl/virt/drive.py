"""A live migration that this process drives: it speaks with two libvirts that know nothing of each other."""

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from novactl.errors import HostFault
from novactl.virt.connection import DEADLINE, opened, within
from novactl.virt.live import Drive

POLL = 1.0  # seconds between two looks how far it is
PATIENCE = 60.0  # seconds that libvirt may take to end it

Done = concurrent.futures.Future[None]


def drive(
    uris: tuple[tuple[str, str], tuple[str, str]],
    move: Drive,
    *,
    begin: Callable[[], None],
    check: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    """The guest stands still on its new host, and is gone from the old one. `uris`: name and libvirt's URI of
    either. begin() is called once both libvirts are there, before anything is asked of them; check() every
    now and then: when it raises, the migration is ended, and the error goes on. Raises HostUnreachable,
    HostFault."""
    import libvirt

    _answer_keepalives()
    with contextlib.ExitStack() as both:
        source, target = (
            within(DEADLINE, host, lambda uri=uri: both.enter_context(opened(uri)))  # type: ignore[misc]
            for host, uri in uris
        )
        begin()
        try:
            domain = source.lookupByUUIDString(move.uuid)
            if move.max_downtime_ms:
                domain.migrateSetMaxDowntime(move.max_downtime_ms)
            _follow(_started(domain, target, move), domain, check, tell)
        except libvirt.libvirtError as error:
            raise HostFault(f"the guest does not move: {error}") from error


@cache
def _answer_keepalives() -> None:
    """From now on libvirt asks whether we still live, and lets us go when we are silent for half a minute:
    it does neither with a client that has no event loop."""
    import libvirt

    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def _started(domain: Any, target: Any, move: Drive) -> Done:
    done = Done()

    def run() -> None:
        try:
            domain.migrate3(target, parameters(move), flags(move))
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return done


def _follow(done: Done, domain: Any, check: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Until it has ended; ended by us when check() raises."""
    while True:
        try:
            return done.result(timeout=POLL)
        except TimeoutError:
            pass
        try:
            check()
        except BaseException:
            _abort(done, domain)
            raise
        if said := _progress(domain):
            tell(said)


def _abort(done: Done, domain: Any) -> None:
    import libvirt

    end = time.monotonic() + PATIENCE
    while not done.done() and time.monotonic() < end:
        with contextlib.suppress(libvirt.libvirtError):  # there is none yet, or none any more
            domain.abortJob()
        concurrent.futures.wait([done], timeout=POLL)


def _progress(domain: Any) -> str:
    """As the job of nv_live tells it."""
    import libvirt

    try:
        now = domain.jobStats()
    except libvirt.libvirtError:
        return ""
    left = now.get("data_remaining")
    return "" if left is None else f"{left / (1 << 20):.1f} MiB remaining"


def flags(move: Drive) -> int:
    """Of virDomainMigrate3: what virsh_words() says, but for --p2p."""
    import libvirt

    found: int = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PAUSED | libvirt.VIR_MIGRATE_PERSIST_DEST
    found |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    found |= libvirt.VIR_MIGRATE_NON_SHARED_INC if move.disks else libvirt.VIR_MIGRATE_UNSAFE
    if move.tls:
        found |= libvirt.VIR_MIGRATE_TLS
    if move.auto_converge:
        found |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    return found


def parameters(move: Drive) -> dict[str, Any]:
    """Of virDomainMigrate3."""
    import libvirt

    host = f"[{move.address}]" if ":" in move.address else move.address
    found: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: move.xml,
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: move.persistent,
        libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{host}",
        libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: move.address,
    }
    if move.disks:
        found[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(move.disks)
    if move.bandwidth_mibps:
        found[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = move.bandwidth_mibps
    return found
