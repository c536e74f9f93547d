"""Names of images as Docker writes them: `debian` is docker.io/library/debian:latest.

Rules: github.com/distribution/reference, and Docker's normalisation. Knows no network and no store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from unionfs.errors import ImageError
from unionfs.image.digest import Digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MOST = 255
"""The longest name, registry and repository together (NameTotalLengthMax)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name: registry and repository, and a tag or a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Registry and repository: `docker.io/library/debian`."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """The name as Docker shows it: `debian`, `localhost:5000/x`."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        path = self.repository
        official = path.startswith(_OFFICIAL) and "/" not in path[len(_OFFICIAL) :]
        return path[len(_OFFICIAL) :] if official else path

    @property
    def familiar(self) -> str:
        """As Docker shows it, with tag and digest: `debian:12`."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        """The whole name: `docker.io/library/debian:12`."""
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def tagged(self) -> Reference:
        """Itself; with the tag `latest` where it has neither tag nor digest."""
        return self if self.tag is not None or self.digest is not None else replace(self, tag=DEFAULT_TAG)


def parse(text: str) -> Reference:
    """A reference as a user writes it, without a default tag (`Reference.tagged` adds that).

    Raises ImageError that names what is wrong.
    """
    rest, at, digest_text = text.partition("@")
    digest = Digest(digest_text) if at else None
    registry, path = _split_registry(rest)
    path, tag = _split_tag(path)
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = _OFFICIAL + path
    if not _REGISTRY.fullmatch(registry):
        raise ImageError(f"image name {text[:300]!r}: {registry[:100]!r} is not the name of a registry")
    if not _PATH.fullmatch(path):
        lower = ": it must be in lower case" if _PATH.fullmatch(path.lower()) else ""
        raise ImageError(f"image name {text[:300]!r}: {path[:300]!r} is not the name of a repository{lower}")
    if len(registry) + 1 + len(path) > _MOST:
        raise ImageError(f"image name {text[:50]!r}…: longer than {_MOST} characters")
    if tag is not None and not _TAG.fullmatch(tag):
        raise ImageError(f"image name {text[:300]!r}: {tag[:150]!r} is not a tag")
    if digest is None and re.fullmatch(r"[0-9a-f]{64}", rest):
        raise ImageError(f"image name {text!r}: 64 hexadecimal digits are an image's id and not a name")
    return Reference(registry, path, tag, digest)


def _split_registry(text: str) -> tuple[str, str]:
    """The first component is a registry if it has a dot or a colon, is `localhost`, or is in upper case."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return first, rest
    return DEFAULT_REGISTRY, text


def _split_tag(path: str) -> tuple[str, str | None]:
    before, colon, after = path.rpartition(":")
    return (before, after) if colon and "/" not in after else (path, None)
