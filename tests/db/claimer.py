"""Many processes that boot as fast as they can: `python -m tests.db.claimer`, told by JSON on stdin.

One process imports novactl and forks; each child opens the database itself and writes down, line by line,
what novactl has acknowledged to it.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from novactl import resources
from novactl.actions.boot import Boot
from novactl.actions.operate import Operator
from novactl.actions.steps import REGISTRY
from novactl.actions.world import World
from novactl.db import connect, tables
from novactl.db.journal import DbJournal, Owner
from novactl.db.secrets import Secrets
from novactl.db.session import Database
from novactl.engine.operation import OpState
from novactl.engine.ports import Interrupt, NoFailpoints
from novactl.errors import NovactlError, NoValidHost, Refused
from novactl.objects.request import BootRequest, NetworkRequest
from tests.support.clock import SeededIds, SimClock

NAMES = 700  # fewer than are asked for: some names are wanted twice
GROUP = "apart"  # of every third one


def operator(db: Database, number: int, directory: Path) -> Operator:
    """novactl of one process, as far as planning goes."""

    def no_host(name: str) -> Any:
        raise AssertionError(f"planning asks {name}")

    template = resources.template("domain.xml", Path("/nonexistent"))
    clock = SimClock()
    world = World(
        db=db,
        hypervisor=no_host,
        store=SimpleNamespace(has=lambda sha256: True),  # type: ignore[arg-type]
        secrets=Secrets(directory / "secret.key"),
        clock=clock,
        ids=SeededIds(number),
        interrupt=Interrupt(),
        fleet="fleet",
        template=lambda _: template,
        tell=lambda _: None,
    )
    journal = DbJournal(db, REGISTRY, clock, Owner(words=f"p{number}", user="me", key={"n": number}))
    return Operator(
        world,
        journal,
        failpoints=NoFailpoints(),
        observe=lambda op, record, event, detail="": None,
        alive=lambda key, **_: True,
    )


def claims(url: str, number: int, count: int, directory: Path) -> None:
    """One process: each line is [name, what became of it]."""
    db = connect.database(url, Path("unused"))
    operating = operator(db, number, directory)
    with (directory / f"{number}.told").open("w", buffering=1) as told:
        for turn in range(count):
            nth = (number * count + turn) * 37 % NAMES
            name = f"vm-{nth}"
            request = BootRequest(
                name=name,
                image="tiny",
                flavor="small",
                networks=(NetworkRequest(network="lan"),),
                group=GROUP if nth % 3 == 0 else None,
            )
            try:
                op = operating.submit(Boot(request=request, name=name), None, OpState.RUNNING)
                assert op is not None
                answer = ["done", op.id, op.target_uuid]
            except (NoValidHost, Refused) as error:
                answer = ["refused", error.message]
            except NovactlError as error:
                answer = ["error", f"{type(error).__name__}: {error}"]
            print(json.dumps([name, *answer]), file=told)
    db.close()


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    assert tables
    children = []
    for number in range(asked["processes"]):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                claims(asked["url"], number, asked["claims"], Path(asked["directory"]))
                code = 0
            except BaseException:  # noqa: BLE001 - it must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
