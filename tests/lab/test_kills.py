"""kill -9 of novactl at sampled steps and instants of every operation, on real hypervisors: another novactl
ends what was left, forward or back, and nothing is ever left that has no owner.

Each host of the lab has an instance to which things happen; all three at once, then everything is looked at
from outside. $NOVACTL_LAB_SEED replays a run, $NOVACTL_LAB_KILLS asks for more kills.
"""

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from novactl.actions.steps import REGISTRY
from novactl.cloud import Cloud
from novactl.db import instances
from novactl.engine.step import RecordStep
from novactl.settings import Settings
from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    MIB,
    console_until,
    nothing_left,
    processes_with,
    qcow2,
    unsettled,
)
from tests.support import counts, dying
from tests.support.command import Ended

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
INSTANTS = ("before-intent", "after-intent", "in-act", "after-act", "after-record")
UNDOING = ("before-undo", "after-undo", "after-undo-record")
RECORDS = {step.type for step in REGISTRY if issubclass(step, RecordStep)}
APPLIED = {
    "record-instance",
    "claim-host",
    "change-record",
}  # by the transaction that journals: no process dies there
CALLS = {"fetch-base": 4, "shut-off": 3, "write-config-drive": 3, "check-host": 2, "write-copy": 2}
CALLS |= {"save-memory": 3, "restore-memory": 3}  # at most; else one
TO_RUN = {"SHUTOFF": "start", "PAUSED": "unpause", "SUSPENDED": "resume"}
FROM_THERE = {"SHUTOFF": ["stop", "--force"], "PAUSED": ["pause"], "SUSPENDED": ["suspend"]}
LEAST = 58

BARE = ["--flavor", "tiny", "--image", "bare", "--network", "lan"]
COLD = ["--flavor", "tiny", "--image", "cold", "--network", "lan"]
TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan"]
DISKS = ["--ephemeral", "1", "--swap", "16", "--user-data", "USER_DATA"]


@dataclass(frozen=True)
class Kind:
    """An operation: what it needs the instance to be, what the instance is before and after it, its words."""

    needs: str | None
    before: str | None
    after: str | None
    words: tuple[str, ...]
    cold: bool = False  # the host's cache is empty


KINDS = {
    "boot": Kind(None, None, "ACTIVE", ("boot", "NAME", *BARE, "--host", "HOST")),
    "boot-cold": Kind(None, None, "ACTIVE", ("boot", "NAME", *COLD, "--host", "HOST"), cold=True),
    "boot-direct": Kind(None, None, "ACTIVE", ("boot", "NAME", *TINY, *DISKS, "--host", "HOST"), cold=True),
    "boot-count": Kind(None, None, None, ("boot", "NAME", *BARE, "--host", "HOST", "--count", "2")),
    "boot-no-wait": Kind(None, None, "ACTIVE", ("boot", "NAME", *BARE, "--host", "HOST", "--no-wait")),
    "start": Kind("SHUTOFF", "SHUTOFF", "ACTIVE", ("start", "NAME")),
    "stop": Kind("listening", "ACTIVE", "SHUTOFF", ("stop", "NAME")),
    "stop-force": Kind("ACTIVE", "ACTIVE", "SHUTOFF", ("stop", "NAME", "--force")),
    "reboot": Kind("listening", "ACTIVE", "ACTIVE", ("reboot", "NAME")),
    "reboot-hard": Kind("ACTIVE", "ACTIVE", "ACTIVE", ("reboot", "NAME", "--hard")),
    "pause": Kind("ACTIVE", "ACTIVE", "PAUSED", ("pause", "NAME")),
    "unpause": Kind("PAUSED", "PAUSED", "ACTIVE", ("unpause", "NAME")),
    "suspend": Kind("ACTIVE", "ACTIVE", "SUSPENDED", ("suspend", "NAME")),
    "resume": Kind("SUSPENDED", "SUSPENDED", "ACTIVE", ("resume", "NAME")),
    "set": Kind("ACTIVE", "ACTIVE", "ACTIVE", ("set", "NAME", "--tag", "TAG")),
    "delete": Kind("ACTIVE", "ACTIVE", None, ("delete", "NAME", "--yes")),
}


@dataclass(frozen=True)
class Trial:
    """One operation, the instant its process dies at, and whether it is rolled back then."""

    kind: str
    instant: str
    back: bool
    seed: str


def trials(seed: str, least: int) -> Iterator[Trial]:
    """Every operation with every instant, in an order of the seed's, again and again with other steps until
    there are enough; half of them are rolled back."""
    deck = [(kind, instant) for kind in KINDS for instant in INSTANTS]
    deck += [("rollback", instant) for instant in UNDOING]
    made = 0
    while made < least:
        random.Random(f"{seed}/{made}").shuffle(deck)
        for kind, instant in deck:
            yield Trial(kind, instant, made % 2 == 1, f"{seed}/{made}")
            made += 1


@dataclass
class Aim:
    """The step and the instant of a kill, and the plan it is in."""

    plan: list[dict[str, Any]]
    step: dict[str, Any]
    instant: str

    @property
    def words(self) -> list[str]:
        return [str(self.step["n"]), self.instant]

    def journaled(self) -> set[str]:
        """How the journal has the step when the process died there."""
        return {"before-intent": {"pending"}, "after-record": {"done"}}.get(self.instant, {"started"})

    def codes(self) -> set[int]:
        """What a rollback may end with: 5 past the pivot, 0 before it, either when that is the question."""
        pivot = next(step["n"] for step in self.plan if step["kind"] == "pivot")
        if self.step["n"] != pivot:
            return {0} if self.step["n"] < pivot else {5}
        if self.instant.startswith("in-act"):
            return {0, 5}
        return {5} if self.instant in ("after-act", "after-record") else {0}


class Lane:
    """One host, and the instance there to which things happen one after another."""

    def __init__(self, grounds: Grounds, host: str, plans: dict[Any, Any], user_data: Path) -> None:
        self.grounds, self.novactl = grounds, grounds.novactl
        self.host, self.name = host, f"{host}-victim"
        self.plans, self.user_data = plans, user_data
        self.tally: dict[str, int] = {}
        self.told: list[str] = []

    def count(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.tally[name] = self.tally.get(name, 0) + number

    # --- the stage ---

    def reading(self, look: Callable[[Any], Any]) -> Any:
        cloud = Cloud(Settings(config=self.novactl.config), tell=print)
        with cloud.db.reading() as tx:
            found = look(tx)
        cloud.close()
        return found

    def there(self) -> dict[str, Any]:
        """The lane's instances by name."""
        found = self.reading(instances.everything)
        return {one.name: one for one in found if one.name.startswith(self.name)}

    def status(self) -> str | None:
        found = self.there().get(self.name)
        return found.status if found else None

    def words(self, kind: str) -> list[str]:
        values = {"NAME": self.name, "HOST": self.host, "USER_DATA": str(self.user_data)}
        values["TAG"] = secrets.token_hex(4)
        return [values.get(word, word) for word in KINDS[kind].words]

    def prepare(self, kind: Kind) -> None:
        """The instance is as the operation needs it, by the shortest way."""
        there = self.there()
        image = there[self.name].image.name if self.name in there else None
        unwanted = set(there) if kind.needs is None else set(there) - {self.name}
        if kind.needs == "listening" and (image != "tiny" or self.status() != "ACTIVE"):
            unwanted = set(there)
        if unwanted:
            self.novactl.ok("delete", *sorted(unwanted), "--yes")
        if kind.cold:
            self.grounds.host(self.host).run(["sh", "-c", f"rm -f {INSTANCES}/_base/*"]).check_returncode()
        if kind.needs is None:
            return
        if self.status() is None:
            image_words = TINY if kind.needs == "listening" else BARE
            self.novactl.ok("boot", self.name, *image_words, "--host", self.host)
        if kind.needs == "listening":
            shown = self.novactl.json("show", self.name)
            console_until(self.grounds, shown, "tiny: ready")
        elif (now := self.status()) != kind.needs:
            if now != "ACTIVE":
                self.novactl.ok(TO_RUN[str(now)], self.name)
            if kind.needs != "ACTIVE":
                self.novactl.ok(*FROM_THERE[kind.needs], self.name)

    def plan(self, kind: str) -> list[dict[str, Any]]:
        """The steps that the operation will have: those of `start` follow the instance's disks."""
        key = (kind, *((one.image.name, one.flavor.swap_mib) for one in self.there().values()))
        if key not in self.plans:
            words = [word for word in self.words(kind) if word != "--no-wait"]
            shown = self.novactl.json(*words, "--dry-run")
            plan = (shown[0] if isinstance(shown, list) else shown)["steps"]
            self.plans.setdefault(key, plan)
        return list(self.plans[key])

    def aim(self, trial: Trial) -> Aim:
        choice, plan = random.Random(trial.seed), self.plan(trial.kind)
        acts_only = trial.instant not in ("before-intent", "after-record")
        excluded = APPLIED | (RECORDS if acts_only else set())
        step = choice.choice([step for step in plan if step["name"] not in excluded])
        instant = trial.instant
        if instant == "in-act":
            call = choice.randint(1, CALLS.get(step["name"], 1))
            instant = f"in-act:{call}:{choice.choice((5, 20, 60, 150))}"
        return Aim(plan, step, instant)

    # --- the act ---

    def play(self, trial: Trial) -> None:
        if trial.kind == "rollback":
            self.play_rollback(trial)
            return
        kind = KINDS[trial.kind]
        self.prepare(kind)
        aim = self.aim(trial)
        self.note(trial, aim)
        op_id = self.kill(aim.words, self.words(trial.kind))
        steps = self.reading(lambda tx: _steps(tx, op_id, aim.step["n"]))
        assert {step["name"] for step in steps} == {aim.step["name"]}, f"the plan changed: {steps}"
        assert aim.journaled() & {step["state"] for step in steps}, f"died elsewhere: {steps}"
        if trial.kind in ("stop", "reboot") and aim.step["name"] == "shut-off":
            self.let_it_obey(aim)
        ended = self.finish(
            op_id, back=trial.back, codes={0, 5} if trial.kind == "boot-count" else aim.codes()
        )
        if trial.kind != "boot-count":
            wanted = kind.after if ended == "done" else kind.before
            assert self.status() == wanted, f"it is {ended} and the instance is {self.status()}"

    def play_rollback(self, trial: Trial) -> None:
        """A boot is killed late, and its rollback too."""
        self.prepare(KINDS["boot"])
        choice, plan = random.Random(trial.seed), self.plan("boot")
        last = next(step["n"] for step in plan if step["name"] == "start-domain")
        steps = [step for step in plan if step["n"] <= last]
        if trial.instant == "after-undo":
            steps = [step for step in steps if step["name"] not in RECORDS]
        aim = Aim(plan, choice.choice(steps), trial.instant)
        self.note(trial, aim)
        op_id = self.kill(["start-domain", "after-act"], self.words("boot"))
        assert self.kill(aim.words, ["op", "rollback", op_id]) == op_id
        if trial.back:
            self.finish(op_id, back=True, codes={0})
        else:  # what was taken back is not there any more: it can only be undone to the end
            resumed = self.novactl("op", "resume", op_id)
            assert resumed.code == 1, resumed.err
            self.count(resumed=1)
        assert self.status() is None

    def note(self, trial: Trial, aim: Aim) -> None:
        way = "rollback" if trial.back else "resume"
        self.told.append(f"{self.host}: {trial.kind} {aim.step['name']} {aim.instant} {way} ({trial.seed})")

    def kill(self, where: list[str], words: list[str]) -> str:
        """The operation that a novactl left which died there."""
        detached = "--no-wait" in words
        driver = [sys.executable, "-m", dying.MODULE, *(["--runner"] if detached else []), *where, "--"]
        done = subprocess.run(
            [*driver, *words],
            env=self.novactl.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        ended = Ended(words, done.returncode, done.stdout, done.stderr)
        assert ended.code == (0 if detached else -9), f"{ended.code}: {ended.out}{ended.err}"
        if detached:
            while processes_with(ended.out.strip()):
                time.sleep(0.05)
        self.count(kills=1)
        rows = self.reading(lambda tx: _active(tx, self.name))
        assert rows, "no operation was left"
        return str(rows[0]["parent"] or rows[0]["id"])

    def let_it_obey(self, aim: Aim) -> None:
        """A guest that was asked to shut down before the process died does so; nobody looks meanwhile."""
        if not aim.instant.startswith("in-act") or aim.instant.startswith("in-act:1"):
            return
        uuid, end = self.there()[self.name].uuid, time.monotonic() + 15
        while self.grounds.state(self.host, uuid) == "running" and time.monotonic() < end:
            time.sleep(0.2)

    def finish(self, op_id: str, *, back: bool, codes: set[int]) -> str:
        """How another novactl ended it: done or undone."""
        if back:
            rolled = self.novactl("op", "rollback", op_id)
            assert rolled.code in codes, f"rollback ended with {rolled.code}, not {codes}: {rolled.err}"
            if rolled.code == 0:
                self.count(rolled_back=1)
                return "undone"
            assert "point of no return" in rolled.err, rolled.err
            self.count(refused_past_the_pivot=1)
        self.novactl.ok("op", "resume", op_id)
        self.count(resumed=1)
        return "done"


def _active(tx: Any, name: str) -> list[dict[str, Any]]:
    active = "finished_at IS NULL AND target_uuid IS NOT NULL"
    rows = tx.all(f"SELECT id, parent, target FROM operations WHERE {active}")
    return [row for row in rows if row["target"].startswith(name)]


def _steps(tx: Any, op_id: str, n: int) -> list[dict[str, Any]]:
    """The nth step of an operation, or of each of its children."""
    where = "operation IN (SELECT id FROM operations WHERE :id IN (id, parent))"
    rows = tx.all(f"SELECT state, step FROM steps WHERE {where} AND n = :n", id=op_id, n=n)
    return [{"state": row["state"], "name": json.loads(row["step"])["type"]} for row in rows]


@pytest.fixture
def lanes(grounds: Grounds, tmp_path: Path) -> Iterator[list[Lane]]:
    """A lane on each host; two images without a system in them, whose guests cost next to nothing: `bare`,
    and `cold`, which is converted on the host by a job."""
    novactl = grounds.novactl
    disk = novactl.config / "images" / novactl.json("image", "show", "tiny")["sha256"]
    novactl.ok("image", "add", "bare", "--file", str(disk), "--format", "raw")
    cold = qcow2(tmp_path, secrets.token_bytes(4 * MIB))
    novactl.ok("image", "add", "cold", "--file", str(cold), "--format", "qcow2")
    (tmp_path / "user-data").write_text("#!/bin/sh\necho user-data ran\n")
    plans: dict[Any, Any] = {}
    names = [host.name for host in grounds.fleet.hosts]
    yield [Lane(grounds, name, plans, tmp_path / "user-data") for name in names]
    left = novactl.ok("list", "-o", "name").out.split()
    if left:
        novactl.ok("delete", *left, "--yes")
    for image in ("bare", "cold"):
        novactl.ok("image", "delete", image, "--yes")


def audited(grounds: Grounds) -> list[str]:
    """What `novactl audit` finds. A part of a base file is no fault: the next boot goes on with it."""
    told = grounds.novactl("audit", "-o", "json")
    assert told.out, f"audit ended with {told.code}: {told.err}"
    return [row["message"] for row in told.json if row["finding"] != "part-left"]


def played(lanes: list[Lane], hands: list[Trial]) -> list[str]:
    """A trial on each host at once; what went wrong with them."""
    wrong = []
    with ThreadPoolExecutor(len(lanes)) as pool:
        futures = [(lane, pool.submit(lane.play, hand)) for lane, hand in zip(lanes, hands, strict=False)]
        for lane, future in futures:
            if (error := future.exception()) is not None:
                if not isinstance(error, AssertionError):
                    raise error
                wrong.append(f"{lane.told[-1:]}: {error}")
    return wrong


def dealt(lane: Lane, hand: list[Trial]) -> Trial:
    """Out of the lane's hand the next trial, one that takes the instance as it is if there is one."""
    status, image = lane.status(), next((one.image.name for one in lane.there().values()), None)
    state = "listening" if status == "ACTIVE" and image == "tiny" else status

    def fits(trial: Trial) -> bool:
        needs = KINDS[trial.kind].needs if trial.kind in KINDS else None
        return needs == state or (needs, state) == ("ACTIVE", "listening")

    chosen = next(filter(fits, hand), hand[0])
    hand.remove(chosen)
    return chosen


def test_kills(grounds: Grounds, lanes: list[Lane]) -> None:
    seed = os.environ.get("NOVACTL_LAB_SEED") or secrets.token_hex(4)
    least = int(os.environ.get("NOVACTL_LAB_KILLS") or LEAST)
    print(f"NOVACTL_LAB_SEED={seed} NOVACTL_LAB_KILLS={least}")
    deck, began = list(trials(seed, least)), time.monotonic()
    hands = [deck[n :: len(lanes)] for n in range(len(lanes))]
    while any(hands):
        told = [len(lane.told) for lane in lanes]
        busy = [(lane, hand) for lane, hand in zip(lanes, hands, strict=True) if hand]
        wrong = played([lane for lane, _ in busy], [dealt(lane, hand) for lane, hand in busy])
        these = [line for lane, n in zip(lanes, told, strict=True) for line in lane.told[n:]]
        print(*these, sep="\n", flush=True)
        wrong += unsettled(grounds) + audited(grounds)
        assert wrong == [], f"NOVACTL_LAB_SEED={seed}: after {these}"
    numbers = {name: sum(lane.tally.get(name, 0) for lane in lanes) for lane in lanes for name in lane.tally}
    print(numbers, f"in {time.monotonic() - began:.0f} s")
    assert numbers["kills"] >= least and numbers["resumed"] and numbers["rolled_back"]
    counts.record("lab kills", **numbers, seconds=round(time.monotonic() - began, 1))
    for lane in lanes:
        if there := sorted(lane.there()):
            lane.novactl.ok("delete", *there, "--yes")
    nothing_left(grounds)
