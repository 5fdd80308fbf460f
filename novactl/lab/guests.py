"""The guest images of the lab: a tiny one that boots in seconds without hardware help, and a real Debian.

Both are built from the packages of the machine's own apt sources and kept in a cache directory.  An image in
the cache is complete, and was made by this very recipe with the kernel package that apt offers now.
"""

from __future__ import annotations

import fcntl
import functools
import gzip
import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from novactl.lab.errors import LabError

CACHE = Path("/var/cache/novactl-lab")
FILES = Path(__file__).with_name("guest")
TINY_CMDLINE = "console=ttyS0 quiet panic=1 cryptomgr.notests random.trust_cpu=on"
TINY_DISK_SIZE = "16M"
# With options as insmod takes them; whatever a kernel lacks or has built in is left out.
TINY_MODULES = {
    "scsi_mod": "scan=manual",
    "virtio_pci": "",
    "sd_mod": "",
    "sr_mod": "",
    "virtio_blk": "",
    "virtio_scsi": "",
    "ata_piix": "",
    "ahci": "",
    "virtio_net": "",
    "virtio-rng": "",
    "virtio_console": "",
    "virtio_balloon": "",
    "button": "",
    "evdev": "",
    "isofs": "",
    "vfat": "",
    "nls_cp437": "",
    "nls_ascii": "",
    "nls_utf8": "",
}
DEBIAN_SIZE_MIB = 2048
DEBIAN_PACKAGES = (
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "systemd-sysv",
    "udev",
    "dbus",
    "cloud-init",
    "cloud-guest-utils",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "openssh-server",
    "sudo",
)
PARTS_OF = {"agent": ("tiny", "agent")}
EXTLINUX_MBR = Path("/usr/lib/EXTLINUX/mbr.bin")
# No mount and no process of a command run under this outlives its caller, not even one that is killed.
CONTAINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"),
)
MKFS = ("mkfs.ext4", "-q", "-E")
TOOLS = "busybox-static cpio kmod e2fsprogs mmdebstrap extlinux parted qemu-utils"


class GuestImageError(LabError):
    """A guest image could not be built; ``hint`` says what to do about it."""


@dataclass(frozen=True)
class TinyImage:
    """The files of the tiny guest, for a kernel boot: ``disk`` is raw and becomes the root disk."""

    disk: Path
    kernel: Path
    initrd: Path
    cmdline: str


def tiny(cache: Path = CACHE) -> TinyImage:
    """The tiny guest, built on the first call.  Its files are shared: copy the disk, never boot from it."""
    built = _cached(cache, "tiny", _build_tiny)
    return TinyImage(built / "disk.raw", built / "vmlinuz", built / "initrd.gz", TINY_CMDLINE)


def agent(cache: Path = CACHE) -> TinyImage:
    """The tiny guest with qemu-ga, which tells on the console when it freezes and thaws file systems."""
    plain = tiny(cache)
    built = _cached(cache, "agent", lambda work: _build_agent(work, plain))
    return replace(plain, initrd=built / "initrd.gz")


def debian(cache: Path = CACHE) -> Path:
    """A qcow2 disk of this machine's own Debian release with cloud-init and sshd, built on the first call.

    It has no host keys, no machine id and no password: a guest gets its own.  It takes root to build.
    """
    return _cached(cache, "debian", _build_debian) / "debian.qcow2"


@dataclass(frozen=True)
class _Kernel:
    package: str
    version: str


@functools.cache
def _kernel() -> _Kernel:
    """The package with the newest cloud kernel that apt offers."""
    record = _run("apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64")
    found = re.search(r"^Depends:.*?\b(linux-image-\S+-cloud-amd64) \(= (\S+)\)", record, re.MULTILINE)
    if not found:
        raise GuestImageError(
            "apt knows no linux-image-cloud-amd64", hint="run apt-get update on a Debian machine"
        )
    return _Kernel(found[1], found[2])


def _recipe(kind: str) -> str:
    """What the image is made of and how, in one short hash."""
    digest = hashlib.sha256(repr((kind, _kernel())).encode())
    files = (path for part in PARTS_OF.get(kind, (kind,)) for path in (FILES / part).rglob("*"))
    for source in (Path(__file__), *sorted(path for path in files if path.is_file())):
        digest.update(f"{source.relative_to(FILES.parent)}\0".encode() + source.read_bytes())
    return digest.hexdigest()[:12]


def _cached(cache: Path, kind: str, build: Callable[[Path], None]) -> Path:
    """The directory ``build`` filled, once for all callers; it appears complete or not at all."""
    final = cache / f"{kind}-{_recipe(kind)}"
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            return final
        for stale in cache.glob(f".{kind}-*"):
            shutil.rmtree(stale)
        work = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=cache))
        try:
            (work / "image").mkdir()
            build(work)
            (work / "image").rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


def _run(*argv: str, cwd: Path | None = None, stdin: str = "") -> str:
    """The standard output of a command that must succeed."""
    try:
        done = subprocess.run(argv, cwd=cwd, input=stdin, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise GuestImageError(f"{argv[0]} is not installed", hint=f"apt-get install {TOOLS}") from error
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stderr.splitlines()[-20:])
        raise GuestImageError(f"{' '.join(argv[:2])} ended with {error.returncode}:\n{said}") from error
    return done.stdout


def _build_tiny(work: Path) -> None:
    """Kernel, initramfs and disk of the tiny guest, in ``work/image``."""
    image, unpacked = work / "image", work / "unpacked"
    _run("apt-get", "-o", "APT::Sandbox::User=root", "download", _kernel().package, cwd=work)
    _run("dpkg-deb", "--extract", *(str(deb) for deb in work.glob("*.deb")), str(unpacked))
    [kernel] = unpacked.glob("boot/vmlinuz-*")
    shutil.copyfile(kernel, image / "vmlinuz")
    root = work / "root"
    _copy_tree(FILES / "tiny", root, 0o755)
    _copy_busybox(root)
    _copy_modules(unpacked, root)
    for name in ("dev", "proc", "sys", "tmp", "root", "www"):
        (root / name).mkdir()
    _pack(root, image / "initrd.gz")
    _run(*MKFS, "lazy_itable_init=0", "-L", "tinyroot", str(image / "disk.raw"), TINY_DISK_SIZE)


def _build_agent(work: Path, plain: TinyImage) -> None:
    """The initramfs of the tiny guest, and another one behind it with qemu-ga and its libraries."""
    image, unpacked, root = work / "image", work / "unpacked", work / "root"
    _run("apt-get", "-o", "APT::Sandbox::User=root", "download", "qemu-guest-agent", cwd=work)
    _run("dpkg-deb", "--extract", *(str(deb) for deb in work.glob("*.deb")), str(unpacked))
    program = unpacked / "usr/sbin/qemu-ga"
    _copy_tree(FILES / "agent", root, 0o755)
    libraries = re.findall(r"(/\S+) \(0x", _run("ldd", str(program)))
    for path in [program, *map(Path, libraries)]:
        there = root / (path.relative_to(unpacked) if path == program else path.relative_to("/"))
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    _pack(root, image / "more.gz")
    (image / "initrd.gz").write_bytes(plain.initrd.read_bytes() + (image / "more.gz").read_bytes())
    (image / "more.gz").unlink()


def _copy_tree(source: Path, target: Path, mode: int) -> None:
    """A copy that belongs to the caller, every file with ``mode``: an installed wheel promises neither."""
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else mode)


def _copy_busybox(root: Path) -> None:
    for directory in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (root / directory).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if not busybox or b"/ld-linux" in Path(busybox).read_bytes():
        raise GuestImageError("no static busybox", hint="apt-get install busybox-static")
    shutil.copy(busybox, root / "bin/busybox")


def _copy_modules(unpacked: Path, root: Path) -> None:
    """The modules the guest needs, uncompressed, and the file ``order`` of "MODULE OPTIONS" lines."""
    [tree] = unpacked.glob("lib/modules/*")
    _run("depmod", "--basedir", str(unpacked), tree.name)
    target = root / "modules"
    target.mkdir()
    order = []
    for path in _load_order((tree / "modules.dep").read_text().splitlines(), TINY_MODULES):
        content = (tree / path).read_bytes()
        name = _module_name(path)
        (target / f"{name}.ko").write_bytes(lzma.decompress(content) if path.endswith(".xz") else content)
        order.append(f"{name}.ko {TINY_MODULES.get(name, '')}\n")
    (target / "order").write_text("".join(order))


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0]


def _load_order(modules_dep: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules and all they depend on, each after its own dependencies."""
    dependencies = {path: needs.split() for path, _, needs in (line.partition(":") for line in modules_dep)}
    paths = {_module_name(path): path for path in dependencies}
    chosen = [paths[name] for name in wanted if name in paths]
    # depmod lists what a module needs outermost first; a dict keeps the first place of each
    return list(dict.fromkeys(path for top in chosen for path in (*reversed(dependencies[top]), top)))


def _pack(root: Path, initrd: Path) -> None:
    """The tree as an initramfs; gzip boots as fast as none under emulation, xz 0.2 s slower."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    archive = initrd.with_suffix(".cpio")
    _run(
        *("cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", f"--file={archive}"),
        cwd=root,
        stdin="\n".join(names),
    )
    initrd.write_bytes(gzip.compress(archive.read_bytes(), mtime=0))
    archive.unlink()


def _build_debian(work: Path) -> None:
    """The Debian disk, in ``work/image``."""
    root, disk, offset = work / "root", work / "disk.raw", 1 << 20
    _bootstrap(work, root)
    with disk.open("wb") as raw:
        raw.truncate(DEBIAN_SIZE_MIB << 20)
    _run("parted", "-s", str(disk), "mklabel msdos", "mkpart primary ext4 1MiB 100%", "set 1 boot on")
    with disk.open("r+b") as raw:
        raw.write(EXTLINUX_MBR.read_bytes())
    # extlinux does not read file systems with 64-bit block numbers
    options = (f"lazy_itable_init=0,offset={offset}", "-O", "^64bit", "-L", "root", "-d", str(root))
    _run(*MKFS, *options, str(disk), f"{DEBIAN_SIZE_MIB - 1}M")
    mount = work / "mount"
    mount.mkdir()
    _run(*CONTAINED, "sh", str(FILES / "debian/install-boot"), str(disk), str(offset), str(mount))
    _run("qemu-img", "convert", "-c", "-O", "qcow2", str(disk), str(work / "image/debian.qcow2"))


def _bootstrap(work: Path, root: Path) -> None:
    """A root file system of this machine's Debian release, from the sources its own apt uses."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    apt = Path("/etc/apt")
    patterns = ("sources.list", "sources.list.d/*.list", "sources.list.d/*.sources")
    sources = [str(path) for pattern in patterns for path in sorted(apt.glob(pattern))]
    if not release or not sources:
        raise GuestImageError("no apt sources of a Debian release", hint="build it on a Debian machine")
    _copy_tree(FILES / "debian/root", work / "overlay", 0o644)
    customize = work / "customize"
    shutil.copyfile(FILES / "debian/customize", customize)
    customize.chmod(0o755)
    _run(
        *CONTAINED,
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
        *(f"--dpkgopt=path-exclude=/usr/share/{waste}/*" for waste in ("doc", "man", "locale")),
        f"--include={','.join(DEBIAN_PACKAGES)}",
        f"--essential-hook=sync-in {work / 'overlay'} /",
        f"--customize-hook={customize}",
        *(release[1], str(root), *sources),
    )
