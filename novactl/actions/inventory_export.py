"""Today's state as an inventory's YAML would have it: applied where it came from, it changes nothing."""

from typing import Any

from novactl.actions.inventory_state import State
from novactl.objects.duration import as_duration

Section = dict[str, Any]


def export(state: State) -> dict[str, Section | str]:
    """{section: {name: …}} of every section that has something. No secrets are in it: none are asked for."""
    sections: dict[str, Any] = {
        "hosts": {name: _host(fields) for name, fields in state.of("host").items()},
        "aggregates": state.of("aggregate"),
        "flavors": {name: _without(fields, 0, {}, keep=SIZES) for name, fields in state.of("flavor").items()},
        "networks": {name: _without(fields, None, []) for name, fields in state.of("network").items()},
        "images": {name: _without(fields, None, 0, {}) for name, fields in state.of("image").items()},
        "keypairs": {
            name: {"public_key": fields["public_key"]} for name, fields in state.of("keypair").items()
        },
        "projects": {name: _without(fields, "") for name, fields in state.of("project").items()},
        "groups": {
            name: {**fields, "policy": str(fields["policy"])} for name, fields in state.of("group").items()
        },
        "weighers": state.setting("weighers"),
        "scheduler": state.setting("scheduler"),
        "policies": {name: _policy(fields) for name, fields in state.of("policy").items()},
        "cron": {name: _cron(fields) for name, fields in state.of("cron").items()},
        "trusted_networks": state.setting("trusted_networks"),
        "default_network": state.setting("default_network"),
    }
    return {name: section for name, section in sections.items() if section}


SIZES = ("vcpus", "memory_mib", "disk_gib")


def _host(fields: Section) -> Section:
    """Without `enabled: true`: stated, it would enable a host that somebody disabled for an hour."""
    found = _without(fields, None)
    if found["enabled"]:
        del found["enabled"]
    return found


def _without(fields: Section, *empty: Any, keep: tuple[str, ...] = ()) -> Section:
    """Without what is so anyway."""
    return {
        key: value
        for key, value in fields.items()
        if key in keep or isinstance(value, bool) or value not in empty
    }


def _policy(fields: Section) -> Section:
    found = _without(fields, None, [])
    return {**found, "after": as_duration(found["after"])} if "after" in found else found


def _cron(fields: Section) -> Section:
    lengths = {
        key: as_duration(fields[key]) for key in ("every", "jitter", "older") if fields.get(key) is not None
    }
    return {**lengths, "enabled": fields["enabled"]}
