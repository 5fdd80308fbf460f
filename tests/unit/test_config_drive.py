"""The config drive: every reader sees the same files, and the same input gives the same bytes."""

import base64
import ctypes
import ctypes.util
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.errors import UsageError
from novactl.virt.config_drive import Metadata, Nic, build, hostname_for

NIC = Nic(
    id="0f3a7c1e-6f0e-4a55-9d3e-0c1b2a394857",
    device="tap0f3a7c1e-6f",
    mac="fa:16:3e:01:02:03",
    network_id="net-1",
    ip="10.0.0.5",
    prefixlen=20,
    gateway="10.0.0.1",
    dns=("1.1.1.1", "9.9.9.9"),
    mtu=1450,
)
SIX = dataclasses.replace(NIC, ip="2001:db8::5", prefixlen=64, gateway="2001:db8::1", dns=("2001:db8::53",))
METADATA = Metadata(
    uuid="7f3a7c1e-6f0e-4a55-9d3e-0c1b2a394857",
    name="Web 1",
    hostname="web-1",
    availability_zone="nova",
    project_id="p1",
    public_keys={"laptop": "ssh-ed25519 AAAAC3Nz me@laptop"},
    meta={"role": "web"},
    nics=(NIC,),
    user_data=b"#cloud-config\n\xff\0binary too",
    random_seed=bytes(range(64)),
)
BARE = Metadata(
    uuid="u", name="n", hostname="n", availability_zone="nova", project_id="p", public_keys={}, meta={}
)
NAMES = {"meta_data.json", "network_data.json", "vendor_data.json", "vendor_data2.json"}


def read(iso: bytes, facade: str) -> dict[str, bytes]:
    """Every file by path, as pycdlib sees it with `facade`'s names."""
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(iso))
    found = {}
    names = getattr(image, f"get_{facade}_facade")()
    path = {"rock_ridge": "rr_path", "joliet": "joliet_path"}[facade]
    for directory, _, files in names.walk("/"):
        for file in files:
            data = io.BytesIO()
            full = f"{directory.rstrip('/')}/{file}"
            names.get_file_from_iso_fp(data, **{path: full})
            found[full] = data.getvalue()
    return found


def latest(metadata: Metadata, name: str) -> Any:
    return json.loads(read(build(metadata), "rock_ridge")[f"/openstack/latest/{name}"])


@pytest.mark.parametrize("facade", ["rock_ridge", "joliet"])
def test_every_reader_sees_every_file(facade: str) -> None:
    files = read(build(METADATA), facade)
    names = NAMES | {"user_data"}
    assert set(files) == {f"/openstack/{v}/{n}" for v in ("latest", "2018-08-27") for n in names}
    assert files["/openstack/latest/user_data"] == METADATA.user_data
    for name in names:
        assert files[f"/openstack/latest/{name}"] == files[f"/openstack/2018-08-27/{name}"]


@pytest.mark.parametrize("hidden", ["rockridge", "joliet"])
def test_libarchive_reads_it(hidden: str) -> None:
    """A reader that shares no code with the writer, with either kind of names alone."""
    library = ctypes.util.find_library("archive")
    if not library:
        pytest.skip("libarchive is not installed")
    files = libarchive_files(ctypes.CDLL(library), build(METADATA), f"!{hidden}")
    assert files == {path[1:]: data for path, data in read(build(METADATA), "joliet").items()}


def libarchive_files(lib: ctypes.CDLL, iso: bytes, options: str) -> dict[str, bytes]:
    lib.archive_read_new.restype = ctypes.c_void_p
    lib.archive_entry_pathname.restype = ctypes.c_char_p
    reader, entry, found = ctypes.c_void_p(lib.archive_read_new()), ctypes.c_void_p(), {}
    lib.archive_read_support_format_iso9660(reader)
    assert lib.archive_read_set_options(reader, options.encode()) == 0
    assert lib.archive_read_open_memory(reader, iso, ctypes.c_size_t(len(iso))) == 0
    while lib.archive_read_next_header(reader, ctypes.byref(entry)) == 0:
        data = ctypes.create_string_buffer(65536)
        length = lib.archive_read_data(reader, data, ctypes.c_size_t(65536))
        if lib.archive_entry_filetype(entry) == 0o100000:
            found[lib.archive_entry_pathname(entry).decode()] = data.raw[:length]
    lib.archive_read_free(reader)
    return found


@pytest.mark.skipif(not shutil.which("blkid"), reason="blkid is not installed")
def test_label_is_what_cloud_init_looks_for(tmp_path: Path) -> None:
    """cloud-init's ConfigDrive asks blkid for LABEL=config-2."""
    (tmp_path / "disk.config").write_bytes(build(METADATA))
    command = ["blkid", "-p", "-o", "export", str(tmp_path / "disk.config")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "LABEL=config-2" in lines
    assert "TYPE=iso9660" in lines


def test_label_in_both_descriptors() -> None:
    iso = build(METADATA)
    assert iso[16 * 2048 + 40 : 16 * 2048 + 72].decode("ascii").rstrip() == "config-2"
    assert iso[17 * 2048 + 40 : 17 * 2048 + 72].decode("utf-16-be").rstrip() == "config-2"


def test_meta_data() -> None:
    assert latest(METADATA, "meta_data.json") == {
        "uuid": METADATA.uuid,
        "name": "Web 1",
        "hostname": "web-1",
        "launch_index": 0,
        "availability_zone": "nova",
        "project_id": "p1",
        "devices": [],
        "meta": {"role": "web"},
        "public_keys": {"laptop": "ssh-ed25519 AAAAC3Nz me@laptop"},
        "keys": [{"name": "laptop", "type": "ssh", "data": "ssh-ed25519 AAAAC3Nz me@laptop"}],
        "random_seed": base64.b64encode(bytes(range(64))).decode(),
    }


def test_network_data() -> None:
    data = latest(dataclasses.replace(METADATA, nics=(NIC, SIX)), "network_data.json")
    network = {"link": NIC.device, "network_id": "net-1"}
    assert data == {
        "links": [
            {
                "id": "tap0f3a7c1e-6f",
                "vif_id": NIC.id,
                "type": "bridge",
                "mtu": 1450,
                "ethernet_mac_address": "fa:16:3e:01:02:03",
            }
        ],
        "networks": [
            {
                "id": "network0",
                "type": "ipv4",
                "ip_address": "10.0.0.5",
                "netmask": "255.255.240.0",
                "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}],
                **network,
            },
            {
                "id": "network1",
                "type": "ipv6",
                "ip_address": "2001:db8::5",
                "netmask": "ffff:ffff:ffff:ffff::",
                "routes": [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}],
                **network,
            },
        ],
        "services": [
            {"type": "dns", "address": "1.1.1.1"},
            {"type": "dns", "address": "9.9.9.9"},
            {"type": "dns", "address": "2001:db8::53"},
        ],
    }


def test_what_is_absent_is_left_out() -> None:
    files = read(build(BARE), "rock_ridge")
    assert {Path(path).name for path in files} == NAMES
    meta_data = json.loads(files["/openstack/latest/meta_data.json"])
    assert not {"meta", "public_keys", "keys", "random_seed"} & set(meta_data)
    assert latest(BARE, "network_data.json") == {"links": [], "networks": [], "services": []}
    alone = dataclasses.replace(BARE, nics=(dataclasses.replace(NIC, gateway=None, dns=(), mtu=None),))
    network_data = latest(alone, "network_data.json")
    assert network_data["networks"][0]["routes"] == []
    assert network_data["services"] == []
    assert network_data["links"][0]["mtu"] is None


def test_empty_user_data_is_a_file() -> None:
    files = read(build(dataclasses.replace(BARE, user_data=b"")), "rock_ridge")
    assert files["/openstack/latest/user_data"] == b""


@settings(max_examples=40, deadline=None)
@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=4), st.binary(max_size=70_000))
def test_any_text_and_any_user_data_survive(name: str, meta: dict[str, str], user_data: bytes) -> None:
    files = read(build(dataclasses.replace(BARE, name=name, meta=meta, user_data=user_data)), "joliet")
    meta_data = json.loads(files["/openstack/latest/meta_data.json"])
    assert (meta_data["name"], meta_data.get("meta", {})) == (name, meta)
    assert files["/openstack/latest/user_data"] == user_data


def test_unicode_is_stored_literally() -> None:
    assert "日本 é".encode() in build(dataclasses.replace(BARE, name="日本 é"))
    with pytest.raises(UsageError, match="not valid Unicode"):
        build(dataclasses.replace(BARE, name="\udc80"))


def test_same_input_same_bytes_whatever_the_clock_zone_and_hash_seed() -> None:
    metadata = dataclasses.replace(METADATA, meta={"b": "1", "a": "2"})
    here = build(metadata)
    time.sleep(1.1)
    assert build(dataclasses.replace(METADATA, meta={"a": "2", "b": "1"})) == here
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import dataclasses, test_config_drive as t; "
        "sys.stdout.buffer.write(t.build(dataclasses.replace(t.METADATA, meta={'a': '2', 'b': '1'})))"
    )
    roots = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, *roots]
    assert subprocess.run(command, check=True, capture_output=True, env=environment).stdout == here


def test_build_takes_little_time() -> None:
    build(METADATA)  # imports pycdlib

    def seconds() -> float:
        start = time.perf_counter()
        build(METADATA)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.03


def test_pycdlib_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import novactl.virt.config_drive; "
        "print('pycdlib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("web", "web"),
        ("Web_Server 1.example", "web-server-1-example"),
        ("-.web._", "web"),
        ("a\tb", "a-b"),
        ("naïve!", "nave"),
        ("日本", "server"),
        ("", "server"),
        ("x" * 80, "x" * 63),
        ("x" * 62 + "-yz", "x" * 62),
        ("$(reboot)", "reboot"),
    ],
)
def test_hostname_for(name: str, hostname: str) -> None:
    assert hostname_for(name) == hostname


@given(st.text())
def test_hostname_is_always_a_label(name: str) -> None:
    label = hostname_for(name)
    assert 1 <= len(label) <= 63
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert label[0] != "-" != label[-1]


def test_hostname_default() -> None:
    assert hostname_for("日本", "server-7f3a") == "server-7f3a"
