"""Reading a host's libvirt over qemu+ssh; every call has a deadline."""

import concurrent.futures
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from xml.etree.ElementTree import fromstring

from novactl.errors import HostUnreachable
from novactl.virt import capabilities
from novactl.virt.capabilities import Hardware
from novactl.virt.domain import NAMESPACE

DEADLINE = 20.0  # seconds

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A domain on a host. `fleet` and `epoch` are from its metadata; None when it is not novactl's."""

    uuid: str
    name: str
    active: bool
    vcpus: int
    memory_mib: int
    fleet: str | None
    epoch: int | None


@dataclass(frozen=True, kw_only=True)
class LibvirtFacts:
    """What libvirt says of itself, of the hardware and of its guests."""

    libvirt_version: str
    qemu_version: str
    arch: str
    cpu_model: str
    guests: tuple[Guest, ...]
    hardware: Hardware = field(default_factory=Hardware)


def facts(host: str, uri: str, virt_type: str) -> LibvirtFacts:
    """Ask a host's libvirt; what processors can do is told of guests of that type. Raises HostUnreachable
    when it does not answer in time."""
    return within(DEADLINE, host, lambda: _facts(uri, virt_type))


def within(seconds: float, host: str, call: Callable[[], T]) -> T:
    """`call` in a thread that a hung libvirt cannot make us wait for, at our end neither."""
    import libvirt

    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError as error:
        raise HostUnreachable(f"{host}: libvirt gave no answer in {seconds:.0f} s") from error
    except libvirt.libvirtError as error:
        raise HostUnreachable(f"{host}: {_words(error)}", hint=_hint(str(error))) from error


def _words(error: Any) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    return f"libvirt: {text}"


def _hint(text: str) -> str:
    if "Host key verification failed" in text:
        return "its host key is not the pinned one"
    if "libvirt-sock" in text or "end of file" in text.lower() or "Connection refused" in text:
        return "is libvirtd (or virtqemud) running there, and is the user in group libvirt?"
    return ""


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Any]:
    """A connection to the libvirt there; what it says goes into the errors it raises, and not to stderr."""
    import libvirt

    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(uri)
    try:
        yield connection
    finally:
        connection.close()


def _facts(uri: str, virt_type: str) -> LibvirtFacts:
    with opened(uri) as connection:
        told = fromstring(connection.getCapabilities())  # noqa: S314 - from the host's libvirt
        arch = told.findtext("host/cpu/arch") or "unknown"
        return LibvirtFacts(
            libvirt_version=_version(connection.getLibVersion()),
            qemu_version=_version(connection.getVersion()),
            arch=arch,
            cpu_model=told.findtext("host/cpu/model") or arch,
            guests=tuple(filter(None, map(_guest, connection.listAllDomains()))),
            hardware=Hardware(
                topology=capabilities.topology(told), **_guest_hardware(connection, arch, virt_type)
            ),
        )


def _guest_hardware(connection: Any, arch: str, virt_type: str) -> dict[str, Any]:
    """What guests can have; nothing when libvirt cannot tell it of such guests there."""
    import libvirt

    machine = "q35" if arch == "x86_64" else None
    try:
        told = fromstring(connection.getDomainCapabilities(None, arch, machine, virt_type))  # noqa: S314
    except libvirt.libvirtError:
        return {}
    found = {"cpu_models": capabilities.cpu_models(told), "firmwares": capabilities.firmwares(told)}
    expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    try:
        model = capabilities.host_model(told)
        full = connection.baselineHypervisorCPU(None, arch, machine, virt_type, [model], expand)
    except libvirt.libvirtError:
        return found
    return {**found, "cpu_features": capabilities.cpu_features(fromstring(full))}  # noqa: S314


def _guest(domain: Any) -> Guest | None:
    """None for one that went away since it was listed."""
    import libvirt

    try:
        info, active = domain.info(), bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    try:
        mark = fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))  # noqa: S314
    except (libvirt.libvirtError, SyntaxError):
        mark = None
    return Guest(
        uuid=domain.UUIDString(),
        name=domain.name(),
        active=active,
        vcpus=info[3],
        memory_mib=info[1] // 1024,
        fleet=None if mark is None else mark.get("fleet"),
        epoch=None if mark is None else int(mark.get("epoch", "0")),
    )


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
