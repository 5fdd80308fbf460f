"""Every command that the documentation shows was run: here, as a reader would, or by the test named below."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from novactl import lab
from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import console_until
from tests.support.command import Command, Ended
from tests.support.documents import MADE, PAGES, shown_in

pytestmark = pytest.mark.lab

ELSEWHERE = {
    "novactl boot web1 --flavor small --image debian --key me --network lan,ip=192.0.2.101"
    " --wait-for cloud-init": "test_full_guest.py",
    "novactl ssh web1": "test_full_guest.py",
    "novactl lab up --hosts 2": "test_lab_fleet.py",
    "novactl lab image tiny": "test_lab_fleet.py",
    "novactl lab down": "test_lab_fleet.py",
    "novactl inventory diff": "test_inventory.py",
    "novactl inventory diff inventory/example": "../cli/test_inventory.py",
    "novactl inventory apply --dry-run": "../cli/test_inventory.py",
    "novactl inventory apply": "../cli/test_inventory.py",
    "novactl inventory export inventory": "../cli/test_inventory.py",
    "novactl inventory apply --identity ~/.ssh/id_ed25519": "test_inventory.py",
    "novactl inventory apply --prune --yes": "test_inventory.py",
    "novactl cron --example cron.d": "../cli/test_cron.py",
    "novactl cron --example service": "../cli/test_cron.py",
    "novactl cron --example timer": "../cli/test_cron.py",
    'novactl project create shop --description "the web shop" --limit instances=40 --limit cores=unlimited': (
        "../cli/test_projects.py"
    ),
    "novactl quota show shop": "../cli/test_projects.py",
    "novactl quota set shop memory_mib=204800": "../cli/test_projects.py",
    "novactl quota set default instances=200": "../cli/test_projects.py",
    "novactl group create front --policy anti-affinity": "../cli/test_projects.py",
    "novactl group show front": "../cli/test_projects.py",
    "novactl image add alma --url https://HOST/alma.qcow2 --sha256 HEX": "../cli/test_images.py",
    "novactl image push debian --all": "test_images.py",
    "novactl image push debian --to kvm1 --to kvm2 --dry-run": "test_images.py",
    "novactl image push debian --store": "test_images.py",
    "novactl image store": "test_images.py",
    "novactl image store host:kvm1:/var/lib/novactl/images": "test_images.py",
    "novactl image store rbd:kvm1:images": "test_images.py",
    "novactl image verify": "test_images.py",
    "novactl image verify debian --on kvm1 --dry-run": "test_images.py",
    "novactl image prune --all --older-than 30d --dry-run": "test_images.py",
    "novactl snapshot web1 web1-before-upgrade": "test_snapshots.py",
    "novactl snapshot web1 web1-consistent --quiesce": "test_snapshots.py",
    "novactl snapshot web1 web1-clean --power-off --compress": "test_snapshots.py",
    "novactl boot web2 --image web1-clean --flavor small": "test_snapshots.py",
    "novactl check": "../cli/test_cron.py",
    "novactl check --nagios": "../cli/test_cron.py",
    "novactl metrics": "../cli/test_cron.py",
    "novactl metrics --textfile /var/lib/prometheus/node-exporter/novactl.prom": "../cli/test_cron.py",
    "novactl rebalance --dry-run": "../cli/test_rebalance.py",
    "novactl rebalance --only-rules --yes": "../cli/test_rebalance.py",
    "novactl rebalance --max-moves 10 --plan-out plan.json": "../cli/test_rebalance.py",
    "novactl rebalance --plan plan.json --yes": "test_rebalance.py",
    "novactl pki init": "test_pki.py",
    "novactl pki issue kvm1": "test_pki.py",
    "novactl pki list": "test_pki.py",
    "novactl pki revoke kvm2": "test_pki.py",
    "novactl recover web1 --dry-run": "test_live_migration.py",
    "novactl recover web1": "test_live_migration.py",
    "novactl recover web1 --keep kvm2 --dry-run": "test_keep.py",
    "novactl recover web1 --keep kvm2 --yes": "test_keep.py",
    "novactl migrate web1 --live --host kvm2 --transport tls": "test_live_transports.py",
    "novactl migrate web1 --live --host kvm2 --transport tcp": "test_live_transports.py",
    "novactl migrate web1 --live --host kvm2 --direct": "test_live_direct.py",
    "novactl migrate web1 --live --host kvm2 --direct --transport tcp": "test_live_direct.py",
    "novactl flavor create roomy --vcpus 2 --memory 4096 --disk 20 --property hw:max_vcpus=8": (
        "test_resize_live.py"
    ),
    "novactl resize web1 --flavor large --live --dry-run": "test_resize_live.py",
    "novactl resize web1 --flavor large --live": "test_resize_live.py",
    "novactl rescue web1": "test_rescue.py",
    "novactl unrescue web1": "test_rescue.py",
    "novactl rebuild web1 --dry-run": "test_rebuild_instance.py",
    "novactl rebuild web1 --yes": "test_rebuild_instance.py",
    "novactl rebuild web1 --image deaf --yes": "test_rebuild_instance.py",
    "novactl rebuild web1 --key me --user-data first.yaml --yes": "test_rebuild_instance.py",
    "novactl shelve web1": "test_shelve.py",
    "novactl shelve web1 --offload": "test_shelve.py",
    "novactl unshelve web1": "test_shelve.py",
    "novactl backup create web1 --name web1-mon --type daily --rotate 7": "test_backups.py",
    "novactl backup list web1": "test_backups.py",
    "novactl backup prune web1 --rotate 3 --dry-run": "test_backups.py",
    "novactl backup prune web1 --rotate 3": "test_backups.py",
    "novactl backup delete web1-mon --yes": "test_backups.py",
    "novactl backup restore web1-mon --as web1-restored": "test_backups.py",
    "novactl backup restore web1-mon --in-place web1": "test_backups.py",
    "novactl stop web1": "test_backups.py",
    "novactl start web1": "test_backups.py",
    "novactl backup export web1-mon /mnt/usb/web1": "test_backups.py",
    "novactl backup export web1-mon web1.raw": "test_backups.py",
    "novactl op resume ID": "test_operations.py",
    "novactl op rollback ID": "test_operations.py",
    "novactl evacuate --on kvm1 --fenced-by ipmi": "test_evacuate.py",
    "novactl evacuate web1 --i-have-verified-host-is-down kvm1": "test_evacuate.py",
    "novactl host evacuate kvm1 --i-have-verified-host-is-down kvm1": "test_evacuate.py",
    "novactl host drain kvm1 --dry-run": "test_drain.py",
    "novactl host drain kvm1 --yes": "test_drain.py",
    "novactl host undrain kvm1 --bring-back": "test_drain.py",
    "novactl audit --adopt": "test_restored.py",
    "novactl playbook run rolling-reboot --on kvm1 --on kvm2": "test_playbooks.py",
    "novactl playbook run enroll -e name=kvm4 -e address=192.0.2.14 -e fingerprint=SHA256:…"
    " -e identity=/root/.ssh/id_ed25519": "test_playbooks.py",
    "novactl db init --db postgresql://novactl@db.example/novactl": "../cli/test_database.py",
    "novactl db init --db mysql://novactl@db.example/novactl": "../cli/test_database.py",
}
"""Commands that need another ground, and the file beside this one that runs them there."""


class Reader:
    """Somebody who types what the documentation shows, with names and addresses of his own."""

    def __init__(self, fleet: lab.Fleet, directory: Path) -> None:
        self.novactl = Command(directory / "config")
        self.fleet = fleet
        self.directory = directory
        self.ran: set[str] = set()
        tiny = guests.tiny()
        self.key = directory / "id_ed25519.pub"
        self.key.write_text((fleet.identity.parent / "id_ed25519.pub").read_text())
        net, gateway = fleet.network, fleet.gateway
        base = net.rpartition(".")[0]
        kernel = ["--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd), "--cmdline", tiny.cmdline]
        self.own: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
            (r"debian-12-generic-amd64\.qcow2", shlex.join([str(tiny.disk), "--format", "raw", *kernel])),
            (r"192\.0\.2\.0/24", net),
            (r"192\.0\.2\.1\b", gateway),
            (r"192\.0\.2\.1([1-3])\b", lambda found: fleet.hosts[int(found[1]) - 1].address),
            (r"192\.0\.2\.", f"{base}."),
            (r"~/\.ssh/id_ed25519\.pub", str(self.key)),
            (r"~/\.ssh/id_ed25519\b", str(fleet.identity)),
            (r"SHA256:…", fleet.hosts[0].fingerprint),
            (r"--memory 1024", "--memory 96"),
            (r"--disk 10\b", "--disk 1"),
            (r"--count 10\b", "--count 3"),
        ]

    def types(self, command: str, *, codes: tuple[int, ...] = (0,), **names: str) -> Ended:
        """The command as it is shown, which must end with one of these codes; `names` are more of his own."""
        self.ran.add(command)
        words = command.removeprefix("novactl ")
        for pattern, own in [*((re.escape(name), own) for name, own in names.items()), *self.own]:
            words = re.sub(pattern, own, words)
        ended = self.novactl(*shlex.split(words))
        assert ended.code in codes, f"{command} ended with {ended.code}:\n{ended.out}{ended.err}"
        assert "Traceback" not in ended.err
        return ended


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    name = f"d{os.getpid() % 1000000}"
    fleet = lab.up(name, 3)
    try:
        yield Reader(fleet, tmp_path_factory.mktemp("reader"))
    finally:
        lab.down(name)


def shown() -> set[str]:
    return {command for page in PAGES if page.name != MADE for _, command in shown_in(page)}


def test_the_first_ten_minutes(reader: Reader) -> None:
    identity = ["--identity", str(reader.fleet.identity)]
    add = "novactl host add kvm1 --address 192.0.2.11 --fingerprint SHA256:…"
    reader.types(add, kvm1=f"kvm1 {shlex.join(identity)}")
    for host in reader.fleet.hosts[1:]:
        words = ["host", "add", host.name, "--address", host.address, "--fingerprint", host.fingerprint]
        reader.novactl.ok(*words, *identity)
    for command in (
        "novactl image add debian --file debian-12-generic-amd64.qcow2 --property os_distro=debian",
        "novactl flavor create small --vcpus 1 --memory 1024 --disk 10",
        "novactl keypair add me --public-key ~/.ssh/id_ed25519.pub",
        "novactl network create lan --cidr 192.0.2.0/24 --gateway 192.0.2.1 --dns 192.0.2.1 --bridge br0"
        " --pool 192.0.2.100-192.0.2.199",
        "novactl boot web1 --flavor small --image debian --key me --network lan,ip=192.0.2.101 --dry-run",
        "novactl boot app --count 10 --flavor small --image debian --key me --network lan --tag app",
        "novactl stop -l app",
    ):
        reader.types(command)
    assert reader.types("novactl list --status SHUTOFF").out.count("SHUTOFF") == 3
    reader.types("novactl delete -l app --yes")
    assert reader.novactl.json("list") == []


def test_operations(reader: Reader) -> None:
    boot = reader.types("novactl boot web1 --flavor small --image debian --network lan --no-wait")
    op_id = boot.out.strip()
    reader.types('novactl op wait "$id" --timeout 300', **{"$id": op_id})
    reader.types("novactl op list --active")
    assert op_id in reader.types("novactl op show ID", ID=op_id).out
    reader.types("novactl start --on kvm1 --interrupted")
    reader.types("novactl audit")
    reader.types("novactl audit --heal --dry-run")
    reader.types("novactl audit --heal", **{"--heal": "--heal --yes"})
    others = Command(reader.directory / "rebuilt")
    others.config.mkdir()
    rebuild = "novactl db rebuild --from 192.0.2.11 --fingerprint SHA256:… --from kvm2 --from kvm3 --dry-run"
    mine, reader.novactl = reader.novactl, others
    reader.types(rebuild, **{"--dry-run": f"--dry-run --identity {reader.fleet.identity}"})
    reader.novactl = mine


def test_a_day_with_instances(reader: Reader) -> None:
    novactl = reader.novactl
    for name in ("web2", "db1"):
        novactl.ok("boot", name, "--flavor", "small", "--image", "debian", "--network", "lan")
    for command in (
        "novactl reboot web1 --hard",
        "novactl suspend web1",
        "novactl resume web1",
        "novactl suspend web1 web2",
        "novactl resume web1 web2",
        "novactl pause --all",
        "novactl unpause --all",
        "novactl lock db1",
        "novactl unlock db1",
    ):
        reader.types(command)
    assert {one["status"] for one in novactl.json("list")} == {"ACTIVE"}
    console_until(Grounds(reader.fleet, novactl), novactl.json("show", "web1"), "tiny: ready")
    reader.types("novactl reboot web1")
    novactl.ok("delete", "web2", "--yes")
    reader.types("novactl set web1 --name web2 --meta role=web --tag new")
    reader.types("novactl unset web2 --meta role --tag new")
    reader.types("novactl reset-state web2 --state error")
    novactl.ok("reset-state", "web2", "--state", "active")


def test_placement(reader: Reader) -> None:
    own = {"tiny": "debian"}  # the image that this reader has
    names = [one["name"] for one in reader.novactl.json("list")]
    reader.novactl.ok("delete", *names, "--yes")
    assert "chosen" in reader.types("novactl schedule --flavor small --explain").out
    assert "fit; after the loss of" in reader.types("novactl host capacity --flavor small").err
    reader.types("novactl boot web1 --flavor small --image tiny --dry-run --explain", **own)
    reader.types("novactl host set kvm1 --cpu-ratio 4 --memory-ratio 1 --reserved-memory 2048")
    reader.types("novactl boot web --count 3 --flavor small --image tiny", **own)
    reader.types("novactl boot batch --count 3 --partial --flavor small --image tiny", **own)
    rows = reader.novactl.json("list")
    assert len(rows) == 6 and {one["status"] for one in rows} == {"ACTIVE"}


def test_moving(reader: Reader) -> None:
    novactl = reader.novactl
    novactl.ok("delete", *[one["name"] for one in novactl.json("list")], "--yes")
    novactl.ok("flavor", "create", "large", "--vcpus", "1", "--memory", "128", "--disk", "1")
    boot = ["boot", "web1", "--flavor", "small", "--image", "debian", "--network", "lan", "--host", "kvm1"]
    novactl.ok(*boot)
    reader.types("novactl migrate web1 --live --host kvm2 --dry-run")
    reader.types("novactl migrate web1 --live --host kvm2 --bandwidth 100 --max-downtime 300")
    assert novactl.json("show", "web1")["host"] == "kvm2"
    reader.types("novactl migrate web1 --live")
    assert novactl.json("show", "web1")["host"] != "kvm2"
    reader.types("novactl migrate-abort web1", codes=(5,))
    reader.types("novactl migrate web1 --host kvm2")
    reader.types("novactl resize-revert web1")
    reader.types("novactl resize web1 --flavor large")
    reader.types("novactl resize-confirm web1")
    shown = novactl.json("show", "web1")
    assert (shown["status"], shown["flavor"]) == ("ACTIVE", "large")


def test_the_fleet_as_files(reader: Reader) -> None:
    fleet = str(reader.directory / "fleet")
    reader.types("novactl inventory export fleet", fleet=fleet)
    reader.types("novactl inventory diff fleet", fleet=fleet)
    assert "complete" in reader.types("novactl completion bash").out


def test_playbooks(reader: Reader) -> None:
    reader.types("novactl playbook list")
    reader.types("novactl playbook show rolling-reboot")
    reader.types("novactl playbook run rolling-reboot --on kvm1 --on kvm2 --dry-run")


def test_every_command_shown_was_run(reader: Reader) -> None:
    """The last one: what is neither run above nor elsewhere was never seen to work."""
    assert sorted(shown() - reader.ran - set(ELSEWHERE)) == []
    assert sorted(set(ELSEWHERE) - shown()) == [], "no longer shown"
    here = Path(__file__).parent
    for command, file in ELSEWHERE.items():
        text, verb = (here / file).read_text(), command.split()[1]
        assert f'"{verb}"' in text or f"{verb} " in text, f"{file} does not run {command}"
