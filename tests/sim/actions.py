"""The verbs that the simulation plays."""

from typing import Any

from novactl.actions.boot import Boot
from novactl.actions.delete import Delete
from novactl.actions.power import Start, Stop
from novactl.objects.request import BootRequest, NetworkRequest


def boot(name: str = "web1", **values: Any) -> Boot:
    request = BootRequest(
        **{
            "name": name,
            "flavor": "small",
            "image": "tiny",
            "networks": (NetworkRequest(network="lan"),),
            "user_data": b"#cloud-config\n",
            **values,
        }
    )
    return Boot(request=request, name=name)


def start(name: str = "web1") -> Start:
    return Start(name=name, project="default")


def stop(name: str = "web1", **values: Any) -> Stop:
    return Stop(name=name, project="default", **values)


def delete(name: str = "web1", **values: Any) -> Delete:
    return Delete(name=name, project="default", **values)
