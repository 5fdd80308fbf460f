"""What an earlier novactl journaled, this one can load: golden/steps.json has the fields of each step that
was in a journal ever, by version. NOVACTL_REGENERATE=1 adds those that are new, and changes none."""

import json
import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.actions.steps import REGISTRY
from novactl.actions.steps.files import WriteConfigDrive
from novactl.actions.steps.former import RewriteConfigDrive

GOLDEN = Path(__file__).parent / "golden" / "steps.json"
DRIVE: dict[str, Any] = {
    "uuid": "6a1f7b9e-35a0-4f1b-8f3c-0d1e7f1f2a10",
    "host": "kvm1",
    "disks": [["disk", "qcow2"]],
}


def known() -> dict[str, dict[str, str]]:
    """Of each step that this novactl can load, its fields and what they may hold."""
    return {
        f"{step.type} {step.version}": {field.name: str(field.type) for field in fields(step)}
        for step in REGISTRY
    }


def test_the_golden_file_is_whole() -> None:
    """A step that gains, loses or changes a field gets another version, and the one before stays
    (novactl/actions/steps/former.py): operations that were left half way have it in their journals."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("NOVACTL_REGENERATE"):
        golden = {**known(), **golden}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden[name])}" for name in sorted(golden))
        GOLDEN.write_text(f"{{\n{lines}\n}}\n")
    assert golden == known()


class Drives:
    """A host that remembers what was put on it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, uuid: str, epoch: int, file: str, mode: str, content: bytes) -> None:
        self.files[file] = content

    def directory(self, uuid: str) -> str:
        return f"/instances/{uuid}"


@pytest.fixture
def host() -> Drives:
    return Drives()


@pytest.fixture
def ctx(host: Drives) -> Any:
    return SimpleNamespace(epoch=3, world=SimpleNamespace(hypervisor=lambda name: host))


def metadata(name: str) -> dict[str, Any]:
    told = {
        "hostname": name,
        "availability_zone": "nova",
        "project_id": "default",
        "public_keys": {},
        "meta": {},
    }
    return {"uuid": DRIVE["uuid"], "name": name, **told}


def test_the_drive_of_an_earlier_rebuild_is_put_back(host: Drives, ctx: Any) -> None:
    """Its disk alone was kept aside: the guest would be started again with the new drive."""
    WriteConfigDrive(**DRIVE, metadata=metadata("the-old"), user_data=None).do(ctx)
    assert b"the-old" in host.files["disk.config"]
    before = {"metadata": metadata("the-old")}
    journaled = {
        "type": "write-config-drive",
        "version": 1,
        "fields": {**DRIVE, "metadata": metadata("the-new"), "user_data": None, "before": before},
    }
    step = REGISTRY.load(journaled)
    assert isinstance(step, RewriteConfigDrive)
    step.do(ctx)
    assert b"the-new" in host.files["disk.config"]
    step.undo(ctx)
    assert b"the-old" in host.files["disk.config"] and b"the-new" not in host.files["disk.config"]


def test_the_drive_of_an_earlier_boot_goes_with_its_directory(host: Drives, ctx: Any) -> None:
    RewriteConfigDrive(**DRIVE, metadata=metadata("old"), user_data=None, before=None).undo(ctx)
    assert host.files == {}
