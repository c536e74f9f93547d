"""One repository of a registry: its manifests, blobs and tags (distribution-spec 1.1, Docker's registry v2).

Content is verified before it is returned; layers, which stream, are verified where they are stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import msgspec

from unionfs.errors import ImageError, NotFoundError
from unionfs.image.digest import Digest, Hasher
from unionfs.image.model import DOCKER_LIST, DOCKER_MANIFEST, MOST_BYTES, OCI_INDEX, OCI_MANIFEST, Descriptor
from unionfs.registry.client import Client
from unionfs.registry.connections import discard, read_small
from unionfs.registry.replies import RegistryError

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
"""Not schema 1: a registry that has nothing else says so."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index as it came."""

    content: bytes
    digest: Digest
    media_type: str | None
    """What the registry says that it is; None where it says nothing of use."""


class Repository:
    """A repository, by a client that others may use at the same time."""

    def __init__(self, client: Client, name: str, access: str = "pull") -> None:
        self.client = client
        self.name = name
        self.scopes: tuple[str, ...] = (f"repository:{name}:{access}",)
        self.full_name = f"{client.registry}/{name}"

    def document(self, reference: str) -> Document:
        """A manifest or an index, by a tag or a digest.

        Raises NotFoundError where there is none of that name, ImageError where it does not have the digest
        that was asked for, or that the registry says.
        """
        what = self._named(reference)
        try:
            response = self.client.request(
                "GET",
                self._path("manifests", reference),
                what=what,
                expected=(200,),
                scopes=self.scopes,
                headers={"Accept": ACCEPT},
            )
        except RegistryError as error:
            if error.status == 404:
                raise NotFoundError(f"{what}: no such image in the registry ({error.said or 404})") from error
            raise
        content = read_small(response, MOST_BYTES, what)
        expected = _digest_of_header(response.headers.get("Docker-Content-Digest"), what)
        if ":" in reference:
            expected = Digest(reference)
        found = _digest(content, expected.algorithm if expected is not None else "sha256")
        if expected is not None and found != expected:
            raise ImageError(f"{what}: expected digest {expected}, got {found}: nothing was stored")
        kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        return Document(content, found, kind if kind and not _is_vague(kind) else None)

    def digest_of(self, tag: str) -> Digest | None:
        """What a tag means now; None where the registry does not say it without sending it all."""
        what = self._named(tag)
        response = self.client.request(
            "HEAD",
            self._path("manifests", tag),
            what=what,
            expected=(200, 404),
            scopes=self.scopes,
            headers={"Accept": ACCEPT},
        )
        discard(response)
        if response.status == 404:
            raise NotFoundError(f"{what}: no such image in the registry (404)")
        return _digest_of_header(response.headers.get("Docker-Content-Digest"), what)

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether a blob is in this repository."""
        response = self.client.request(
            "HEAD",
            self._path("blobs", blob.digest),
            what=self.about(blob),
            expected=(200, 404),
            scopes=self.scopes,
        )
        discard(response)
        return response.status == 200

    def tags(self) -> list[str]:
        """All tags, in the registry's order."""
        path: str | None = self._path("tags", "list") + f"?n={_PAGE}"
        found: dict[str, None] = {}
        seen: set[str] = set()
        while path is not None and path not in seen:
            seen.add(path)
            response = self.client.request(
                "GET", path, what=self.full_name, expected=(200,), scopes=self.scopes
            )
            content = read_small(response, MOST_BYTES, self.full_name)
            try:
                names = msgspec.json.decode(content, type=_Tags).tags or []
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ImageError(f"{self.full_name}: the list of tags is malformed: {error}") from None
            found.update(dict.fromkeys(names))
            path = _next_page(path, response.headers.get("Link"))
        return list(found)

    def put_document(self, reference: str, content: bytes, kind: str, digest: Digest) -> None:
        """Send a manifest or an index, to a tag or its digest."""
        what = self._named(reference)
        response = self.client.request(
            "PUT",
            self._path("manifests", reference),
            what=what,
            expected=(201, 202, 200),
            scopes=self.scopes,
            headers={"Content-Type": kind},
            body=content,
        )
        discard(response)
        found = _digest_of_header(response.headers.get("Docker-Content-Digest"), what)
        if found is not None and found.algorithm == digest.algorithm and found != digest:
            raise ImageError(f"{what}: not what was sent is stored: expected digest {digest}, got {found}")

    def blob_path(self, digest: str) -> str:
        return self._path("blobs", digest)

    def upload_path(self) -> str:
        return f"/v2/{self.name}/blobs/uploads/"

    def about(self, blob: Descriptor) -> str:
        """How messages call a blob."""
        return f"{self.full_name}: blob {blob.digest}"

    def _path(self, kind: str, reference: str) -> str:
        return f"/v2/{self.name}/{kind}/{reference}"

    def _named(self, reference: str) -> str:
        return f"{self.full_name}{'@' if ':' in reference else ':'}{reference}"


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def _digest(content: bytes, algorithm: str) -> Digest:
    hasher = Hasher(algorithm)
    hasher.update(content)
    return hasher.digest()


def _digest_of_header(value: str | None, what: str) -> Digest | None:
    if not value:
        return None
    try:
        return Digest(value)
    except ImageError as error:
        raise ImageError(f"{what}: Docker-Content-Digest: {error}") from None


def _is_vague(kind: str) -> bool:
    """What servers say of JSON whose kind they do not know: the document then says it itself."""
    return kind in ("application/json", "application/octet-stream", "text/plain", "text/html")


def _next_page(path: str, link: str | None) -> str | None:
    """The path of the next page (RFC 8288), on the same registry whatever the link says."""
    found = re.match(r'\s*<([^>]*)>\s*;.*\brel="?next"?', link or "")
    if found is None:
        return None
    target = urlsplit(urljoin(path, str(found[1])))
    return target.path + (f"?{target.query}" if target.query else "")
