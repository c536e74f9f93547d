"""Which of the images of an index is for a machine. Platforms have Go's names (GOOS, GOARCH), as in OCI."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image.model import Descriptor, Platform

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "armhf": "arm",
    "armel": "arm",
    "loongarch64": "loong64",
    "mips64el": "mips64le",
}
"""Further names (uname(2)'s, Debian's), and what they stand for."""
_ARM = ("v8", "v7", "v6", "v5")


def host() -> Platform:
    """This machine's."""
    machine = os.uname().machine
    if machine.startswith("armv"):
        return Platform("arm", "linux", machine[3:5])
    return _normal(Platform(machine, "linux"))


def parse(text: str) -> Platform:
    """`linux/arm64`, `linux/arm/v7`, `arm/v7` or `arm64`, as for `docker pull --platform`."""
    parts = text.lower().split("/")
    if not all(part and part.replace("-", "").replace("_", "").isalnum() for part in parts) or len(parts) > 3:
        raise OptionError(f"--platform {text}: OS/ARCHITECTURE[/VARIANT] is expected, as in linux/arm64")
    if len(parts) == 1 or parts[0] in ("arm", "arm64", "amd64"):
        parts.insert(0, "linux")
    return _normal(Platform(parts[1], parts[0], parts[2] if len(parts) == 3 else None))


def _normal(platform: Platform) -> Platform:
    """Without further names, and without the variant that every such machine has."""
    architecture = _ARCHITECTURES.get(platform.architecture, platform.architecture)
    variant = platform.variant
    if (architecture, variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        variant = None
    if architecture == "arm":
        variant = "v5" if platform.architecture == "armel" else variant or "v7"
    return Platform(architecture, platform.os, variant)


def choose(manifests: Sequence[Descriptor], wanted: Platform | None, what: str) -> Descriptor:
    """The image for a platform; without one, the best for this machine, which may run those of others, too.

    Raises NotFoundError that names those there are.
    """
    for each in [wanted] if wanted is not None else _accepted(host()):
        for manifest in manifests:
            if manifest.platform is not None and _normal(manifest.platform) == each:
                return manifest
    unnamed = [each for each in manifests if each.platform is None]
    if len(unnamed) == 1:
        return unnamed[0]
    if not manifests:
        raise ImageError(f"{what}: an index of no images")
    there = ", ".join(sorted({str(each.platform) for each in manifests if _is_known(each)})) or "unknown"
    raise NotFoundError(
        f"{what}: there is no image for {wanted or host()}: those there are for {there}: choose by --platform"
    )


def _is_known(manifest: Descriptor) -> bool:
    """Not so of an attestation, which stands among the images for `unknown/unknown`."""
    return manifest.platform is not None and manifest.platform.architecture != "unknown"


def _accepted(machine: Platform) -> Iterator[Platform]:
    """What runs on a machine, the best first (as containerd's platforms.Default has it)."""
    yield machine
    if machine.architecture == "amd64":
        yield Platform("386", machine.os)
    if machine.architecture in ("arm", "arm64"):
        begin = _ARM.index(machine.variant) + 1 if machine.variant in _ARM else 0
        for variant in _ARM[begin:]:
            yield Platform("arm", machine.os, variant)
