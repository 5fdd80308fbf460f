"""A database that was restored from an older copy: it is noticed, nothing is done by it, and what the hosts
know is taken over."""

import contextlib
import json
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import audit
from novactl.actions.audit import adopt as adopting
from novactl.actions.audit import heal as heals
from novactl.db import backups, catalogue, groups, hosts, instances, projects
from novactl.db.operations import events
from novactl.db.session import Database, meta
from novactl.errors import Busy, HostUnreachable, NovactlError, Refused
from novactl.objects.finding import Finding
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.instance import Instance
from novactl.objects.project import Project
from tests.sim.actions import back_up, boot, delete, lock, offload, start, stop, unshelve
from tests.sim.stage import nth
from tests.support import fleet as records
from tests.support.scratch import FLEET
from tests.support.sim import Fault, Process, SimFleet, SimHost, always, settled
from tests.support.toys import DieAt, Died

SEEDS = int(os.environ.get("NOVACTL_SEEDS", "20"))


class Telling(SimFleet):
    """A fleet whose processes tell the hosts their operations' marks, as Cloud does."""

    @contextlib.contextmanager
    def process(self, *of: Any, **values: Any) -> Iterator[Process]:
        with super().process(*of, **values) as process:
            known = process.world.hypervisor

            def reached(mark: str) -> None:
                for host in self.hosts:
                    known(host).mark = max(known(host).mark, mark)

            process.world = process.operator.world = replace(process.world, reached=reached)
            yield process

    def backup(self) -> Database:
        directory = self.directory / f"backup-{self.clock.now()}"
        directory.mkdir()
        return self.place.twin(self.db, directory)

    def restore(self, old: Database) -> None:
        self.place.release(self.db)
        self.db = old


@pytest.fixture
def fleet(quick: Path) -> Iterator[Telling]:
    """web1 runs on kvm1, web2 is off on kvm2."""
    made = Telling(quick)
    for action in (boot("web1", host="kvm1"), boot("web2", host="kvm2"), stop("web2")):
        assert made.run(action).code == 0
    yield made
    made.close()


def look(fleet: SimFleet) -> list[Finding]:
    with fleet.process() as process:
        evidence = audit.gather(process.world, process.operator.is_left)
    return audit.findings(evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies)


def adopt(fleet: SimFleet) -> list[str]:
    """What it did; as it said before."""
    with fleet.process() as process:
        shown = adopting.rehearse(process.operator)
        done = adopting.adopt(process.operator)
    if not any(change.change == "catalogue" for change in shown):  # else new hosts may have been asked
        assert [change.message for change in done] == [change.message for change in shown]
    fleet.told += [change.message for change in done]
    return [f"{change.change} {change.target}" for change in done]


def living(fleet: SimFleet) -> dict[str, Instance]:
    with fleet.db.reading() as tx:
        return {instance.name: instance for instance in instances.everything(tx)}


def restored(fleet: SimFleet) -> str | None:
    with fleet.db.reading() as tx:
        return meta(tx, "restored")


def refused(fleet: SimFleet, action: Any) -> None:
    """With 5, nothing changed, and what to do."""
    outcome = fleet.run(action)
    assert (outcome.code, isinstance(outcome.error, Refused)) == (5, True), outcome.error
    assert "novactl audit --adopt" in outcome.error.hint


# --- noticing ---


@pytest.mark.parametrize("action", [start("web1"), stop("web1"), delete("web1")], ids=lambda a: a.kind)
def test_what_was_touched_is_refused(fleet: Telling, action: Any) -> None:
    old = fleet.backup()
    assert fleet.run(stop("web1")).code == 0
    fleet.restore(old)
    before = {name: (dict(host.domains), dict(host.directories)) for name, host in fleet.hosts.items()}
    refused(fleet, action)
    assert "kvm1" in str(restored(fleet))
    refused(fleet, boot("web9", host="kvm3"))  # nothing at all is decided by it any more
    refused(fleet, delete("web2"))
    assert {
        name: (dict(host.domains), dict(host.directories)) for name, host in fleet.hosts.items()
    } == before
    assert fleet.active() == []


def test_a_boot_on_a_touched_host_is_refused(fleet: Telling) -> None:
    old = fleet.backup()
    assert fleet.run(stop("web1")).code == 0
    fleet.restore(old)
    outcome = fleet.run(boot("web9", host="kvm1"))
    assert outcome.code != 0
    assert "the database is an older copy" in str(outcome.error)
    assert restored(fleet) is not None
    assert fleet.hosts["kvm1"].everything() == {living(fleet)["web1"].uuid}
    refused(fleet, boot("web9", host="kvm2"))


def test_the_audit_shows_it_and_changes_nothing(fleet: Telling) -> None:
    old = fleet.backup()
    fleet.run(stop("web1"))
    fleet.run(boot("web3", host="kvm3"))
    fleet.restore(old)
    found = look(fleet)
    assert [(one.finding, one.host, one.target) for one in found if one.severity == "error"] == [
        ("epoch-ahead", "kvm1", "web1"),
        ("mark-unknown", "kvm1", "kvm1"),
        ("mark-unknown", "kvm3", "kvm3"),
        ("unknown-domain", "kvm3", "web3"),
    ]
    assert restored(fleet) is None


# --- taking over ---


def settle(fleet: SimFleet) -> None:
    """After adopting everything is as it must be, and everything can be done."""
    assert look(fleet) == []
    assert always(fleet) == []
    assert settled(fleet) == []
    assert restored(fleet) is None
    for name, instance in living(fleet).items():
        action = stop(name) if instance.status == "ACTIVE" else start(name)
        assert fleet.run(action).code == 0
    assert settled(fleet) == []
    for name in living(fleet):
        assert fleet.run(delete(name)).code == 0
    assert settled(fleet) == []
    assert {host.name: host.everything() for host in fleet.hosts.values()} == {
        name: set() for name in fleet.hosts
    }
    assert look(fleet) == []


def test_what_was_done_since_is_taken_over(fleet: Telling) -> None:
    old = fleet.backup()
    for action in (stop("web1"), start("web2"), boot("web3", host="kvm3"), boot("web4")):
        assert fleet.run(action).code == 0
    now, amounts = living(fleet), _used(fleet)
    fleet.restore(old)
    said = adopt(fleet)
    assert said[:4] == ["changed web1", "changed web2", *said[2:4]]
    assert sorted(said[2:4]) == ["instance web3", "instance web4"]
    assert {line.partition(" ")[0] for line in said[4:]} == {"mark"}
    after = living(fleet)
    for name, instance in now.items():
        same = {"epoch": 0, "version": 0, "task_state": None}
        assert replace(after[name], **same) == replace(instance, **same), name
        assert after[name].epoch > instance.epoch
    assert _used(fleet) == amounts
    with fleet.db.reading() as tx:
        told = events(tx, after["web3"].uuid)
    assert [(row["action"], row["result"]) for row in told] == [("adopt", "done")]
    settle(fleet)


def _used(fleet: SimFleet) -> dict[str, dict[str, int]]:
    with fleet.db.reading() as tx:
        return {host.name: host.used() for host in hosts.everything(tx)}


def test_what_was_deleted_since_is_buried(fleet: Telling) -> None:
    """And its name and address are another's by now."""
    old = fleet.backup()
    for action in (delete("web1"), boot("web1", host="kvm3"), delete("web2")):
        assert fleet.run(action).code == 0
    now = living(fleet)
    fleet.restore(old)
    assert [line for line in adopt(fleet) if not line.startswith("mark")] == [
        "deleted web1",
        "deleted web2",
        "instance web1",
    ]
    assert {name: one.uuid for name, one in living(fleet).items()} == {"web1": now["web1"].uuid}
    assert living(fleet)["web1"].ports == now["web1"].ports
    settle(fleet)


# --- what is on no host ---


class DiesAfter:
    """Failpoints: the process dies after the record of this step."""

    def __init__(self, step: str) -> None:
        self.step = step

    def reach(self, point: str, record: Any) -> None:
        if (point, record.name) == ("after-record", self.step):
            raise Died(self.step)


def runs(fleet: SimFleet, name: str) -> list[str]:
    return [host.name for host in fleet.hosts.values() if living(fleet)[name].uuid in host.running()]


def test_one_that_came_back_since_is_not_started_again(fleet: Telling) -> None:
    assert fleet.run(offload("web1")).code == 0
    old = fleet.backup()
    assert fleet.run(unshelve("web1", host="kvm3")).code == 0
    fleet.restore(old)
    for host in ("kvm2", None):
        outcome = fleet.run(unshelve("web1", host=host))
        assert outcome.code == 5 and outcome.error is not None
        assert "its record is not in this store" in outcome.error.message
        assert runs(fleet, "web1") == ["kvm3"]
    assert "changed web1" in adopt(fleet)
    assert (living(fleet)["web1"].host, living(fleet)["web1"].status) == ("kvm3", "ACTIVE")
    settle(fleet)


@pytest.mark.parametrize("verb", [unshelve("web1", host="kvm2"), delete("web1")], ids=lambda one: one.kind)
def test_one_that_was_coming_back_is_not_started_again(fleet: Telling, verb: Any) -> None:
    """By a process that was killed before its record went out of the store."""
    assert fleet.run(offload("web1")).code == 0
    old = fleet.backup()
    with pytest.raises(Died), fleet.process() as process:
        process.operator.failpoints = DiesAfter("record-unshelved")
        process.operator.run([unshelve("web1", host="kvm3")])
    assert runs(fleet, "web1") == ["kvm3"]
    fleet.restore(old)
    refused(fleet, verb)
    assert "the store has seen epoch" in str(restored(fleet))
    assert runs(fleet, "web1") == ["kvm3"]
    assert "changed web1" in adopt(fleet)
    assert living(fleet)["web1"].host == "kvm3"


def test_what_was_put_away_since_is_on_no_host(fleet: Telling) -> None:
    """With the image that it has now; it comes back."""
    assert fleet.run(offload("web2")).code == 0
    old = fleet.backup()
    assert fleet.run(unshelve("web2", host="kvm3")).code == 0
    for action in (offload("web1"), offload("web2"), boot("web3"), offload("web3")):
        assert fleet.run(action).code == 0
    now = living(fleet)
    fleet.restore(old)
    said = adopt(fleet)
    assert {"changed web1", "changed web2", "instance web3"} <= set(said)
    for name in ("web1", "web2", "web3"):
        one = living(fleet)[name]
        assert (one.status, one.host, one.shelved_image) == (
            "SHELVED_OFFLOADED",
            None,
            now[name].shelved_image,
        )
        assert one.epoch > now[name].epoch
    assert look(fleet) == [] and settled(fleet) == []
    for name in ("web1", "web2", "web3"):
        assert fleet.run(unshelve(name)).code == 0
    settle(fleet)


def test_what_was_leaving_its_host_is_not_lost(fleet: Telling) -> None:
    """Wherever the process died that put it away."""
    uuid, met = living(fleet)["web1"].uuid, set()
    for n in range(60):
        twin = fleet.clone(Path(tempfile.mkdtemp(dir=fleet.directory)))
        old = twin.place.twin(twin.db, Path(tempfile.mkdtemp(dir=fleet.directory)))
        twin.faults.append(nth("*", n, "dies-after"))
        with contextlib.suppress(Died):
            twin.run(offload("web1"))
            break
        twin.faults.clear()
        twin.place.release(twin.db)
        twin.db = old
        adopt(twin)
        one = {one.uuid: one for one in living(twin).values()}[uuid]
        met.add(one.status)
        back = start("web1") if one.status in ("ACTIVE", "SHUTOFF") else unshelve("web1")
        if one.status == "SHELVED":
            back = offload("web1")
        assert twin.run(back).code == 0, (n, one.status)
        if one.status == "SHELVED":
            assert twin.run(unshelve("web1")).code == 0, n
        assert living(twin)["web1"].status == "ACTIVE", n
        assert len(runs(twin, "web1")) == 1, n
        twin.close()
    assert {"SHELVED", "SHELVED_OFFLOADED"} <= met


def test_backups_made_since_are_listed_again(fleet: Telling) -> None:
    assert fleet.run(back_up("first", "web1")).code == 0
    old = fleet.backup()
    assert fleet.run(back_up("second", "web1")).code == 0
    now = fleet.db.read(backups.everything)
    fleet.restore(old)
    assert "backup second" in adopt(fleet)
    assert fleet.db.read(backups.everything) == now
    assert settled(fleet) == []


def test_the_catalogue_and_its_hosts_are_taken_over(fleet: Telling) -> None:
    old = fleet.backup()
    with fleet.db.writing() as tx:
        hosts.add(tx, records.host("kvm4"))
        catalogue.add_flavor(tx, records.flavor("big", vcpus=2))
        catalogue.add_network(tx, records.network("dmz", cidr="198.51.100.0/24", gateway=None, dns=()))
    fleet.hosts["kvm4"] = SimHost("kvm4", FLEET)
    from novactl.objects.request import NetworkRequest

    dmz = (NetworkRequest(network="dmz"),)
    assert fleet.run(boot("web4", host="kvm4", flavor="big", networks=dmz)).code == 0
    assert fleet.run(stop("web1")).code == 0
    fleet.restore(old)
    assert "copy-ahead" in {one.finding for one in look(fleet)}
    said = adopt(fleet)
    assert [line for line in said if line.startswith(("catalogue", "instance"))] == [
        "catalogue host kvm4",
        "catalogue flavor big",
        "catalogue network dmz",
        "instance web4",
    ]
    assert fleet.hosts["kvm1"].copy[0] < _catalogue(fleet)
    settle(fleet)


def _catalogue(fleet: SimFleet) -> int:
    with fleet.db.reading() as tx:
        return int(meta(tx, "catalogue") or 0)


def test_what_is_adopted_counts_in_its_project_and_is_in_its_group(fleet: Telling) -> None:
    """A group that was made since comes back; a limit that was set since is no reason to leave any out."""
    lab = Project(name="lab", limits={"instances": 5}, created_at=records.WHEN)
    fleet.db.write(lambda tx: projects.create(tx, lab))
    old = fleet.backup()
    with fleet.db.writing() as tx:
        for number, project in ((60, "lab"), (61, "shop")):
            made = {"id": records.uuid(number), "name": "web", "project": project}
            groups.create(tx, ServerGroup(policy=GroupPolicy.AFFINITY, **made))
        projects.create(tx, Project(name="shop", limits={"instances": 9}, created_at=records.WHEN))
    for name, project, number in (("web8", "lab", 60), ("web9", "shop", 61)):
        assert fleet.run(boot(name, host="kvm1", project=project)).code == 0
        with fleet.db.writing() as tx:
            uuid = instances.find(tx, name, project).uuid
            instances.update(tx, uuid, group_id=records.uuid(number))
            instances.note_copy(tx, uuid, behind=True)
        assert fleet.run(lock(uuid)).code == 0
    with fleet.db.writing() as tx:
        groups.delete(tx, groups.find(tx, "web", "shop"))  # and its member was not told yet
        projects.update(tx, Project(name="shop", limits={"instances": 0}))
    fleet.run(stop("web1"))  # the hosts know
    fleet.restore(old)
    done = adopt(fleet)
    assert {"catalogue group web", "catalogue project shop", "instance web8", "instance web9"} <= {*done}
    lost = [words for words in fleet.told if words.startswith("web9: ")]
    assert lost[0].endswith(f"; its group {records.uuid(61)} is not in the database: it has none")
    with fleet.db.reading() as tx:
        assert {one.name: one.instances_used for one in projects.everything(tx)} == {"lab": 1, "shop": 1}
        assert projects.find(tx, "shop").limits == {"instances": 0}
    found = {name: one.group_id for name, one in living(fleet).items()}
    assert (found["web8"], found["web9"]) == (records.uuid(60), None)


def test_every_host_must_answer(fleet: Telling) -> None:
    old = fleet.backup()
    fleet.run(stop("web1"))
    fleet.restore(old)
    fleet.hosts["kvm3"].up = False
    with fleet.process() as process:
        for act in (adopting.rehearse, adopting.adopt):
            with pytest.raises(HostUnreachable, match=r"^not every host answers: kvm3 ") as caught:
                act(process.operator)
            assert caught.value.code == 7
    fleet.hosts["kvm3"].up = True
    adopt(fleet)
    settle(fleet)


def test_nothing_is_adopted_while_somebody_works(fleet: Telling) -> None:
    caught = []

    class Asks:
        def reach(self, point: str, record: Any) -> None:
            with fleet.process("b") as process:
                with pytest.raises(Busy, match="is under way") as busy:
                    adopting.adopt(process.operator)
                caught.append(busy.value.code)

    assert fleet.run(stop("web1"), failpoints=Asks()).code == 0
    assert set(caught) == {6}
    assert look(fleet) == []


def test_nothing_to_adopt(fleet: Telling) -> None:
    before = living(fleet)
    assert adopt(fleet) == []
    assert living(fleet) == before
    settle(fleet)


def test_twice_is_once(fleet: Telling) -> None:
    old = fleet.backup()
    fleet.run(stop("web1"))
    fleet.run(boot("web3"))
    fleet.restore(old)
    assert len(adopt(fleet)) > 2
    assert adopt(fleet) == []
    settle(fleet)


def test_a_zombie_of_the_forgotten_future_is_fenced(fleet: Telling) -> None:
    """A process that had begun before the restore cannot act on the hosts by its old epoch any more."""
    old = fleet.backup()
    fleet.run(stop("web1"))
    uuid, epoch = living(fleet)["web1"].uuid, living(fleet)["web1"].epoch
    fleet.restore(old)
    adopt(fleet)
    assert fleet.run(start("web1")).code == 0
    with fleet.process() as process, pytest.raises(NovactlError, match="newer than ours"):
        process.world.hypervisor("kvm1").destroy(uuid, epoch)


@pytest.mark.parametrize("again", [stop, start], ids=["stop", "start"])
def test_an_operation_that_the_hosts_have_moved_on_from_is_abandoned(fleet: Telling, again: Any) -> None:
    with pytest.raises(Died):
        fleet.run(stop("web1"), failpoints=DieAt("after-intent", 2))
    (op_id,) = fleet.active()
    old = fleet.backup()
    fleet.take_over(op_id, back=False)
    fleet.run(start("web1"))
    fleet.run(again("web1"))
    fleet.restore(old)
    assert adopt(fleet)[:2] == ["operation-abandoned web1", "changed web1"]
    assert fleet.active() == []
    with pytest.raises(Refused, match=rf"^{op_id}: is abandoned already$"):
        fleet.take_over(op_id, back=False)
    settle(fleet)


def test_an_operation_that_still_stands_is_kept(fleet: Telling) -> None:
    with pytest.raises(Died):
        fleet.run(stop("web1"), failpoints=DieAt("after-intent", 2))
    (op_id,) = fleet.active()
    old = fleet.backup()
    fleet.run(start("web2"))
    fleet.restore(old)
    adopt(fleet)
    assert fleet.active() == [op_id]
    fleet.take_over(op_id, back=False)
    settle(fleet)


def test_a_boot_that_went_to_another_host(fleet: Telling) -> None:
    """The copy was made while it was at the first: it does not run twice."""
    with pytest.raises(Died):
        fleet.run(boot("web5"), failpoints=DieAt("after-intent", 5))
    (op_id,) = fleet.active()
    old = fleet.backup()
    first = living(fleet)["web5"].host
    fleet.faults.append(Fault("define", "fails", first))
    fleet.take_over(op_id, back=False)
    second = living(fleet)["web5"].host
    assert second != first
    fleet.restore(old)
    assert "operation-abandoned web5" in adopt(fleet)
    assert living(fleet)["web5"].host == second
    settle(fleet)


# --- what cannot be ---


def test_what_makes_no_sense_is_named_and_left(fleet: Telling) -> None:
    old = fleet.backup()
    for name in ("web3", "web4", "web5"):
        assert fleet.run(boot(name, host="kvm3")).code == 0
    now = living(fleet)
    host = fleet.hosts["kvm3"]
    spoil = {
        "web3": ('"name": "web3"', '"name": "../../etc"'),
        "web4": ('"network": "lan"', '"network": "gone"'),
        "web5": ('"vcpus": 1', '"vcpus": "many"'),
    }
    for name, (text, other) in spoil.items():
        domain = host.domains[now[name].uuid]
        assert text in domain.xml.replace("&quot;", '"'), domain.xml
        domain.xml = domain.xml.replace(text, other).replace(text.replace('"', "&quot;"), other)
    fleet.restore(old)
    with fleet.process() as process:
        done = adopting.adopt(process.operator)
    left = {change.message for change in done if change.change == "not-adopted"}
    assert len(left) == 3
    assert any("its network 'gone' is not in the database" in text for text in left)
    assert any("makes no sense: instance name '../../etc' is not acceptable" in text for text in left)
    assert set(living(fleet)) == {"web1", "web2"}
    assert {one.finding for one in look(fleet)} == {"unknown-domain"}
    assert len(host.running()) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "kvm4\n    ProxyCommand touch /canary"),
        ("user", "-oProxyCommand=x"),
        ("host_keys", '["ssh-ed25519 AAAA\\nevil ssh-rsa B"]'),
        ("instances_path", "/var/$(x)"),
        ("name", "../kvm4"),
        ("dedicated_cpus", "0-99999"),
        ("dedicated_vcpus", 3),
        ("facts", '{"topology": [{"id": 0}]}'),
        ('name" FROM meta; --', "x"),
        ("arch", "x86 64"),
        ("huge_memory_mib", -1),
        ("dedicated_cpus", "2-$(x)"),
        ("failed_builds", "7"),
        ("vcpus_used", 1),
    ],
)
def test_a_copy_that_a_host_made_up_is_refused(fleet: Telling, field: str, value: Any) -> None:
    with fleet.db.writing() as tx:
        hosts.add(tx, records.host("kvm4"))
    fleet.hosts["kvm4"] = SimHost("kvm4", FLEET)
    fleet.run(stop("web1"))
    version, content = fleet.hosts["kvm1"].copy
    copy = json.loads(content)
    (row,) = [row for row in copy["tables"]["hosts"] if row["name"] == "kvm4"]
    row[field] = value
    with fleet.db.writing() as tx:
        hosts.remove(tx, "kvm4")
    fleet.hosts["kvm1"].copy = (version + 50, json.dumps(copy).encode())
    with fleet.process() as process:
        done = adopting.adopt(process.operator)
    assert [change.change for change in done] == ["not-adopted"]
    assert "the catalogue copy makes no sense: a row of hosts: " in done[0].message
    with fleet.db.reading() as tx:
        assert [host.name for host in hosts.everything(tx)] == ["kvm1", "kvm2", "kvm3"]


GROUP = {"id": records.uuid(60), "project": "default", "policy": "affinity", "max_per_host": 1, "version": 0}
PROJECT = {"description": "", "limits": "{}", "created_at": ""} | dict.fromkeys(
    ("instances_used", "cores_used", "memory_mib_used"), 0
)


@pytest.mark.parametrize(
    ("table", "row", "says"),
    [
        ("settings", {"name": "colour", "value": "7"}, "setting 'colour' is not known"),
        ("settings", {"name": "policies", "value": '[{"name": "x", "do": "wipe"}]'}, "do 'wipe' is not"),
        ("settings", {"name": "weighers", "value": "{"}, "Expecting property name"),
        ("aggregates", {"name": "../x", "hosts": "[]", "metadata": "{}"}, "aggregate name '../x'"),
        ("aggregates", {"name": "x", "hosts": '["-o"]', "metadata": "{}"}, "host name '-o' is not"),
        ("aggregates", {"name": "x", "hosts": "{}", "metadata": "{}"}, "its hosts are no list"),
        ("aggregates", {"name": "x", "hosts": "[]", "metadata": '{"a": 1}'}, "its metadata is no text"),
        ("aggregates", {"name": "x", "hosts": "[]", "metadata": "7"}, "no attribute 'values'"),
        ("settings", {"name": "scheduler", "value": '{"host_subset_size": 0}'}, "is not a whole number of 1"),
        ("settings", {"name": "scheduler", "value": '{"colour": 1}'}, "'colour' is not one of host_subset_"),
        ("settings", {"name": "scheduler", "value": '{"host_subset_size": true}'}, "True is not a whole"),
        ("server_groups", {"name": "../x", **GROUP}, "group name '../x'"),
        ("server_groups", {**GROUP, "name": "x", "id": "x"}, "uuid 'x' is not"),
        ("server_groups", {**GROUP, "name": "x", "project": "a/b"}, "project 'a/b' is not"),
        ("server_groups", {**GROUP, "name": "x", "policy": "wipe"}, "'wipe' is not a valid GroupPolicy"),
        ("server_groups", {**GROUP, "name": "x", "max_per_host": 0}, "max_per_host 0 is not"),
        ("server_groups", {**GROUP, "name": "x", "max_per_host": "1"}, "its numbers are none"),
        ("server_groups", {**GROUP, "name": "x", "version": 9}, "its numbers are none"),
        ("projects", {**PROJECT, "name": "../x"}, "project name '../x'"),
        ("projects", {**PROJECT, "name": "x", "limits": "[]"}, "its limits are no mapping"),
        ("projects", {**PROJECT, "name": "x", "limits": '{"cores": "9"}'}, "limit '9' is not a number"),
        ("projects", {**PROJECT, "name": "x", "limits": '{"colour": 9}'}, "resource 'colour' does not"),
        ("projects", {**PROJECT, "name": "x", "cores_used": 9}, "it counts what is used"),
        ("projects", {**PROJECT, "name": "x", "description": "a\nb"}, "has control characters"),
        ("projects", {"name": "x"}, "its columns are not the table's"),
    ],
)
def test_settings_and_aggregates_that_a_host_made_up(
    fleet: Telling, table: str, row: dict[str, Any], says: str
) -> None:
    fleet.run(stop("web1"))
    version, content = fleet.hosts["kvm1"].copy
    copy = json.loads(content)
    copy["tables"][table] = [row if table == "projects" else {"id": "x", **row}]
    fleet.hosts["kvm1"].copy = (version + 50, json.dumps(copy).encode())
    with fleet.process() as process:
        done = adopting.adopt(process.operator)
    assert [change.change for change in done] == ["not-adopted"]
    assert f"the catalogue copy makes no sense: a row of {table}: " in done[0].message
    assert says in done[0].message
    with fleet.db.reading() as tx:
        made = [tx.all(f"SELECT * FROM {name}") for name in ("settings", "aggregates", "projects")]
        assert (made, tx.all("SELECT * FROM server_groups")) == ([[], [], []], [])


# --- any future ---


class Future:
    """Random commands, then an older copy."""

    def __init__(self, fleet: Telling, seed: int) -> None:
        self.fleet = fleet
        self.chance = random.Random(seed)
        self.history: list[str] = []

    def turn(self, *, mortal: bool = False) -> None:
        name = f"web{self.chance.randint(1, 5)}"
        verb = self.chance.choice([boot, boot, stop, start, delete])
        dies = mortal and self.chance.random() < 0.2
        at = (self.chance.choice(["after-intent", "after-act", "after-record"]), self.chance.randint(1, 9))
        self.history.append(f"{verb.__name__} {name}{f' dies at {at}' if dies else ''}")
        with contextlib.suppress(Died):
            self.fleet.run(verb(name), failpoints=DieAt(*at) if dies else None)
        if not mortal:
            assert self.fleet.active() == []

    def end(self) -> None:
        for op_id in self.fleet.active():
            back = self.chance.random() < 0.5
            self.history.append(f"{'rollback' if back else 'resume'} {op_id}")
            with contextlib.suppress(NovactlError):
                self.fleet.take_over(op_id, back=back)

    def heal(self) -> None:
        """What a future that died half way leaves: an audit heals it, or names the instance to delete."""
        for op_id in self.fleet.active():
            self.fleet.take_over(op_id, back=False)
        with self.fleet.process() as process:
            for group in heals.groups(look(self.fleet)):
                assert {outcome.code for outcome in process.operator.run(group)} <= {0}
        for one in look(self.fleet):
            self.history.append(f"{one.finding}: {one.message}")
            assert one.finding in (
                "building-without-operation",
                "missing-domain",
                "files-missing",
                "directory-without-instance",
                "stray-directory",
            ), one
            if one.uuid in {instance.uuid for instance in living(self.fleet).values()}:
                assert self.fleet.run(delete(one.target)).code in (0, 4)
        for host in self.fleet.hosts.values():  # of instances that nobody knows: a person looks at them
            known = {instance.uuid for instance in living(self.fleet).values()}
            host.directories = {uuid: found for uuid, found in host.directories.items() if uuid in known}
            host.strays.clear()


@pytest.mark.parametrize("mortal", [False, True], ids=["calm", "with-deaths"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_future(quick: Path, seed: int, mortal: bool) -> None:
    fleet = Telling(quick, seed=seed)
    future = Future(fleet, seed)
    try:
        for _ in range(5):
            future.turn(mortal=mortal)
        old = fleet.backup()
        for _ in range(future.chance.randint(1, 10)):
            future.turn(mortal=mortal)
            if mortal and future.chance.random() < 0.5:
                future.end()
        now = living(fleet)
        fleet.restore(old)
        future.history += ["restored", *adopt(fleet)]
        if mortal:
            future.heal()
        else:
            assert {name: one.uuid for name, one in living(fleet).items()} == {
                name: one.uuid for name, one in now.items()
            }
        settle(fleet)
    except BaseException:
        print("\n".join([*future.history, *fleet.told]))
        raise
    finally:
        fleet.close()
