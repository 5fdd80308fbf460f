"""What a flavor's extra specs (hw:…) and an image's properties (hw_…) ask of the hardware.

Names and rules are Nova's, but for hw:cpu_model and hw:cpu_features, which Nova has in a host's configuration
only (cpu_models, cpu_model_extra_flags; whose way of writing features is taken), and for hw:max_vcpus.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from novactl.errors import Refused, UsageError
from novactl.objects.numa import LARGE, NumaRequest

if TYPE_CHECKING:
    from novactl.objects.flavor import Flavor
    from novactl.objects.image import Image

PAGE_WORDS = ("small", "large", "any")
ORDINARY_KIB = 4
"""The size of ordinary pages: asking for it by its size is asking for ordinary memory."""
MAX_NODES = 64
MAX_VCPUS = 255
"""More needs a guest with x2APIC and an IOMMU."""
_PAGES = re.compile(r"([0-9]{1,9})(?:([KMG])(?:i?B)?)?", re.IGNORECASE)
_UNITS = {"K": 1, "M": 1 << 10, "G": 1 << 20}
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class CpuRequest:
    """The processor that a guest sees: a model of libvirt's (None: the host's own), and features of it that
    must be there and that must not."""

    model: str | None = None
    require: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()


# --- one by one ---


def _policy(value: str) -> str:
    if value not in ("shared", "dedicated"):
        raise ValueError("one of shared, dedicated")
    return value


def _pages(value: str) -> int | str:
    """KiB, or the word."""
    if value in PAGE_WORDS:
        return value
    match = _PAGES.fullmatch(value)
    size = int(match[1]) * _UNITS[(match[2] or "K").upper()] if match else 0
    if size < ORDINARY_KIB or size & (size - 1):
        raise ValueError("small, large, any, or a size of pages like 2MB, 1GB or 2048 (KiB)")
    return size


def _nodes(value: str) -> int:
    if not (value.isdecimal() and len(value) <= 3 and 1 <= int(value) <= MAX_NODES):
        raise ValueError(f"a number from 1 to {MAX_NODES}")
    return int(value)


def _max_vcpus(value: str) -> int:
    if not (value.isdecimal() and len(value) <= 3 and 1 <= int(value) <= MAX_VCPUS):
        raise ValueError(f"a number from 1 to {MAX_VCPUS}")
    return int(value)


def _model(value: str) -> str:
    if not _MODEL.fullmatch(value):
        raise ValueError("the name of a model, as virsh cpu-models x86_64 lists them")
    return value


def _features(value: str) -> tuple[frozenset[str], frozenset[str]]:
    """(required, disabled)"""
    signs: dict[str, bool] = {}
    for word in (word.strip() for word in value.split(",")):
        name = word[1:] if word.startswith(("+", "-")) else word
        if not _FEATURE.fullmatch(name) or name in signs:
            raise ValueError("names of features, each once, as in avx2,+aes,-tsx-ctrl")
        signs[name] = not word.startswith("-")
    required = frozenset(name for name, wanted in signs.items() if wanted)
    return required, frozenset(signs) - required


PARSERS: Mapping[str, Callable[[str], object]] = {
    "cpu_policy": _policy,
    "mem_page_size": _pages,
    "numa_nodes": _nodes,
    "cpu_model": _model,
    "cpu_features": _features,
}
"""What stands behind hw: of a flavor, and behind hw_ of an image."""

FLAVOR_PARSERS = {**PARSERS, "max_vcpus": _max_vcpus}
"""What stands behind hw: of a flavor; what is not above is not for an image to ask."""


def _asked(name: str, given: Mapping[str, str], prefix: str, what: str) -> object | None:
    """The value of one of PARSERS, None when it is not given. Raises UsageError."""
    key = f"{prefix}{name}"
    if key not in given:
        return None
    try:
        return FLAVOR_PARSERS[name](given[key])
    except ValueError as error:
        raise UsageError(f"{what} {key}={given[key]!r}: {error}") from error


def _of_flavor(name: str, flavor: "Flavor") -> object | None:
    return _asked(name, flavor.extra_specs, "hw:", "extra spec")


def _of_image(name: str, image: "Image | None") -> object | None:
    return _asked(name, image.properties, "hw_", "image property") if image else None


def check_extra_specs(flavor: "Flavor") -> None:
    """Raises UsageError for a `hw:` that is not known, has no such value, or that the flavor's sizes do not
    allow; for a `trait:` that is neither required nor forbidden. Other namespaces are not looked at here."""
    for key, value in flavor.extra_specs.items():
        if key.startswith("trait:") and value not in ("required", "forbidden"):
            raise UsageError(f"extra spec {key}={value}: required or forbidden")
        if key.startswith("hw:") and key.removeprefix("hw:") not in FLAVOR_PARSERS:
            known = ", ".join(f"hw:{name}" for name in FLAVOR_PARSERS)
            raise UsageError(f"extra spec {key} is not supported", hint=f"there are {known}")
    own = numa_request(flavor, None) is not None
    if max_vcpus(flavor) > flavor.vcpus and own:
        raise UsageError("extra spec hw:max_vcpus: not with processors or memory of its own")
    cpu_request(flavor, None)


def check_image_properties(properties: Mapping[str, str]) -> None:
    """Raises UsageError for one of those above with a value that it cannot have."""
    for name in PARSERS:
        _asked(name, properties, "hw_", "image property")


# --- together ---


def numa_request(flavor: "Flavor", image: "Image | None") -> NumaRequest | None:
    """What they ask of the host's processors and memory; None when any will do. Raises Refused where image
    and flavor contradict each other, as when the image's nodes do not divide the flavor's sizes, UsageError
    for values that make no sense."""
    if not flavor.extra_specs and not (image and image.properties):
        return None  # as most: it is asked of thousands
    pages = _pages_asked(flavor, image)
    dedicated = _policy_asked(flavor, image) == "dedicated"
    nodes = _agreed("numa_nodes", flavor, image)
    if not dedicated and pages is None and nodes is None:
        return None
    count = nodes if isinstance(nodes, int) else 1
    wrong = UsageError if image is None else Refused
    for what, amount in (("vcpus", flavor.vcpus), ("MiB", flavor.memory_mib)):
        if amount % count:
            raise wrong(f"numa_nodes {count}: {amount} {what} cannot be divided evenly")
    memory = flavor.memory_mib // count
    if pages and memory * 1024 % pages:
        raise wrong(f"mem_page_size {pages} KiB: {memory} MiB of a NUMA node are not whole pages")
    return NumaRequest(
        nodes=count,
        vcpus=flavor.vcpus // count,
        memory_mib=memory,
        dedicated=dedicated,
        page_kib=pages,
    )


def _policy_asked(flavor: "Flavor", image: "Image | None") -> object | None:
    ours, theirs = _of_flavor("cpu_policy", flavor), _of_image("cpu_policy", image)
    if image is not None and (ours, theirs) == ("shared", "dedicated"):
        raise Refused(
            f"image {image.name} asks for dedicated processors, flavor {flavor.name} for shared ones",
            hint="choose another flavor",
        )
    return ours or theirs


def _pages_asked(flavor: "Flavor", image: "Image | None") -> int | None:
    """KiB, LARGE, or None for ordinary memory, which `any` is when the image does not say more."""
    ours, theirs = _of_flavor("mem_page_size", flavor), _of_image("mem_page_size", image)
    if image is not None and theirs is not None and ours not in ("large", "any"):
        said = f"has {flavor.extra_specs['hw:mem_page_size']}" if ours else "says nothing of it"
        raise Refused(
            f"image {image.name} asks for a page size, flavor {flavor.name} {said}",
            hint="only a flavor with hw:mem_page_size=large or any leaves it to the image",
        )
    if ours == "large" and theirs in ("any", None):
        return LARGE
    wanted = theirs if theirs is not None else ours
    if wanted == "large":
        return LARGE
    return wanted if isinstance(wanted, int) and wanted > ORDINARY_KIB else None


def _agreed(name: str, flavor: "Flavor", image: "Image | None") -> object | None:
    """What one of them says, or both alike."""
    ours, theirs = _of_flavor(name, flavor), _of_image(name, image)
    if image is not None and None not in (ours, theirs) and ours != theirs:
        raise Refused(
            f"image {image.name} has hw_{name}={image.properties[f'hw_{name}']}, flavor {flavor.name}"
            f" hw:{name}={flavor.extra_specs[f'hw:{name}']}",
            hint="choose another flavor, or another image",
        )
    return ours if ours is not None else theirs


def cpu_request(flavor: "Flavor", image: "Image | None") -> CpuRequest | None:
    """The processor that they ask for; None when the host's own will do. Raises Refused where they contradict
    each other, UsageError for what is no model or feature."""
    model = _agreed("cpu_model", flavor, image)
    require: set[str] = set()
    disable: set[str] = set()
    for found in (_of_flavor("cpu_features", flavor), _of_image("cpu_features", image)):
        if isinstance(found, tuple):
            require |= found[0]
            disable |= found[1]
    if both := sorted(require & disable):
        raise Refused(f"processor feature {both[0]} is required and disabled", hint="see flavor and image")
    if model is None and not require and not disable:
        return None
    return CpuRequest(
        model=str(model) if model is not None else None,
        require=tuple(sorted(require)),
        disable=tuple(sorted(disable)),
    )


def max_vcpus(flavor: "Flavor") -> int:
    """As many processors as its guest may get while it runs. Raises UsageError for fewer than it has."""
    most = _of_flavor("max_vcpus", flavor)
    if not isinstance(most, int):
        return flavor.vcpus
    if most < flavor.vcpus:
        raise UsageError(f"extra spec hw:max_vcpus={most}: flavor {flavor.name} has {flavor.vcpus} vcpus")
    return most


def firmware(image: "Image | None") -> str:
    """bios or uefi."""
    return image.properties.get("hw_firmware_type", "bios") if image else "bios"
