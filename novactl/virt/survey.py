"""What nv_survey (remote/survey.sh) prints, as a Survey. Pure."""

import json
import re
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element, XMLParser, fromstring

from novactl.errors import HostFault
from novactl.objects.names import SHA256, UUID
from novactl.objects.states import PowerState
from novactl.objects.survey import SeenDirectory, SeenDomain, Survey
from novactl.virt.calls import told_mark
from novactl.virt.domain import NAMESPACE

POWER_STATES = {
    "running": PowerState.RUNNING,
    "idle": PowerState.RUNNING,
    "paused": PowerState.PAUSED,
    "in shutdown": PowerState.RUNNING,
    "shut off": PowerState.SHUTDOWN,
    "crashed": PowerState.CRASHED,
    "pmsuspended": PowerState.SUSPENDED,
    "none": PowerState.NOSTATE,
}
"""libvirt's words (virsh domstate) as Nova's power states; "none" is ours for no domain at all."""

BLANK = re.compile(r"(?:ephemeral_[0-9]+_ext4|swap_[0-9]+)(?:_v2)?")
PART = re.compile(rf"\.({SHA256.pattern}|{BLANK.pattern})\.(part|pos|pos\.new|raw|json)")
JOB = re.compile(r"(op-[0-9a-f]+)\.([0-9]+)")


def power_state(host: str, word: str) -> PowerState:
    """Raises HostFault for a word that is not libvirt's."""
    if word not in POWER_STATES:
        raise HostFault(f"{host}: libvirt reports an unknown state {word!r}")
    return POWER_STATES[word]


def parse(host: str, answer: bytes, mark: str) -> Survey:
    """The survey. Raises HostFault when libvirt did not tell all of a domain that is there, or what was
    printed is not nv_survey's."""
    tokens = [token.decode(errors="backslashreplace") for token in answer.split(b"\0")]
    pairs = list(zip(tokens[:-1:2], tokens[1::2], strict=False))
    one = dict(pairs)
    if len(tokens) % 2 == 0 or not {"fleet", "mark", "boot_id"} <= one.keys():
        raise HostFault(f"{host}: the survey was cut")
    bases, parts = base_files([value for key, value in pairs if key == "base"])
    epochs = dict(_split(pairs, "epoch"))
    jobs = [(JOB.fullmatch(name), state) for name, state in _split(pairs, "job")]
    return Survey(
        fleet=one["fleet"] or None,
        mark=told_mark(host, one["mark"]),
        boot_id=one["boot_id"],
        storage=one.get("storage", ""),
        domains=tuple(_domains(host, pairs, mark)),
        directories=tuple(_directories(pairs)),
        bases=bases,
        parts=parts,
        epochs={uuid: _number(seen) or 0 for uuid, seen in epochs.items() if UUID.fullmatch(uuid)},
        trusts=tuple(sorted(value for key, value in pairs if key == "trust")),
        jobs=tuple(sorted((job[1], int(job[2]), state == "running") for job, state in jobs if job)),
    )


def _split(pairs: list[tuple[str, str]], wanted: str) -> list[tuple[str, str]]:
    """The values of a key, each a name and the word after its last space."""
    found = [value.rpartition(" ") for key, value in pairs if key == wanted]
    return [(name, word) for name, _, word in found]


def base_files(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ready, left by transfers) of what lies in _base."""
    there = set(names)
    ready = {name for name in there if BLANK.fullmatch(name)}
    ready |= {name for name in there if SHA256.fullmatch(name) and f"{name}.json" in there}
    parts = {match[1] for name in there if (match := PART.fullmatch(name))}
    return tuple(sorted(ready)), tuple(sorted(parts))


def _directories(pairs: list[tuple[str, str]]) -> list[SeenDirectory]:
    found: list[tuple[str, dict[str, list[str]]]] = []
    for key, value in pairs:
        if key == "directory":
            found.append((value, {"made_by": [], "file": []}))
        elif key in ("made_by", "file"):
            found[-1][1][key].append(value)
    return [
        SeenDirectory(entry=entry, made_by=next(iter(of["made_by"]), None), files=tuple(sorted(of["file"])))
        for entry, of in sorted(found, key=lambda item: item[0])
    ]


def _domains(host: str, pairs: list[tuple[str, str]], mark: str) -> list[SeenDomain]:
    autostart, saved = (_uuids(pairs, key) for key in ("autostart", "saved"))
    found: list[SeenDomain] = []
    for text in (value for key, value in pairs if key == "domains"):
        *told, last = text.split(mark)[1:]
        if not last.startswith("end"):
            raise HostFault(f"{host}: libvirt's answer was cut")
        there = set(last.removeprefix("end").split())
        for one in told:
            uuid, (word, _, xml) = one[:36], one[36:].strip().partition("\n")
            if word and xml:
                state = power_state(host, word.strip())
                found.append(domain(uuid, state, uuid in autostart, xml, saved=uuid in saved))
            elif uuid in there:
                raise HostFault(f"{host}: libvirt does not tell what domain {uuid} is")
    return sorted(found, key=lambda one: one.uuid)


def _uuids(pairs: list[tuple[str, str]], wanted: str) -> set[str]:
    return next((set(value.split()) for key, value in pairs if key == wanted), set())


def domain(uuid: str, state: PowerState, autostart: bool, xml: str, *, saved: bool = False) -> SeenDomain:
    """What a domain's (inactive) XML says of whose it is."""
    try:
        root = fromstring(xml, parser=XMLParser())  # noqa: S314 - libvirt's own output: no DTD gets through it
    except SyntaxError:
        return SeenDomain(uuid=uuid, name="", state=state, autostart=autostart, saved=saved)
    mark = root.find(f"metadata/{{{NAMESPACE}}}instance")
    if mark is None:
        mark = Element("none")
    return SeenDomain(
        uuid=uuid,
        name=root.findtext("name") or "",
        state=state,
        autostart=autostart,
        saved=saved,
        fleet=mark.get("fleet"),
        operation=mark.get("operation"),
        epoch=_number(mark.get("epoch")),
        generation=_number(mark.get("generation")),
        record=_record(mark.text),
        taps=tuple(dev for each in root.iterfind("devices/interface/target") if (dev := each.get("dev"))),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _record(text: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
