"""The tiny guest boots, tells what its config drive said, and goes when asked to."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pycdlib
import pytest

from novactl.lab import guests

pytestmark = pytest.mark.lab

MAC = "fa:16:3e:00:00:01"
META_DATA = {
    "meta": {"role": 'the "first"'},
    "public_keys": {"mykey": "ssh-ed25519 AAAA me\n"},
    "hostname": "tiny-1.novalocal",
    "uuid": "11111111-2222-3333-4444-555555555555",
}
NETWORK_DATA = {
    "services": [{"type": "dns", "address": "192.0.2.53"}],
    "networks": [
        {
            "id": "network0",
            "type": "ipv4",
            "link": "tap0",
            "ip_address": "10.0.2.15",
            "netmask": "255.255.252.0",
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.2.2"}],
        }
    ],
    "links": [{"id": "tap0", "type": "bridge", "mtu": 1400, "ethernet_mac_address": MAC.upper()}],
}
USER_DATA = "#!/bin/sh\necho user data of $(hostname)\nip addr show eth0\nip route\nexit 3\n"


@pytest.fixture(scope="module")
def image() -> guests.TinyImage:
    return guests.tiny()


@pytest.fixture
def disk(image: guests.TinyImage, tmp_path: Path) -> Path:
    return shutil.copyfile(image.disk, tmp_path / "disk.raw")


@pytest.fixture(scope="module")
def config_drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents = {
        "meta_data.json": json.dumps(META_DATA, separators=(",", ":")),
        "network_data.json": json.dumps(NETWORK_DATA, indent=2),
        "user_data": USER_DATA,
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident="config-2", rock_ridge="1.09", joliet=3)
    iso.add_directory("/OPENSTAC", rr_name="openstack", joliet_path="/openstack")
    iso.add_directory("/OPENSTAC/LATEST", rr_name="latest", joliet_path="/openstack/latest")
    for number, (name, text) in enumerate(contents.items()):
        paths = {"rr_name": name, "joliet_path": f"/openstack/latest/{name}"}
        iso.add_fp(io.BytesIO(text.encode()), len(text), f"/OPENSTAC/LATEST/FILE{number}.;1", **paths)
    path = tmp_path_factory.mktemp("drive") / "config.iso"
    iso.write(str(path))
    iso.close()
    return path


class Guest:
    """A tiny guest in an emulator of its own; gone when the block ends."""

    def __init__(
        self, image: guests.TinyImage, disk: Path, machine: str, *extra: str, words: str = ""
    ) -> None:
        self._console = disk.with_name("console.log")
        self._monitor = disk.with_name("monitor")
        self._argv = [
            *("qemu-system-x86_64", "-machine", f"{machine},accel=tcg", "-m", "96", "-nodefaults"),
            *("-display", "none", "-no-reboot", "-serial", f"file:{self._console}"),
            *("-qmp", f"unix:{self._monitor},server=on,wait=off"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", f"{image.cmdline} {words}", "-drive", f"file={disk},if=virtio,format=raw", *extra),
        ]

    def __enter__(self) -> Guest:
        self._console.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._argv, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def console(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """The console's text up to now, once it holds ``text``."""
        deadline = time.monotonic() + seconds
        while text not in self.console:
            assert time.monotonic() < deadline, f"{text!r} not in:\n{self.console}"
            assert self._process.poll() is None, f"qemu ended before {text!r}:\n{self.console}"
            time.sleep(0.05)
        return self.console

    def wait_for_end(self, seconds: float) -> None:
        assert self._process.wait(seconds) == 0

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rw") as qmp:
            client.connect(str(self._monitor))
            for command in ("qmp_capabilities", "system_powerdown"):
                qmp.write(json.dumps({"execute": command}) + "\n")
                qmp.flush()
                while "return" not in json.loads(qmp.readline()):
                    pass


def drive(path: Path) -> tuple[str, ...]:
    return ("-drive", f"file={path},if=virtio,format=raw,readonly=on")


def cdrom(path: Path, bus: str) -> tuple[str, ...]:
    controller = ("-device", "virtio-scsi-pci") if bus == "scsi" else ()
    return (*controller, "-drive", f"file={path},if=none,id=cd,format=raw", "-device", f"{bus}-cd,drive=cd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nic(*forwarded: tuple[int, int]) -> tuple[str, ...]:
    ports = "".join(f",hostfwd=tcp:127.0.0.1:{outside}-:{inside}" for outside, inside in forwarded)
    return ("-netdev", f"user,id=net,restrict=on{ports}", "-device", f"virtio-net-pci,netdev=net,mac={MAC}")


def test_second_call_gives_the_cached_image(image: guests.TinyImage) -> None:
    before = image.initrd.stat().st_ino
    assert guests.tiny() == image
    assert image.initrd.stat().st_ino == before


@pytest.mark.parametrize(
    ("machine", "bus"), [("q35", "virtio"), ("q35", "scsi"), ("pc", "virtio"), ("pc", "ide")]
)
def test_config_drive_is_applied_and_power_button_works(
    image: guests.TinyImage, disk: Path, config_drive: Path, machine: str, bus: str
) -> None:
    config = drive(config_drive) if bus == "virtio" else cdrom(config_drive, bus)
    with Guest(image, disk, machine, *config, *nic()) as guest:
        console = guest.wait_for("tiny: ready")
        guest.press_power_button()
        guest.wait_for_end(seconds=15)
    lines = console.splitlines()
    assert re.fullmatch(r"tiny: hello from \d+\.\S+", lines[0])
    size = config_drive.stat().st_size
    for expected in (
        f"tiny: disk vda {disk.stat().st_size} type=ext4 label=tinyroot",
        f"tiny: disk {'vdb' if bus == 'virtio' else 'sr0'} {size} type=iso9660 label=config-2",
        "tiny: hostname tiny-1.novalocal",
        "tiny: uuid 11111111-2222-3333-4444-555555555555",
        'tiny: meta role=the "first"',
        "tiny: key mykey",
        "tiny: addr eth0 10.0.2.15/22",
        "user data of tiny-1.novalocal",
        "tiny: user-data done rc=3",
    ):
        assert expected in lines
    assert "mtu 1400" in console
    assert "default via 10.0.2.2 dev eth0" in console


def test_services_answer(image: guests.TinyImage, disk: Path, config_drive: Path) -> None:
    ssh, http = free_port(), free_port()
    with Guest(image, disk, "q35", *drive(config_drive), *nic((ssh, 22), (http, 80))) as guest:
        guest.wait_for("tiny: ready")
        with socket.create_connection(("127.0.0.1", ssh), timeout=10) as client:
            assert client.recv(100) == b"SSH-2.0-tiny\r\n"
        with (
            socket.create_connection(("127.0.0.1", http), timeout=10) as client,
            client.makefile("rwb") as stream,
        ):
            stream.write(b"GET /hostname HTTP/1.0\r\n\r\n")
            stream.flush()
            assert stream.read().endswith(b"\r\n\r\ntiny-1.novalocal\n")


def test_disk_remembers_its_boots(image: guests.TinyImage, disk: Path) -> None:
    for boot in (1, 2):
        with Guest(image, disk, "q35") as guest:
            console = guest.wait_for("tiny: ready")
        assert f"tiny: boot count {boot}" in console
        assert "tiny: no config drive" in console


def test_noacpi_guest_ignores_the_power_button_and_its_heart_beats(
    image: guests.TinyImage, disk: Path
) -> None:
    with Guest(image, disk, "q35", words="tiny.noacpi tiny.heartbeat") as guest:
        guest.wait_for("tiny: ready")
        guest.press_power_button()
        assert "tiny: power button" not in guest.wait_for("tiny: heartbeat 3")


def test_die_ends_after_hello(image: guests.TinyImage, disk: Path) -> None:
    with Guest(image, disk, "q35", words="tiny.die") as guest:
        guest.wait_for_end(seconds=60)
        assert guest.console.startswith("tiny: hello")
        assert "tiny: ready" not in guest.console


def test_killed_builds_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".tiny-killed" / "image").mkdir(parents=True)
    monkeypatch.setattr(guests, "_build_tiny", lambda work: (work / "image/disk.raw").touch())
    assert guests.tiny(tmp_path).disk.exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [
        guests.tiny(tmp_path).disk.parent.name
    ]


def test_failed_build_says_what_failed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "_build_tiny", lambda work: guests._run("ls", "/nonexistent"))
    with pytest.raises(guests.GuestImageError, match="No such file"):
        guests.tiny(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


def test_modules_come_after_what_they_need() -> None:
    table = ["k/net.ko: k/fail.ko k/core.ko", "k/fail.ko: k/core.ko", "k/core.ko:", "k/blk.ko.xz: k/core.ko"]
    expected = ["k/core.ko", "k/fail.ko", "k/net.ko", "k/blk.ko.xz"]
    assert guests._load_order(table, ["net", "absent", "blk"]) == expected
