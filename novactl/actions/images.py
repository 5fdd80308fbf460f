"""image add, set, delete."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from novactl.actions.steps.images import swept
from novactl.actions.world import World
from novactl.db import catalogue
from novactl.db.session import Tx
from novactl.errors import ImageRefused, NotFound, Refused, UsageError
from novactl.objects.image import FORMATS, Image
from novactl.objects.names import SHA256, check_name, check_pattern, check_text
from novactl.virt.domain import check_properties

MAX_DOWNLOAD = 64 << 30  # bytes


class FileStore(Protocol):
    """images.store.LocalStore."""

    def path(self, sha256: str) -> Path: ...
    def add(
        self, source: Path, *, declared: str | None, expected_sha256: str | None, progress: Any
    ) -> Any: ...
    def incoming(self, key: str) -> AbstractContextManager[Any]: ...
    def add_blob(self, source: Path) -> tuple[str, int]: ...
    def has(self, sha256: str) -> bool: ...
    def delete(self, sha256: str) -> None: ...
    def keep(self, sums: Iterable[str]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """`novactl image add`, of a `file` or a `url`. `replacing`: one of that name goes when this one comes;
    instances keep theirs. `allow_private`: the URL's own host may have an address that is not public."""

    name: str
    file: Path | None = None
    url: str | None = None
    max_size: int = MAX_DOWNLOAD
    allow_private: bool = False
    disk_format: str | None = None
    sha256: str | None = None
    properties: dict[str, str]
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    min_disk_gib: int = 0
    min_memory_mib: int = 0
    kernel_sha256: str | None = None
    initrd_sha256: str | None = None
    replacing: bool = False


def add(world: World, store: FileStore, request: ImageRequest, progress: Callable[[int, int], None]) -> Image:
    """The file is inspected, hashed and in the store; the image is in the catalogue.

    Raises ImageRefused for a file that is not what it must be; then nothing is left behind."""
    _check(request)
    if not request.replacing:
        world.db.read(lambda tx: catalogue.refuse_taken(tx, "image", request.name))
    stored = _taken_in(store, request, progress)
    copied = {stored.sha256}
    try:
        kernel, kernel_size = _blob(store, request.kernel, request.kernel_sha256, copied)
        initrd, initrd_size = _blob(store, request.initrd, request.initrd_sha256, copied)
        image = Image(
            id=world.ids.uuid(),
            name=request.name,
            sha256=stored.sha256,
            disk_format=stored.info.format,
            size_bytes=stored.size_bytes,
            virtual_size_bytes=stored.info.virtual_size_bytes,
            min_disk_gib=request.min_disk_gib,
            min_memory_mib=request.min_memory_mib,
            properties=request.properties,
            locations=(f"file:{store.path(stored.sha256)}",),
            kernel_sha256=kernel,
            kernel_size_bytes=kernel_size,
            initrd_sha256=initrd,
            initrd_size_bytes=initrd_size,
            cmdline=request.cmdline,
            created_at=world.clock.now(),
        )

        def keep(tx: Tx) -> Image | None:
            _check_kept(store, image.name, copied)
            there = request.replacing and any(one.name == image.name for one in catalogue.images(tx))
            old = _take_out(tx, image.name) if there else None
            catalogue.add_image(tx, image)
            return old

        old = world.db.write(keep)
    except BaseException:
        sweep(world, store, copied)
        raise
    if old is not None:
        sweep(world, store, old.sums)
    return image


def _taken_in(store: FileStore, request: ImageRequest, progress: Callable[[int, int], None]) -> Any:
    """The request's file, in the store. A download that was cut or killed goes on where it stood."""
    if request.file is not None:
        return store.add(
            request.file, declared=request.disk_format, expected_sha256=request.sha256, progress=progress
        )
    from novactl.images.addresses import target_of
    from novactl.images.download import Download, download

    assert request.url is not None
    wanted = Download(
        target_of(request.url), request.max_size, request.sha256 is not None, request.allow_private
    )
    key = f"url-{hashlib.sha256(request.url.encode()).hexdigest()[:32]}"
    with store.incoming(key) as coming:
        try:
            size = download(wanted, coming, progress)
            return coming.finish(size, declared=request.disk_format, expected_sha256=request.sha256)
        except (Refused, NotFound):
            coming.discard()
            raise


def _blob(
    store: FileStore, path: Path | None, expected: str | None, copied: set[str]
) -> tuple[str | None, int]:
    """(SHA-256, bytes) of a kernel or initrd that is in the store now, and in `copied`."""
    if path is None:
        return None, 0
    sha256, size = store.add_blob(path)
    copied.add(sha256)
    if expected not in (None, sha256):
        raise ImageRefused(f"{path}: SHA-256 is {sha256}, not {expected}", hint="correct the expected sum")
    return sha256, size


def _check_kept(store: FileStore, name: str, files: set[str]) -> None:
    """Raises Refused when another command's sweep took a file away before the image had its row."""
    if not all(store.has(sha256) for sha256 in files):
        raise Refused(f"image {name}: its file was deleted by another command", hint="try again")


def _check(request: ImageRequest) -> None:
    check_name(request.name, "image name")
    if (request.file is None) == (request.url is None):
        raise UsageError("give --file or --url, one of them")
    if request.max_size <= 0:
        raise UsageError("--max-size is 1 GiB or more")
    if request.disk_format is not None and request.disk_format not in FORMATS:
        raise UsageError(f"--format {request.disk_format!r} is not one of {', '.join(FORMATS)}")
    if request.sha256 is not None:
        check_pattern(request.sha256, SHA256, "--sha256", "64 hex digits in lower case")
    if (request.initrd or request.cmdline) and not request.kernel:
        raise UsageError("--initrd and --cmdline need --kernel")
    if request.cmdline:
        check_text(request.cmdline, "--cmdline", limit=2000)
    check_properties(request.properties)
    if min(request.min_disk_gib, request.min_memory_mib) < 0:
        raise UsageError("--min-disk and --min-memory are 0 or more")


def change(
    world: World,
    name: str,
    *,
    new_name: str | None = None,
    properties: dict[str, str] | None = None,
    min_disk_gib: int | None = None,
    min_memory_mib: int | None = None,
) -> Image:
    """What is given is set; an empty value removes a property. Instances keep their own copy of an image."""
    given = properties or {}
    check_properties({key: value for key, value in given.items() if value})
    if min(min_disk_gib or 0, min_memory_mib or 0) < 0:
        raise UsageError("--min-disk and --min-memory are 0 or more")

    def work(tx: Tx) -> Image:
        image = catalogue.image(tx, name)
        if new_name is not None and new_name != image.name:
            check_name(new_name, "image name")
            catalogue.refuse_taken(tx, "image", new_name)
        image = replace(
            image,
            name=new_name or image.name,
            properties={k: v for k, v in {**image.properties, **given}.items() if v},
            min_disk_gib=image.min_disk_gib if min_disk_gib is None else min_disk_gib,
            min_memory_mib=image.min_memory_mib if min_memory_mib is None else min_memory_mib,
        )
        check_properties(image.properties)
        catalogue.update_image(tx, image)
        return image

    return world.db.write(work)


def delete(world: World, store: FileStore, name: str) -> Image:
    """Out of the catalogue; its files stay in the store while an instance still needs them."""

    image = world.db.write(lambda tx: _take_out(tx, name))
    sweep(world, store, image.sums)
    return image


def _take_out(tx: Tx, name: str) -> Image:
    """Raises Refused while an operation works with it."""
    image = catalogue.image(tx, name)
    held = tx.all("SELECT operation FROM op_locks WHERE kind = 'image' AND id = :id", id=image.id)
    if held:
        raise Refused(f"image {name} is in use by operation {held[0]['operation']}")
    catalogue.remove_image(tx, image.id)
    return image


def sweep(world: World, store: FileStore, files: set[str]) -> None:
    """Remove those files of the store that nothing needs."""
    world.db.write(lambda tx: swept(store, tx, files))  # nobody adds an image of these files meanwhile
