"""Inventory files: what is understood, and what is refused with its file, line and path."""

import base64
from pathlib import Path
from typing import Any

import pytest

from novactl.errors import UsageError
from novactl.files.inventory import Inventory, load_inventory
from novactl.objects.project import NOVA_LIMITS

ROOT = Path(__file__).parents[2]
BLOB = b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20" + b"k" * 32
PUBLIC = f"ssh-ed25519 {base64.b64encode(BLOB).decode()} me@here"
FINGERPRINT = "SHA256:" + "A" * 43


def load(directory: Path, **files: str) -> Inventory:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return load_inventory(directory)


def refused(directory: Path, **files: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(directory, **files)
    assert caught.value.code == 2
    return caught.value


def fields(inventory: Inventory, kind: str, name: str) -> dict[str, Any]:
    return dict(inventory.items[kind][name].fields)


def test_the_shipped_example_is_good() -> None:
    found = load_inventory(ROOT / "inventory" / "example")
    assert {*found.items} == {
        *("host", "aggregate", "flavor", "network", "image", "keypair"),
        *("project", "group", "scheduler"),
        *("weigher", "policy", "cron", "trusted-network", "setting"),
    }
    addresses = [item.fields["address"] for item in found.items["host"].values()]
    assert len(addresses) >= 3 and all(address.startswith("192.0.2.") for address in addresses)


def test_files_and_directories_are_one(tmp_path: Path) -> None:
    below = tmp_path / "rack1" / "deep"
    below.mkdir(parents=True)
    (below / "hosts.yml").write_text("hosts: {kvm1: {address: 192.0.2.11}}\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "old.yaml").write_text("nonsense: 1\n")
    (tmp_path / ".hosts.yaml.swp").write_text("nonsense: 1\n")
    (tmp_path / "notes.txt").write_text("nonsense\n")
    found = load(
        tmp_path,
        hosts="hosts: {kvm2: {address: 192.0.2.12}}\n",
        empty="# nothing yet\n",
        flavors="flavors: {}\n",
    )
    assert {kind: sorted(items) for kind, items in found.items.items()} == {
        "host": ["kvm1", "kvm2"],
        "flavor": [],
    }
    assert [*load_inventory(below / "hosts.yml").items["host"]] == ["kvm1"]


def test_a_host_has_what_it_states_and_the_ratios(tmp_path: Path) -> None:
    text = """
hosts:
  kvm1: {address: 192.0.2.11}
  kvm2: {address: 192.0.2.12, cpu_ratio: 2, enabled: false, disabled_reason: new disks, virt_type: auto}
  kvm3: {address: 192.0.2.13, enabled: true, labels: {rack: "7"}, jump: kvm1, virt_type: kvm}
  kvm4: {address: 192.0.2.14, cpu_ratio: 1, dedicated_cpus: "10,2-4,3"}
  kvm5: {address: 192.0.2.15, cpu_ratio: 1, dedicated_cpus: ""}
ratios: {cpu: 8.5, disk: 2}
"""
    found = load(tmp_path, all=text)
    plain = {"port": 22, "user": "root", "jump": None, "disk_ratio": 2}
    assert fields(found, "host", "kvm1") == {"address": "192.0.2.11", "cpu_ratio": 8.5, **plain}
    disabled = {"enabled": False, "disabled_reason": "new disks"}
    assert fields(found, "host", "kvm2") == {"address": "192.0.2.12", "cpu_ratio": 2, **plain, **disabled}
    assert fields(found, "host", "kvm3") == {
        "address": "192.0.2.13",
        "cpu_ratio": 8.5,
        **plain,
        "jump": "kvm1",
        "virt_type": "kvm",
        "enabled": True,
        "disabled_reason": None,
        "labels": {"rack": "7"},
    }
    asked = [fields(found, "host", name)["dedicated_cpus"] for name in ("kvm4", "kvm5")]
    assert asked == ["2-4,10", None]


def test_files_are_named_from_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "me.pub").write_text(PUBLIC + "\n")
    found = load(
        tmp_path,
        a="keypairs: {me: {file: keys/me.pub}, shop/me: {public_key: '" + PUBLIC + "'}}\n",
        b="images: {tiny: {file: images/tiny.raw, kernel: /boot/vmlinuz}}\n",
    )
    assert fields(found, "keypair", "me") == fields(found, "keypair", "shop/me")
    assert fields(found, "keypair", "me")["public_key"] == PUBLIC
    assert found.items["image"]["tiny"].files == {
        "file": tmp_path / "images/tiny.raw",
        "kernel": Path("/boot/vmlinuz"),
    }


def test_what_is_there_twice_names_both_places(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        a="flavors:\n  small: {vcpus: 1, memory_mib: 1, disk_gib: 1}\nzones: [east]\nratios: {cpu: 2}\n",
        b="flavors:\n  big: {vcpus: 1, memory_mib: 1, disk_gib: 1}\n"
        "  small: {vcpus: 1, memory_mib: 1, disk_gib: 1}\nratios: {cpu: 2}\ndefault_network: lan\n",
        c="default_network: lan\nweighers: {memory: 1}\n",
    )
    rows = [(Path(row["file"]).name, row["line"], row["path"], row["message"]) for row in error.targets]
    assert rows == [
        ("b.yaml", 4, "ratios.cpu", f"is defined at {tmp_path}/a.yaml:4: ratios.cpu already"),
        ("b.yaml", 3, "flavors.small", f"is defined at {tmp_path}/a.yaml:2: flavors.small already"),
        ("c.yaml", 1, "default_network", f"is defined at {tmp_path}/b.yaml:5: default_network already"),
    ]
    assert error.message.startswith("3 faults\n  ")


def test_a_zone_twice(tmp_path: Path) -> None:
    error = refused(tmp_path, a="zones: [east, west]\n", b="zones: [east]\n")
    assert error.message == (
        f"{tmp_path}/b.yaml:1: zones[0]: east is defined at {tmp_path}/a.yaml:1: zones[0] already"
    )


HOST = "hosts:\n  kvm1:\n    address: 192.0.2.11\n"
FLAVOR = "flavors:\n  small:\n    vcpus: 1\n    memory_mib: 512\n    disk_gib: 4\n"
NETWORK = "networks:\n  lan:\n    cidr: 192.0.2.0/24\n    bridge: br0\n"
POLICY = "policies:\n  night:\n    do: stop\n    at: 20:00\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host: {}\n", ":1: host: is not known here"),
        ("- a\n", ":1: must be a valid dictionary or instance of FilePart"),
        ("hosts:\n", ":1: hosts: must be a valid dictionary"),
        (HOST + "    colour: red\n", ":4: hosts.kvm1.colour: is not known here"),
        (HOST + "    labels: {tier: 3}\n", ":4: hosts.kvm1.labels.tier: must be a valid string (it is 3)"),
        (
            HOST + "    port: 70000\n",
            ":4: hosts.kvm1.port: must be less than or equal to 65535 (it is",
        ),
        (HOST + "    port: '22'\n", ":4: hosts.kvm1.port: must be a valid integer (it is '22')"),
        (HOST + "    cpu_ratio: 0\n", ":4: hosts.kvm1.cpu_ratio: must be greater than 0 (it is 0)"),
        (HOST + "    memory_ratio: -1.5\n", ":4: hosts.kvm1.memory_ratio: must be greater than 0"),
        (HOST + "    reserved_memory_mib: -1\n", ":4: hosts.kvm1.reserved_memory_mib: must be greater"),
        (HOST + "    dedicated_cpus: 4-2\n", ":4: hosts.kvm1.dedicated_cpus: cpus '4-2' are not acceptable"),
        (HOST + "    dedicated_cpus: 2\n", ":4: hosts.kvm1.dedicated_cpus: must be a valid string (it is 2)"),
        (
            FLAVOR + "    extra_specs: {hw:cpu_polcy: shared}\n",
            ":3: flavors.small: extra spec hw:cpu_polcy is not",
        ),
        (
            FLAVOR + "    extra_specs: {hw:numa_nodes: '0'}\n",
            ":3: flavors.small: extra spec hw:numa_nodes='0': a num",
        ),
        (HOST + "    enabled: yes\n", ":4: hosts.kvm1.enabled: must be a valid boolean (it is 'yes')"),
        (HOST + "    disabled_reason: x\n", ":3: hosts.kvm1: disabled_reason goes with enabled: false"),
        (HOST + "    user: -oProxyCommand=x\n", ":4: hosts.kvm1.user: user '-oProxyCommand=x' is not accept"),
        (HOST + "    instances_path: /a/../b\n", ":4: hosts.kvm1.instances_path: path '/a/../b' is not"),
        (HOST + "    virt_type: xen\n", ":4: hosts.kvm1.virt_type: must be 'auto', 'kvm' or 'qemu'"),
        (HOST + "    fingerprint: MD5:00\n", ":4: hosts.kvm1.fingerprint: String should match pattern"),
        (HOST + "    jump: kvm1\n", ":3: hosts.kvm1: jump is the host itself"),
        (HOST + "  kvm2: {address: 192.0.2.11}\n", ":4: hosts.kvm2.address: is that of kvm1 ("),
        ("hosts:\n  kvm1: {}\n", ":2: hosts.kvm1.address: is missing"),
        ("hosts:\n  kvm1: {address: a b}\n", ":2: hosts.kvm1.address: address 'a b' is not acceptable"),
        ("hosts:\n  -x: {address: a}\n", ":2: hosts.-x: host name '-x' is not acceptable"),
        (HOST + "zones: [east]\n", ":3: hosts.kvm1.zone: 'nova' is not one of zones: east"),
        (
            "hosts:\n  a: {address: a, jump: b}\n  b: {address: b, jump: a}\n",
            ":2: hosts.a.jump: goes in a circle: a → b → a",
        ),
        ("ratios: {cpu: 0}\n", ":1: ratios.cpu: must be greater than 0"),
        ("ratios: {gpu: 1}\n", ":1: ratios.gpu: is not known here"),
        ("aggregates: {ssd: {hosts: [kvm1, kvm1]}}\n", ":1: aggregates.ssd: hosts has one of them twice"),
        ("aggregates: {ssd: {hosts: kvm1}}\n", ":1: aggregates.ssd.hosts: must be a valid list"),
        (FLAVOR + "    swap_mib: -1\n", ":6: flavors.small.swap_mib: must be greater than or equal to 0"),
        (
            FLAVOR.replace("vcpus: 1", "vcpus: 0"),
            ":3: flavors.small.vcpus: must be greater than or",
        ),
        (FLAVOR.replace("vcpus: 1", "vcpus: 1.0"), ":3: flavors.small.vcpus: must be a valid integer"),
        (NETWORK.replace("/24", "/33"), ":3: networks.lan: '33' is not a valid netmask"),
        (NETWORK.replace("2.0/", "2.1/"), ":3: networks.lan: 192.0.2.1/24 has host bits set"),
        (
            NETWORK + "    gateway: 10.0.0.1\n",
            ":3: networks.lan: gateway 10.0.0.1 is not within",
        ),
        (NETWORK + "    dns: [x]\n", ":3: networks.lan: 'x' is not an IPv4 address"),
        (NETWORK + "    pool: 192.0.2.9\n", ":3: networks.lan: pool '192.0.2.9' is not of the"),
        (NETWORK + "    mtu: 100\n", ":5: networks.lan.mtu: must be greater than or equal to 576"),
        (NETWORK.replace("br0", "a/b"), ":4: networks.lan.bridge: bridge 'a/b' is not acceptable"),
        (
            NETWORK + "  dmz: {cidr: 192.0.2.128/25, bridge: br0}\n",
            ":5: networks.dmz.cidr: has addresses of lan (",
        ),
        ("images: {a: {}}\n", ":1: images.a: file is missing; or sha256"),
        ("images: {a: {file: x, sha256: ABC}}\n", ":1: images.a.sha256: SHA-256 'ABC' is not acceptable"),
        ("images: {a: {file: x, format: vdi}}\n", ":1: images.a.format: must be 'raw', 'qcow2', 'vmdk' or"),
        ("images: {a: {file: x, cmdline: y}}\n", ":1: images.a: initrd and cmdline need kernel"),
        ("keypairs: {a: {}}\n", ":1: keypairs.a: one of public_key and file must be given"),
        ("keypairs: {a: {public_key: x}}\n", ":1: keypairs.a: not an OpenSSH public key"),
        ("keypairs: {a: {file: /none}}\n", ":1: keypairs.a: /none: no such file or directory"),
        ("keypairs: {a/b/c: {public_key: x}}\n", ":1: keypairs.a/b/c: project 'a/b' is not acceptable"),
        ("weighers: {memory: much}\n", ":1: weighers.memory: must be a valid number (it is 'much')"),
        ("weighers: {memory: 1.0e+7}\n", ":1: weighers.memory: must be less than or equal to 1000000"),
        ("projects: {a/b: {}}\n", ":1: projects.a/b: project name 'a/b' is not acceptable"),
        (
            "projects: {dev: {limits: {core: 1}}}\n",
            ":1: projects.dev: resource 'core' does not exist; did you",
        ),
        (
            "projects: {dev: {limits: {cores: -2}}}\n",
            ":1: projects.dev: cores: limit -2 is not a number from",
        ),
        (
            "projects: {dev: {limits: {cores: many}}}\n",
            ":1: projects.dev.limits.cores: must be a valid integer",
        ),
        ("projects: {dev: {limits: {cores: 1.5}}}\n", ":1: projects.dev.limits.cores"),
        ("projects: {dev: {limits: {cores: true}}}\n", ":1: projects.dev.limits.cores"),
        ("projects: {dev: {quota: {}}}\n", ":1: projects.dev.quota: is not known here"),
        ("groups: {web: {}}\n", ":1: groups.web.policy: is missing"),
        ("groups: {web: {policy: near}}\n", ":1: groups.web.policy: must be 'affinity', 'anti-affinity'"),
        ("groups: {a/b/c: {policy: affinity}}\n", ":1: groups.a/b/c: project 'a/b' is not acceptable"),
        (
            "groups: {web: {policy: affinity, max_per_host: 2}}\n",
            ":1: groups.web: max_per_host belongs to anti-affinity, not to affinity",
        ),
        (
            "groups: {web: {policy: anti-affinity, max_per_host: 0}}\n",
            ":1: groups.web: max_per_host 0 is not within 1 to 1000",
        ),
        (
            "scheduler: {host_subset_size: 0}\n",
            ":1: scheduler.host_subset_size: host_subset_size 0 is not",
        ),
        ("scheduler: {host_subset_size: 1.5}\n", ":1: scheduler.host_subset_size: must be a valid integer"),
        (
            "scheduler: {max_io_ops_per_host: true}\n",
            ":1: scheduler.max_io_ops_per_host: must be a valid int",
        ),
        ("scheduler: {colour: 1}\n", ":1: scheduler.colour: 'colour' is not one of host_subset"),
        (
            POLICY.replace("stop", "wipe"),
            ":3: policies.night.do: must be 'start', 'stop', 'reboot', 'keep-run",
        ),
        (POLICY.replace("20:00", "25:00"), ":4: policies.night.at: String should match pattern"),
        (POLICY + "    days: [monday]\n", ":5: policies.night.days[0]: must be 'mon', "),
        (
            POLICY + "    timezone: Mars/Base\n",
            ":3: policies.night: timezone 'Mars/Base' is not",
        ),
        ("cron: {prune: {every: 1w}}\n", ":1: cron.prune.every: duration '1w' is not a length of time"),
        ("cron: {prune: {every: 5s}}\n", ":1: cron.prune: every 5s is less than 10s"),
        ("cron: {prune: {every: 60}}\n", ":1: cron.prune.every: must be a valid string (it is 60)"),
        ("default_network: 7\n", ":1: default_network: must be a valid string (it is 7)"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, says: str) -> None:
    error = refused(tmp_path, fleet=text)
    assert f"{tmp_path}/fleet.yaml{says}" in error.message


def test_limits_that_are_not_stated_are_nova_s(tmp_path: Path) -> None:
    limits = "{cores: unlimited, instances: 3, keypairs: -1}"
    found = load(tmp_path, all=f"projects: {{dev: {{limits: {limits}}}, lab: {{description: x}}}}\n")
    given = {"cores": -1, "instances": 3, "keypairs": -1}
    assert fields(found, "project", "dev") == {"description": "", "limits": {**NOVA_LIMITS, **given}}
    assert fields(found, "project", "lab") == {"description": "x", "limits": NOVA_LIMITS}


def test_faults_of_several_files_are_told_together(tmp_path: Path) -> None:
    error = refused(tmp_path, a="hosts: {kvm1: {}}\n", b="flavours: {}\n")
    told = [f"{tmp_path}/a.yaml:1: hosts.kvm1.address: is missing", f"{tmp_path}/b.yaml:1: flavours: is not"]
    assert all(each in error.message for each in told) and len(error.targets) == 2


def test_no_inventory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no inventory$") as caught:
        load_inventory(tmp_path / "none")
    assert "$NOVACTL_INVENTORY" in caught.value.hint
    with pytest.raises(UsageError, match=r"holds no \*.yaml files$"):
        load_inventory(tmp_path)
