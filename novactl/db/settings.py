"""What the operator decided for the whole fleet, by name: named queries."""

import json
from typing import Any

from novactl.db import second_copy
from novactl.db.session import Tx, among, dumps

DEFAULTS: dict[str, Any] = {
    "weighers": {},  # {name: multiplier}; what is not there: as scheduler.select has it
    "policies": [],  # [objects.policy.Policy.as_dict()]
    "cron": {},  # {task: objects.policy.CronTask.as_dict()}
    "scheduler": {},  # {rule: number}: scheduler.spec.Rules, checked by objects.policy
    "trusted_networks": {},  # {name: CIDR}: where guests may travel in clear (objects.trusted)
    "image_store": None,  # str() of the objects.place.Place where image files are shared
    "default_network": None,  # name of the network that `boot` takes when none is given
}


def get(tx: Tx, name: str) -> Any:
    """Its value, or the default. Raises KeyError for a name that is none of DEFAULTS."""
    return some(tx, name)[name]


def some(tx: Tx, *names: str) -> dict[str, Any]:
    """get() of several, by name."""
    found = among(tx, "SELECT name, value FROM settings WHERE name IN", names)
    kept = {row["name"]: row["value"] for row in found}
    return {name: json.loads(kept[name] if name in kept else dumps(DEFAULTS[name])) for name in names}


def put(tx: Tx, name: str, value: Any) -> bool:
    """Keep the value (objects.policy.check_setting has seen it); the default is kept by no row. Whether
    that changes anything."""
    if get(tx, name) == value:
        return False
    tx.run("DELETE FROM settings WHERE name = :name", name=name)
    if value != DEFAULTS[name]:
        tx.insert("settings", id=name, name=name, value=dumps(value))
    second_copy.changed(tx)
    return True
