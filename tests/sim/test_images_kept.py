"""What instances are made of while others work with it: chains, sums, claims, what is left in the store."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from novactl.actions import backup_files, share, store_files
from novactl.actions.push import Push, chain
from novactl.actions.share import Share
from novactl.actions.steps import distribution
from novactl.actions.steps.files import SEALED
from novactl.actions.steps.images import note_raw_sum
from novactl.db import (
    adopted,
    adopted_backups,
    adopted_catalogue,
    backups,
    catalogue,
    hosts,
    instances,
    second_copy,
    settings,
)
from novactl.engine.operation import StepState
from novactl.errors import NovactlError, OperationFailed, OperationIncomplete, Refused
from novactl.objects.image import GIB
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState
from novactl.virt.domain import record
from tests.sim.actions import (
    SHARED,
    Restoring,
    another_operator,
    back_up,
    boot,
    delete,
    fill,
    forget_notes,
    migrate,
    offload,
    push,
    rebuild,
    rescue,
    share_image,
    share_images,
    shelve,
    snapshot,
    stop,
    unshelve,
    with_key,
)
from tests.sim.stage import nth
from tests.sim.test_evacuate import deaths
from tests.support import fleet as records
from tests.support.sim import Fault, SimFleet, SimHost, settled
from tests.support.toys import Died
from tests.unit.hostile_images import qcow2


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick)
    yield made
    made.close()


def run(fleet: SimFleet, *verbs: Any) -> None:
    for verb in verbs:
        outcome = fleet.run(verb)
        assert outcome.code == 0, (verb, outcome.error)


def only(fleet: SimFleet) -> Instance:
    (one,) = fleet.db.read(instances.everything)
    return one


class Meanwhile:
    """Failpoints: somebody else does something after the first record of this step."""

    def __init__(self, step: str, does: Callable[[], Any]) -> None:
        self.step, self.does = step, does

    def reach(self, point: str, record: Any) -> None:
        if (point, record.name) == ("after-record", self.step) and self.does is not None:
            does, self.does = self.does, None  # type: ignore[assignment]
            does()


def forget(fleet: SimFleet, name: str) -> None:
    """`backup delete`."""
    with fleet.process("other") as process:
        backup_files.delete(process.world, "default", name)


def wrong(fleet: SimFleet) -> list[str]:
    """But for the note in the disks of a backup that was deleted, of which no host is told."""
    return [one for one in settled(fleet) if ": novactl-" not in one]


# --- backups ---


def test_the_one_that_it_is_a_difference_to_is_deleted_meanwhile(fleet: SimFleet) -> None:
    run(fleet, boot(), back_up("first"))
    meanwhile = Meanwhile("pull-file", lambda: forget(fleet, "first"))
    outcome = fleet.run(back_up("second"), failpoints=meanwhile)
    assert outcome.error is not None
    assert "the one that it is a difference to was deleted" in outcome.error.message
    assert fleet.db.read(backups.everything) == []
    assert wrong(fleet) == []
    run(fleet, back_up("third"))
    assert settled(fleet) == []


@pytest.mark.parametrize("verbs", [(), (stop(),)], ids=["running", "stopped"])
def test_a_backup_that_is_deleted_leaves_no_note_in_the_disks(fleet: SimFleet, verbs: Any) -> None:
    """But for the one of the other type."""
    run(fleet, boot(), back_up("first"), back_up("weekly", type="weekly"), *verbs)
    forget(fleet, "first")
    assert settled(fleet) != []
    run(fleet, forget_notes())
    assert settled(fleet) == []
    (kept,) = fleet.db.read(backups.everything)
    assert list(fleet.hosts[str(only(fleet).host)].domains[only(fleet).uuid].checkpoints) == [kept.checkpoint]
    run(fleet, forget_notes())  # there is nothing to do


def test_a_host_that_sends_a_larger_disk_than_it_said(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made of a backup is as large as its record says."""
    run(fleet, boot())
    monkeypatch.setattr("tests.support.sim_backups.content_of", lambda *_: qcow2(size=GIB, l1_size=512))
    outcome = fleet.run(back_up("first"))
    assert outcome.code == 1 and outcome.error is not None
    assert f"backup first: disk has {GIB} bytes, not 1048576" in outcome.error.message
    assert fleet.db.read(backups.everything) == [] and settled(fleet) == []


def test_a_backup_is_deleted_while_it_is_restored(fleet: SimFleet) -> None:
    """Its file is in the disk already: the one before has its place again."""
    run(fleet, boot(), back_up("first"), stop())
    files = fleet.hosts[str(only(fleet).host)].directories[only(fleet).uuid].files
    before = files["disk"]
    outcome = fleet.run(
        Restoring(here=True), failpoints=Meanwhile("swap-disk", lambda: forget(fleet, "first"))
    )
    assert outcome.error is not None and "its file was deleted by another command" in outcome.error.message
    assert files["disk"] == before
    assert wrong(fleet) == []


def _grown(fleet: SimFleet, gib: int) -> None:
    """The newest backup is of a disk of so many GiB."""
    with fleet.db.writing() as tx:
        (one,) = backups.everything(tx)
        files = {**one.files, "disk": {**one.files["disk"], "virtual_size_bytes": gib * GIB}}
        tx.run("UPDATE backups SET files = :files", files=json.dumps(files))


def _held(fleet: SimFleet) -> int:
    one = only(fleet)
    held = fleet.db.read(lambda tx: hosts.hold_of(tx, str(one.host), one.uuid))
    assert held is not None
    return held.disk_gib


def test_an_in_place_restore_claims_what_it_needs_more(fleet: SimFleet) -> None:
    """With a flavor that leaves the size of the disk to the image."""
    with fleet.db.writing() as tx:
        catalogue.add_flavor(tx, records.flavor("any", disk_gib=0))
    run(fleet, boot(flavor="any"), back_up("first"), stop())
    held = _held(fleet)
    _grown(fleet, 7)
    run(fleet, Restoring(here=True))
    assert _held(fleet) == 7 > held
    _grown(fleet, 1 << 20)
    outcome = fleet.run(Restoring(here=True))
    assert outcome.error is not None and "has no room for 1048576 GiB" in outcome.error.message
    assert _held(fleet) == 7


def test_a_record_lies_beside_each_backup(fleet: SimFleet) -> None:
    run(fleet, boot(), *(back_up(name, rotation=1) for name in ("first", "second")))
    (kept,) = fleet.db.read(backups.everything)
    assert list(fleet.store.records("backups")) == [kept.id]
    forget(fleet, "second")
    assert fleet.store.records("backups") == {}


@pytest.mark.parametrize("how", ["assembled", "refused", "taken"])
def test_a_difference_is_made_whole_or_nothing_is_left(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run(fleet, boot(flavor="disks"), back_up("first"), back_up("second"))
    before = {path.name for path in (fleet.directory / "images").iterdir()}
    made: list[Path] = []

    def assemble(parts: Any, path: Path, *_: Any) -> None:
        made.append(path)
        if how == "assembled" and len(made) == 2:
            raise NovactlError("no space left")
        path.write_bytes(b"no qcow2" if how == "refused" and len(made) == 2 else qcow2(size=len(made) << 20))

    monkeypatch.setattr(backup_files, "assemble", assemble)
    with fleet.process("restorer") as process:
        second = fleet.db.read(backups.everything)[-1]
        if how != "taken":
            with pytest.raises(NovactlError):
                backup_files.made_whole(process.world, fleet.store, second)
            assert {path.name for path in (fleet.directory / "images").iterdir()} == before
        else:
            whole = backup_files.made_whole(process.world, fleet.store, second)
            assert all(fleet.store.has(sum_) for sum_ in whole.sums) and whole.parent is None
            assert not whole.sums & second.sums and not any(map(fleet.store.has, second.sums))
        assert len(made) == 2 and not any(path.exists() for path in made)
        monkeypatch.setattr(fleet.store, "room", lambda: backup_files.MARGIN)
        first = fleet.db.read(backups.everything)[0]
        if how != "taken":
            with pytest.raises(Refused, match="MiB are free"):
                backup_files.made_whole(process.world, fleet.store, second)
        assert first.name == "first" and len(made) == 2


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_an_export_to_a_stick_without_links_or_modes(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    """Nothing that is there is written over, and nothing is left of what does not fit."""
    disk = qcow2() + bytes(4 << 20) + b"end"
    out, beside, other = (tmp_path / name for name in ("web1.qcow2", "web1.qcow2.json", "other.qcow2"))
    monkeypatch.setattr(backup_files, "assemble", lambda parts, path, *_: path.write_bytes(disk))
    run(fleet, boot(), back_up("first"))
    (first,) = fleet.db.read(backups.everything)

    def no_link(source: Path, target: Path) -> None:
        if target == other:
            other.write_bytes(b"theirs")
        raise OSError(number, os.strerror(number))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_mode(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(backup_files.os, "link", no_link)
    monkeypatch.setattr(Path, "chmod", no_mode)
    with fleet.process("exporter") as process:
        with monkeypatch.context() as patched, pytest.raises(NovactlError, match="No space left"):
            patched.setattr(backup_files, "write_at", full)
            backup_files.export(process.world, first, out, None)
        assert list(tmp_path.iterdir()) == []
        told = backup_files.export(process.world, first, out, None)
        with pytest.raises(NovactlError, match="File exists"):
            backup_files.export(process.world, first, other, None)
    assert out.read_bytes() == disk and json.loads(beside.read_text()) == told
    assert other.read_bytes() == b"theirs" and set(tmp_path.iterdir()) == {out, beside, other}


def test_a_name_is_of_one_backup(fleet: SimFleet) -> None:
    """While it is made, too; what rotation has taken out has none, though another is a difference to it."""
    run(fleet, boot(), boot(name="web2"))
    errors: list[Any] = []

    def another() -> None:
        errors.append(fleet.run(back_up("first", name="web2")).error)

    outcome = fleet.run(back_up("first"), failpoints=Meanwhile("pull-file", another))
    assert outcome.error is None and errors[0].code == 6 and "backup is held by backup" in errors[0].message
    run(fleet, *(back_up(name) for name in ("second", "third")))
    out = next(one for one in fleet.db.read(backups.everything) if one.rotated_at)
    run(fleet, back_up(out.name, name="web2"))
    assert fleet.db.read(lambda tx: backups.find(tx, out.name, "default")).instance_name == "web2"
    again = fleet.run(back_up(out.name)).error
    assert again is not None and again.code == 5 and "exists already" in again.message


def test_one_that_is_restored_has_its_user_data(fleet: SimFleet) -> None:
    run(fleet, boot(user_data=b"#!/bin/sh\n"), back_up("first"), delete(), Restoring(here=False))
    one = only(fleet)
    assert one.user_data is not None
    with fleet.db.reading() as tx:
        assert fleet.secrets.open(tx, one.user_data) == b"#!/bin/sh\n"
    assert b"#!/bin/sh" not in b"".join(fleet.store.records("backups").values())


def test_one_whose_user_data_nobody_can_open_is_restored_without(fleet: SimFleet) -> None:
    run(fleet, boot(user_data=b"#!/bin/sh\n"), back_up("first"), delete())
    (fleet.directory / "secret.key").unlink()
    run(fleet, Restoring(here=False))
    assert only(fleet).user_data is None
    assert any("has no user-data: the secret was sealed with another key" in one for one in fleet.told)


# --- pushes ---


def pushes(fleet: SimFleet, image: str) -> list[Push]:
    """`image push --to kvm2`."""
    with fleet.process("pushes") as process:
        return chain(process.world, image, ["kvm2"])


def test_a_push_brings_what_an_image_has_for_disk_local(fleet: SimFleet) -> None:
    run(fleet, boot(flavor="disks"), snapshot())
    run(fleet, *pushes(fleet, "taken"))
    sums = fleet.db.read(lambda tx: catalogue.image(tx, "taken")).sums
    assert len(sums) == 2 and sums <= set(fleet.hosts["kvm2"].bases)
    (again,) = pushes(fleet, "taken")
    assert fleet.run(again).result == "unchanged"


def test_what_is_not_made_yet_is_not_pushed(fleet: SimFleet) -> None:
    def add(tx: Any) -> None:
        direct = catalogue.image(tx, "direct")
        catalogue.add_image(tx, replace(direct, id="coming", name="coming", sha256="", status="saving"))

    fleet.db.write(add)
    with pytest.raises(Refused, match=r"^image coming is saving$"):
        pushes(fleet, "coming")
    outcome = fleet.run(push("coming"))
    assert outcome.code == 5 and "image coming is saving" in str(outcome.error)


# --- rebuild and rescue ---


def test_disk_local_that_stays_stands_on_what_it_stood_on(fleet: SimFleet) -> None:
    """Else its base file is nobody's, and goes."""
    run(fleet, boot(flavor="disks"), snapshot(), delete(), boot(flavor="disks", image="taken"))
    was = only(fleet)
    assert was.image is not None and set(was.image.disks) == {"disk.local"}
    run(fleet, rebuild(image="direct", preserve_ephemeral=True))
    now = only(fleet)
    assert now.image is not None
    assert (now.image.name, now.image.disks) == ("direct", was.image.disks)
    base = was.image.disks["disk.local"]["sha256"]
    assert base in fleet.db.read(catalogue.stored_files_in_use)
    files = fleet.hosts[str(now.host)].directories[now.uuid].files
    assert files["disk.local"][0] == base


def test_a_rebuild_gives_another_key_and_other_user_data(fleet: SimFleet) -> None:
    """What was before is erased; when it is undone, what is new."""
    with_key(fleet)
    run(fleet, boot(user_data=b"#old"))
    was = only(fleet)
    assert was.user_data is not None
    fleet.faults.append(Fault("start", "fails"))
    assert fleet.run(rebuild(key="me", user_data=b"#new")).code == 1
    assert (only(fleet).key_name, only(fleet).user_data) == (None, was.user_data)
    assert settled(fleet) == [] and secrets_of(fleet) == [was.user_data]
    run(fleet, rebuild(key="me", user_data=b"#new"))
    now = only(fleet)
    assert now.key_name == "me" and now.user_data not in (None, was.user_data)
    assert secrets_of(fleet) == [now.user_data]
    with fleet.db.reading() as tx:
        assert fleet.secrets.open(tx, str(now.user_data)) == b"#new"
    assert settled(fleet) == []
    run(fleet, rebuild())
    assert replace(only(fleet), version=0, epoch=0) == replace(now, version=0, epoch=0)
    assert fleet.run(rebuild(key="nobody")).code == 4
    assert fleet.run(rebuild(user_data=bytes(1 << 20))).code == 5


@pytest.mark.parametrize("user_data", [None, b"#old"])
def test_an_undone_rebuild_leaves_no_login(fleet: SimFleet, user_data: bytes | None) -> None:
    """The guest that is started again finds the drive that it had."""
    with_key(fleet)
    run(fleet, boot(user_data=user_data))
    host = fleet.hosts[str(only(fleet).host)]
    files, seen = host.directories[only(fleet).uuid].files, list[Any]()

    class Starts:
        def reach(self, point: str, record: Any) -> None:
            if (point, record.name) == ("before-undo", "power-off"):
                seen.append(kept())

    def kept() -> list[Any]:
        return [files[file] for file in ("disk.config", "disk.info", SEALED) if files.get(file)]

    was = kept()
    fleet.faults.append(Fault("define", "fails"))
    assert fleet.run(rebuild(key="me", user_data=b"#new"), failpoints=Starts()).code == 1
    assert kept() == was and seen == [was] and settled(fleet) == []


def test_who_cannot_open_the_user_data_undoes_a_rebuild_all_the_same(fleet: SimFleet) -> None:
    """With the key lost, it is refused while the guest still runs, or takes no key to be undone."""
    run(fleet, boot(user_data=b"#old"))
    was = only(fleet)
    host = fleet.hosts[str(was.host)]

    def disks() -> dict[str, Any]:
        there = host.directories[was.uuid].files.items()
        return {file: kept for file, kept in there if file not in ("libvirt.xml", "console.log")}

    had = disks()
    (fleet.directory / "secret.key").unlink()
    with fleet.process() as process:
        assert process.operator.show([rebuild()])[0]["steps"]
    assert not (fleet.directory / "secret.key").exists()
    outcome = fleet.run(rebuild())
    assert outcome.code == 5 and outcome.error is not None
    assert outcome.error.message.startswith("web1: its user-data cannot be opened: the secret was sealed")
    assert "--user-data" in outcome.error.hint and only(fleet) == was and disks() == had
    fleet.faults.append(Fault("define", "fails"))
    assert fleet.run(rebuild(user_data=b"#new")).code == 1
    assert disks() == had and settled(fleet) == []
    assert replace(only(fleet), version=0, epoch=0) == replace(was, version=0, epoch=0)
    assert host.domains[was.uuid].state is PowerState.RUNNING
    run(fleet, rebuild(user_data=b"#new"))
    assert settled(fleet) == [] and secrets_of(fleet) == [only(fleet).user_data]


def secrets_of(fleet: SimFleet) -> list[str]:
    with fleet.db.reading() as tx:
        return [f"secret:{row['id']}" for row in tx.all("SELECT id FROM secrets")]


def test_a_host_without_room_for_a_rescue_disk(fleet: SimFleet) -> None:
    run(fleet, boot())
    fleet.hosts[str(only(fleet).host)].free = 64 << 20
    outcome = fleet.run(rescue())
    assert outcome.code == 5 and outcome.error is not None
    assert "its rescue disk may take" in outcome.error.message
    assert only(fleet).status == "ACTIVE"


# --- the store ---


@pytest.mark.parametrize("point", ["after-act", "after-record"])
def test_an_undo_asks_no_host_what_to_remove(fleet: SimFleet, point: str) -> None:
    """It could name any file of the store that nothing uses yet."""
    run(fleet, boot())
    one, new = only(fleet), fleet.directory / "new"
    new.write_bytes(b"somebody adds it just now")
    sha256, _ = fleet.store.add_blob(new)

    class Dies:
        def reach(self, at: str, record: Any) -> None:
            if (at, record.name) == (point, "pull-file"):
                raise Died(at)

    with pytest.raises(Died):
        fleet.run(snapshot(), failpoints=Dies())
    files = fleet.hosts[str(one.host)].directories[one.uuid].files
    for file in [file for file in files if file.startswith("op-") and file.endswith(".disk")]:
        files[file] = new.read_bytes()
    fleet.take_over(fleet.active()[0], back=True)
    assert fleet.store.has(sha256)
    fleet.store.delete(sha256)
    assert settled(fleet) == []


@pytest.mark.parametrize(
    "verbs",
    [
        (unshelve(), delete()),
        (unshelve(), rebuild(image="direct")),
        (unshelve(), shelve(), delete()),
        (delete(),),
    ],
    ids=["delete", "rebuild", "shelve-again", "delete-offloaded"],
)
def test_what_was_kept_of_it_goes_with_its_last_use(fleet: SimFleet, verbs: Any) -> None:
    run(fleet, boot(), offload())
    image = only(fleet).shelved_image
    assert image is not None and fleet.store.has(image.sha256)
    run(fleet, *verbs)
    assert not fleet.store.has(image.sha256)
    assert settled(fleet) == []


def left(fleet: SimFleet, *, remove: bool = False) -> set[str]:
    """What an audit would name; gone afterwards, if that is wanted."""
    with fleet.process("auditor") as process:
        found = store_files.left(process.world)
        for _, removal in found.values() if remove else ():
            removal()
    return set(found)


def test_what_a_crash_left_in_the_store_is_found(fleet: SimFleet) -> None:
    """And what is of others, or of a database that knows more, is left alone."""
    run(fleet, boot(), offload())
    uuid, image = only(fleet).uuid, only(fleet).shelved_image
    assert image is not None and left(fleet) == set()
    content, record = fleet.store.path(image.sha256).read_bytes(), fleet.store.records()[uuid]
    run(fleet, delete())
    others = fleet.store.path(image.sha256) if fleet.store.has(image.sha256) else None
    assert others is None and left(fleet) == set()
    root = fleet.directory / "images"
    (root / image.sha256).write_bytes(content)
    fleet.store.put_record(uuid, record)
    fleet.store.put_record(uuid.replace(uuid[0], "f", 1), b"{}")
    newer = json.dumps({**json.loads(record), "epoch": 1000}).encode()
    assert left(fleet) == {f"images/{image.sha256}", f"images/shelved/{uuid}.json"}
    fleet.store.put_record(uuid, newer)
    assert left(fleet, remove=True) == {f"images/{image.sha256}"}
    assert not fleet.store.has(image.sha256) and left(fleet) == set()


def test_what_has_become_needed_is_not_told_as_removed(fleet: SimFleet) -> None:
    """Of where operators share images; one that does not answer is told."""
    share_images(fleet)
    fill(fleet)
    with fleet.process("pruner") as process, pytest.MonkeyPatch.context() as monkeypatch:
        seen: list[set[str]] = [set()]  # none was needed when it was looked at
        real = catalogue.stored_files_in_use
        monkeypatch.setattr(catalogue, "stored_files_in_use", lambda tx: seen.pop() if seen else real(tx))
        (pruned,) = share.prune(process.operator, 0, remove=True)
        assert pruned.removed and pruned.files == ("ab" * 32,)
        fleet.hosts["kvm3"].up = False
        (pruned,) = share.prune(process.operator, 0, remove=True)
        assert pruned.error is not None and not pruned.removed


def test_a_record_of_a_backup_whose_files_are_gone_is_found(fleet: SimFleet) -> None:
    run(fleet, boot(), back_up("first"))
    (one,) = fleet.db.read(backups.everything)
    kept = fleet.store.records("backups")[one.id]
    forget(fleet, "first")
    fleet.store.put_record(one.id, kept, "backups")
    assert left(fleet, remove=True) == {f"images/backups/{one.id}.json"}
    assert fleet.store.records("backups") == {} and left(fleet) == set()


@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
def test_who_gave_a_base_file_is_removed_meanwhile(fleet: SimFleet, back: bool) -> None:
    """Neither its key nor the file is missed: what was begun ends."""
    assert fleet.run(push(before=())).code == 0
    another_operator(fleet)
    fleet.faults.insert(0, nth("trust_allow", 0, "dies"))
    with contextlib.suppress(Died):
        fleet.run(boot(host="kvm1"))
    (op_id,) = fleet.active()
    with fleet.db.writing() as tx:
        tx.run("DELETE FROM hosts WHERE name = 'kvm2'")
    fleet.hosts["kvm2"].up = False
    with contextlib.suppress(OperationFailed):
        fleet.take_over(op_id, back=back)
    assert fleet.active() == []
    with fleet.db.reading() as tx:
        assert instances.everything(tx) == []  # nobody else has the file


def pack(fleet: SimFleet) -> str:
    """An image that hosts convert; its file."""
    path = fleet.directory / "packed"
    path.write_bytes(b"packed")
    sha256, size = fleet.store.add_blob(path)
    packed = records.image("packed", sha256=sha256, disk_format="qcow2", size_bytes=size)
    with fleet.db.writing() as tx:
        catalogue.add_image(tx, packed)
    return sha256


def test_a_base_file_of_a_host_is_what_was_first_made_of_the_source(fleet: SimFleet) -> None:
    """Else that host is not asked again, and nothing of it is kept."""
    sha256 = pack(fleet)
    run(fleet, boot("a", image="packed", host="kvm1"))
    first = fleet.hosts["kvm1"].sums[sha256]
    assert fleet.db.read(lambda tx: catalogue.image(tx, "packed")).raw_sums == {sha256: first}
    _, copy = fleet.db.read(second_copy.export)
    with fleet.db.writing() as tx:  # a database that is made anew of what hosts remember
        tx.run("DELETE FROM images")
        adopted_catalogue.restore_catalogue(tx, second_copy.parse(copy))
    another_operator(fleet)
    fleet.hosts["kvm1"].sums[sha256] = "ab" * 32
    outcome = fleet.run(boot("b", image="packed", host="kvm2"))
    assert outcome.code == 1
    assert any("made of it there is not what was first made of it" in one for one in fleet.told)
    assert sha256 not in fleet.hosts["kvm2"].bases and settled(fleet) == []
    fleet.hosts["kvm1"].sums[sha256] = first
    run(fleet, boot("b", image="packed", host="kvm2"))


def test_a_giver_that_is_refused_is_not_asked_again(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is to get the file by the same push: it drips, and would for ever."""
    monkeypatch.setattr(
        SimHost, "_pull", lambda *_: (76, "the other host: it sends less than 2 MiB in 120 s")
    )
    monkeypatch.setattr(distribution, "_still_gets_it", lambda ctx, source: True)
    run(fleet, push())
    told = [one for one in fleet.told if "does not come from kvm1" in one]
    assert len(told) == 1 and "it sends less than 2 MiB in 120 s" in told[0]


def test_what_another_host_makes_of_the_source_later_is_not_what_counts(fleet: SimFleet) -> None:
    sha256 = pack(fleet)
    run(fleet, boot("a", image="packed", host="kvm1"))
    known = fleet.db.read(lambda tx: catalogue.image(tx, "packed"))
    with fleet.db.writing() as tx:
        catalogue.note_raw_sum(tx, sha256, "ab" * 32)
        catalogue.add_image(tx, replace(known, id="id-again", name="again", raw_sums={}))
        assert [one.raw_sums for one in catalogue.images(tx) if one.sha256 == sha256] == [known.raw_sums] * 2


@pytest.mark.parametrize("kind", ["raw", "file"])
def test_nobody_has_a_say_of_what_is_not_converted(fleet: SimFleet, kind: str) -> None:
    sha256 = pack(fleet)
    ctx = SimpleNamespace(world=SimpleNamespace(db=fleet.db))
    note_raw_sum(ctx, sha256, kind, f"sparse:{'ab' * 32}\n")
    assert fleet.db.read(lambda tx: catalogue.image(tx, "packed")).raw_sums == {}
    note_raw_sum(ctx, sha256, "qcow2", f"sparse:{'ab' * 32}\n")
    assert fleet.db.read(lambda tx: catalogue.image(tx, "packed")).raw_sums == {sha256: "ab" * 32}


def test_a_host_gives_known_bytes_no_other_format(fleet: SimFleet) -> None:
    """By the record of a domain: others would read the file as what that says."""
    pack(fleet)
    known = fleet.db.read(lambda tx: catalogue.image(tx, "packed"))
    lied = replace(known, disk_format="raw")
    for image, believed in ((known, True), (lied, False)):
        told = record(records.instance(7, image=image, rescue_image=image))
        with fleet.db.reading() as tx:
            columns = adopted.told(tx, told, PowerState.RUNNING, False)
        assert bool(columns.get("image")) is bool(columns["rescue_image"]) is believed
    for told in (record(records.instance(7, image=lied)), record(records.instance(7, rescue_image=lied))):
        with fleet.db.writing() as tx, pytest.raises(Refused, match="the very same bytes as qcow2, not raw"):
            adopted.restore_instance(tx, told, host="kvm1", power=PowerState.RUNNING, epoch=1)


def test_one_that_was_never_made_here_is_as_that_host_says(fleet: SimFleet) -> None:
    sha256 = pack(fleet)
    fleet.hosts["kvm1"].bases[sha256], fleet.hosts["kvm1"].sums[sha256] = 1 << 20, "ab" * 32
    another_operator(fleet)
    run(fleet, boot("a", image="packed", host="kvm2"))
    assert fleet.db.read(lambda tx: catalogue.image(tx, "packed")).raw_sums == {}


def test_the_same_bytes_are_not_two_formats(fleet: SimFleet) -> None:
    """As a guest can make them: its raw disk is a qcow2 file to others, and hosts have one file of both."""
    sha256 = pack(fleet)
    known = fleet.db.read(lambda tx: catalogue.image(tx, "packed"))
    as_raw = replace(known, id="id-raw", name="raw", disk_format="raw")
    said = r"^image raw: %s packed has the very same bytes as qcow2, not raw$"
    with fleet.db.writing() as tx, pytest.raises(Refused, match=said % "image"):
        catalogue.add_image(tx, as_raw)
    with fleet.db.writing() as tx, pytest.raises(Refused, match=r"^image direct: image packed has"):
        catalogue.refuse_other_format(
            tx, "image direct", replace(known, kernel_sha256=sha256, sha256="").base_formats
        )
    run(fleet, boot("packed", image="packed", host="kvm1"))
    with fleet.db.writing() as tx:
        catalogue.remove_image(tx, known.id)
    with fleet.db.writing() as tx, pytest.raises(Refused, match=said % "instance"):
        catalogue.add_image(tx, as_raw)
    run(fleet, delete("packed"))
    fleet.store.add_blob(fleet.directory / "packed")
    with fleet.db.writing() as tx:
        catalogue.add_image(tx, as_raw)
    outcome = fleet.run(boot("b", image="raw", host="kvm1"))
    assert outcome.code == 1 and outcome.error is not None
    assert "made of them as qcow2, not raw" in outcome.error.message
    run(fleet, boot("b", image="raw", host="kvm2"))


def test_a_snapshot_that_is_another_format_of_an_image_leaves_nothing(fleet: SimFleet) -> None:
    run(fleet, boot())
    outcome = fleet.run(snapshot(), failpoints=Meanwhile("pull-file", lambda: as_qcow2(fleet)))
    assert outcome.code == 1 and outcome.error is not None
    assert "image other has the very same bytes as qcow2, not raw" in outcome.error.message
    assert [one.name for one in fleet.db.read(catalogue.images) if one.name == "taken"] == []
    assert settled(fleet) == []


def as_qcow2(fleet: SimFleet) -> None:
    """What is in the store last is an image that is called qcow2."""
    pulled = "SELECT result FROM steps WHERE result LIKE '%sha256%'"
    (newest,) = (json.loads(row["result"]) for row in fleet.db.read(lambda tx: tx.all(pulled)))
    with fleet.db.writing() as tx:
        catalogue.add_image(tx, records.image("other", sha256=newest["sha256"], disk_format="qcow2"))


def test_what_a_source_may_send_is_what_the_record_says(fleet: SimFleet) -> None:
    """Whatever it says that its files have."""
    run(fleet, boot(flavor="disks"))
    run(fleet, migrate())
    rows = fleet.db.read(lambda tx: tx.all("SELECT step FROM steps WHERE step LIKE '%open-trust%'"))
    (opened,) = (json.loads(row["step"])["fields"] for row in rows)
    gib = GIB + GIB // 16 + (64 << 20)
    assert opened["receives"][5:] == [f"disk={gib}", f"disk.local={gib}"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, fleet: SimFleet, does: Callable[[Any], Any]) -> list[Any]:
    """Another command does something between the first check of a share and its plan; what each check saw."""
    seen: list[Any] = []
    check = Share.check

    def checks(self: Share, world: Any) -> Any:
        seen.append(check(self, world))
        if len(seen) == 1:
            with fleet.db.writing() as tx:
                does(tx)
        return seen[-1]

    monkeypatch.setattr(Share, "check", checks)
    return seen


def test_an_image_is_another_when_it_is_shared(fleet: SimFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was deleted, and added again with other files: those are what is shared."""

    def another(tx: Any) -> None:
        was = catalogue.image(tx, "direct")
        catalogue.remove_image(tx, was.id)
        catalogue.add_image(tx, replace(was, id="id-new", kernel_sha256=None, initrd_sha256=None))

    share_images(fleet)
    seen = meanwhile(monkeypatch, fleet, another)
    run(fleet, share_image())
    assert [one.image.id for one in seen] == ["id-direct", "id-new"]
    image = fleet.db.read(lambda tx: catalogue.image(tx, "direct"))
    assert str(SHARED) in image.locations
    assert {file for _, file in fleet.hosts["kvm3"].stored} == image.sums


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        (lambda tx: settings.put(tx, "image_store", None), 5, "images are not shared in"),
        (lambda tx: catalogue.remove_image(tx, "id-direct"), 4, "image 'direct' does not exist"),
    ],
    ids=["nowhere", "deleted"],
)
def test_what_changed_before_it_is_shared(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch, does: Callable[[Any], Any], code: int, said: str
) -> None:
    share_images(fleet)
    meanwhile(monkeypatch, fleet, does)
    outcome = fleet.run(share_image())
    assert outcome.error is not None and said in outcome.error.message
    assert outcome.code == code
    assert fleet.hosts["kvm3"].stored == {} and fleet.active() == []


def test_a_file_that_lies_there_and_is_nobodys_is_brought_again(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who prunes may have taken it since check looked."""
    share_images(fleet)
    fill(fleet)
    meanwhile(monkeypatch, fleet, lambda tx: fleet.hosts["kvm3"].stored.clear())
    run(fleet, share_image("tiny"))
    image = fleet.db.read(lambda tx: catalogue.image(tx, "tiny"))
    assert {file for _, file in fleet.hosts["kvm3"].stored} == image.sums


def test_an_image_that_is_elsewhere_keeps_its_instance_on_its_host(fleet: SimFleet) -> None:
    """Whoever shelved it died, another operator goes on: what is on the host is given up for what he sees,
    or for what the first one has seen and written down."""
    assert fleet.run(boot()).code == 0
    refused = 0
    for n, twin in deaths(fleet, offload, 1):
        for op_id in twin.active():
            with twin.process("b") as process:
                seen = "keep-record" in {
                    one.step.type
                    for one in process.journal.load(op_id).records
                    if one.state is StepState.DONE
                }
            another_operator(twin)
            with contextlib.suppress(OperationFailed, OperationIncomplete, Refused):
                twin.take_over(op_id, back=False)
            (one,) = twin.db.read(instances.everything)
            if any(host.directories for host in twin.hosts.values()):
                refused += one.shelved_image is not None
            else:
                assert one.shelved_image is not None
                assert seen or all(map(twin.other_store.has, one.shelved_image.sums)), n
    assert refused > 0


def test_a_difference_to_one_that_is_not_listed_is_not_listed(fleet: SimFleet) -> None:
    assert fleet.run(boot()).code == 0
    assert fleet.run(back_up("first")).code == 0
    assert fleet.run(back_up("second")).code == 0
    with fleet.db.writing() as tx:
        full, part = sorted(backups.everything(tx), key=lambda one: one.created_at)
        assert part.parent == full.id
        tx.run("DELETE FROM backups WHERE id = :id", id=part.id)
        tx.run("UPDATE backups SET id = :new WHERE id = :id", new=str(uuid4()), id=full.id)
        told = list(adopted_backups.restore(tx, [full, part], lambda sha256: True))
    assert [wrong != "" for _, _, wrong in told] == [True, True]
