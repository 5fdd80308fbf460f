"""Processes that claim as fast as they can: `python -m tests.bench.claiming`, told by JSON on stdin, answers
[seconds from the first claim to the last, claims made, refused].

One process imports novactl and forks. Each child plans and journals boots as the command does: name, quota,
group, address, allocation, operation and its steps, one transaction for each command; those that claim at
the same time mostly in other groups."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from novactl.actions.boot import boots
from novactl.db import connect, tables
from novactl.engine.operation import OpState
from novactl.errors import NovactlError, Refused
from novactl.objects.request import BootRequest, NetworkRequest
from tests.db.claimer import operator

FIELDS = {"image": "tiny", "flavor": "small"}
GROUPS = 32


def claims(asked: dict[str, Any], number: int, answer: Path) -> None:
    """One process: `commands` boots of `each` instances."""
    db = connect.database(asked["url"], Path("unused"))
    operating = operator(db, number, Path(asked["directory"]))
    db.read(lambda tx: None)
    while time.time() < asked["begin"]:
        time.sleep(0.001)
    began, made, refused = time.time(), 0, 0
    for turn in range(asked["commands"]):
        request = BootRequest(
            name=f"vm{number}-{turn}",
            networks=(NetworkRequest(network="lan"),),
            count=asked["each"],
            group=f"web{(turn + number * GROUPS // asked['processes']) % GROUPS}",
            **FIELDS,
        )
        many = boots(request)
        try:
            if len(many) == 1:
                operating.submit(many[0], None, OpState.RUNNING)
            else:
                operating.submit_all(many, None, OpState.RUNNING)
            made += len(many)
        except Refused:
            refused += len(many)
    answer.write_text(json.dumps([began, time.time(), made, refused]))
    db.close()


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    assert tables
    asked["begin"] = time.time() + 0.5
    answers = [Path(asked["directory"]) / f"{number}.rate" for number in range(asked["processes"])]
    children = []
    for number, answer in enumerate(answers):
        if (child := os.fork()) == 0:
            code = 1
            try:
                claims(asked, number, answer)
                code = 0
            except NovactlError as error:
                print(error, file=sys.stderr)
            finally:
                os._exit(code)
        children.append(child)
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
    found = [json.loads(answer.read_text()) for answer in answers]
    seconds = max(ended for _, ended, _, _ in found) - min(began for began, _, _, _ in found)
    print(json.dumps([seconds, sum(made for _, _, made, _ in found), sum(one[3] for one in found)]))


if __name__ == "__main__":
    main()
