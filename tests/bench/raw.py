"""The raw equivalent: what an operator's own script does with libvirt-python, ssh and nothing else.

    python raw.py boot|delete JOB.json [--transport paramiko|ssh] [--libvirt shared|own] [--files each|once]

It is started afresh for each measurement, as a user's script is. It imports nothing of novactl, keeps no
database, checks nothing, and everything that can be prepared is prepared in the job file: domain XML
(novactl's own, with other uuid, paths, MAC and tap), the config drive's bytes, names and sizes.

boot, for N guests:
  1. libvirt.open(qemu+ssh://HOST/system) through novactl's generated ssh_config: same keys, same pinned host
     key, but no ControlMaster, since novactl uses none for this either;
  2. a second connection for files, opened at the same time as the first (paramiko, or the ssh binary);
  3. one command on the host: mkdir, console.log, `qemu-img create` of an overlay on the cached base file, and
     the config drive from stdin;
  4. defineXML and create() (start).
With N > 1, steps 3 and 4 run in one thread for each guest. delete: destroy, undefine and `rm -rf` likewise.

Where scripts may differ, the benchmark tries each way and compares novactl with the fastest:
  --transport  paramiko: a connection and one exec a command; ssh: the ssh binary, once a command
  --libvirt    shared: one libvirt connection for all threads; own: one for each
  --files      each: a command for each guest; once: one command for the files of all guests, before
               (delete: after) the threads
What it leaves out, and novactl does within the measured time: claim and journal (a synced commit before and
after each step), a look at the host, the base files' checks, epoch fencing and sync on the host, --validate,
making the config drive.
"""

import argparse
import json
import shlex
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BOOT = """\
set -e
cd "$1"; base=$2; size=$3; shift 3
first=$1
for uuid in "$@"; do
    mkdir -m 0711 "$uuid"
    : >"$uuid/console.log"
    qemu-img create -q -f qcow2 -F raw -b "../_base/$base" "$uuid/disk" "$size"
done
cat >"$first/disk.config"
for uuid in "$@"; do [ "$uuid" = "$first" ] || cp "$first/disk.config" "$uuid/disk.config"; done
"""
DELETE = 'cd "$1"; shift; rm -rf -- "$@"\n'

Command = Callable[[list[str], bytes], None]


def paramiko_commands(job: dict) -> Command:
    import paramiko

    config = paramiko.SSHConfig.from_path(job["ssh_config"]).lookup(job["host"])
    client = paramiko.SSHClient()
    client.load_host_keys(job["known_hosts"])
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        config["hostname"],
        port=int(config.get("port", 22)),
        username=config["user"],
        key_filename=config["identityfile"],
        allow_agent=False,
        look_for_keys=False,
    )

    def run(argv: list[str], data: bytes) -> None:
        channel = client.get_transport().open_session()
        channel.exec_command(shlex.join(argv))
        channel.sendall(data)
        channel.shutdown_write()
        status = channel.recv_exit_status()
        assert status == 0, channel.recv_stderr(9999)

    return run


def ssh_commands(job: dict) -> Command:
    def run(argv: list[str], data: bytes) -> None:
        subprocess.run([job["wrapper"], job["host"], shlex.join(argv)], input=data, check=True)

    return run


class Script:
    def __init__(self, job: dict, transport: str, libvirt_connections: str) -> None:
        import libvirt

        self.job = job
        self.libvirt = libvirt
        self.own = libvirt_connections == "own"
        self.local = threading.local()
        with ThreadPoolExecutor(2) as pool:
            shared = pool.submit(self.open)
            commands = pool.submit(paramiko_commands if transport == "paramiko" else ssh_commands, job)
            self.shared, self.command = shared.result(), commands.result()
        self.first_user = threading.Lock()

    def open(self) -> object:
        return self.libvirt.open(self.job["uri"])

    def connection(self) -> object:
        if not self.own:
            return self.shared
        if not hasattr(self.local, "connection"):
            first = self.first_user.acquire(blocking=False)
            self.local.connection = self.shared if first else self.open()
        return self.local.connection

    def make_files(self, guests: list[dict]) -> None:
        job = self.job
        words = [job["instances_path"], job["base"], str(job["size"]), *(guest["uuid"] for guest in guests)]
        self.command(["sh", "-c", BOOT, "raw", *words], Path(job["drive"]).read_bytes())

    def remove_files(self, guests: list[dict]) -> None:
        words = [self.job["instances_path"], *(guest["uuid"] for guest in guests)]
        self.command(["sh", "-c", DELETE, "raw", *words], b"")

    def start(self, guest: dict) -> None:
        self.connection().defineXML(guest["xml"]).create()

    def end(self, guest: dict) -> None:
        domain = self.connection().lookupByUUIDString(guest["uuid"])
        domain.destroy()
        domain.undefineFlags(self.libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("boot", "delete"))
    parser.add_argument("job", type=Path)
    parser.add_argument("--transport", choices=("paramiko", "ssh"), default="paramiko")
    parser.add_argument("--libvirt", choices=("shared", "own"), default="shared")
    parser.add_argument("--files", choices=("each", "once"), default="each")
    asked = parser.parse_args()
    job = json.loads(asked.job.read_text())
    guests = job["guests"]
    script = Script(job, asked.transport, asked.libvirt)

    def boot(guest: dict) -> None:
        if asked.files == "each":
            script.make_files([guest])
        script.start(guest)

    def delete(guest: dict) -> None:
        script.end(guest)
        if asked.files == "each":
            script.remove_files([guest])

    if asked.verb == "boot" and asked.files == "once":
        script.make_files(guests)
    if len(guests) == 1:
        (boot if asked.verb == "boot" else delete)(guests[0])
    else:
        with ThreadPoolExecutor(len(guests)) as pool:
            list(pool.map(boot if asked.verb == "boot" else delete, guests))
    if asked.verb == "delete" and asked.files == "once":
        script.remove_files(guests)


if __name__ == "__main__":
    main()
