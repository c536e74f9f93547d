"""index.json: which images there are, and by which names. Never names what is not in the store.

An image is one descriptor of a manifest (of one platform). Its names are entries of their own with the
annotation `org.opencontainers.image.ref.name`, which skopeo, umoci and podman read: the whole name
(`docker.io/library/debian:12`). An image whose last name has gone to another stays, as in Docker, without a
name. Readers take no lock: the file is replaced whole.

Where the manifest has other media types than OCI's, which those programs do not read, its names are at its
OCI form (`oci_form.py`), with the annotation `io.pyunionfs.came-as`, and the manifest is listed without one.
Only `as_came` and `_listed` know of it: for all others the image is the manifest as it came.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from unionfs.errors import ImageError
from unionfs.image import blobs, names, oci_form
from unionfs.image.digest import Digest
from unionfs.image.model import DOCKER_MANIFEST, OCI_INDEX, Descriptor, Index, decode, encode
from unionfs.image.store import Store

REF_NAME = "org.opencontainers.image.ref.name"
REPO_DIGESTS = "io.pyunionfs.repo-digests"
"""`NAME@DIGEST`s by which registries know the image, with spaces between; an index's where it came by one."""
PARENT = "io.pyunionfs.parent"
"""The id of the image on which this one was committed, here or where it was saved with that."""
TAGGED = "io.pyunionfs.tagged"
"""When the entry's name was given, by RFC 3339 (UTC)."""
CAME_AS = "io.pyunionfs.came-as"
"""At an OCI form: the digest of the manifest that it is the form of, and that the image has."""


@dataclass(slots=True)
class Image:
    """One image of the store: its manifest, its tags, the digests of registries, and its parent."""

    manifest: Descriptor
    tags: list[names.Reference] = field(default_factory=list)
    repo_digests: list[names.Reference] = field(default_factory=list)
    tagged: str | None = None
    """When it got its latest tag, by RFC 3339 (UTC)."""
    parent: str | None = None
    """The id of the image on which it was committed, whether that is still in the store or not."""

    @property
    def shown(self) -> str:
        """Its first name, else the digest of its manifest: commands take either."""
        return next((each.familiar for each in (*self.tags, *self.repo_digests)), self.manifest.digest)


def read(store: Store) -> list[Descriptor]:
    """The entries. A descriptor whose annotations name it, or one without a name."""
    return as_came(_read(store))


def as_came(entries: Sequence[Descriptor]) -> list[Descriptor]:
    """Entries of an index.json, and for OCI forms the manifests as they came.

    A form whose manifest another program has removed from the list is an image by itself.
    """
    originals = {each.digest: each for each in entries if CAME_AS not in each.annotations}
    found = []
    for each in entries:
        annotations = {key: value for key, value in each.annotations.items() if key != CAME_AS}
        original = originals.get(each.annotations.get(CAME_AS, ""), each)
        found.append(_annotated(original, annotations))
    return found


def oci_forms(store: Store) -> dict[str, Descriptor]:
    """The OCI forms that are listed, by the digests of the manifests."""
    found = {each.annotations.get(CAME_AS): _plain(each) for each in _read(store)}
    return {digest: form for digest, form in found.items() if digest is not None}


def _read(store: Store) -> list[Descriptor]:
    try:
        content = store.index.read_bytes()
    except FileNotFoundError:
        return []
    return decode(content, Index, str(store.index)).manifests


def images(store: Store) -> list[Image]:
    """Each image once, with all its names, in the order in which they came."""
    found: dict[str, Image] = {}
    for entry in read(store):
        image = found.setdefault(entry.digest, Image(_plain(entry)))
        name = entry.annotations.get(REF_NAME)
        if name:
            image.tags.append(names.parse(name))
            image.tagged = max(filter(None, (image.tagged, entry.annotations.get(TAGGED))), default=None)
        image.parent = image.parent or entry.annotations.get(PARENT)
        for each in entry.annotations.get(REPO_DIGESTS, "").split():
            reference = names.parse(each)
            if reference not in image.repo_digests:
                image.repo_digests.append(reference)
    return list(found.values())


def add(
    store: Store,
    manifest: Descriptor,
    tag: names.Reference | None = None,
    repo_digest: names.Reference | None = None,
    *,
    parent: str | None = None,
) -> None:
    """Name an image, taking the name from the image that has it; or add it without a name.

    *parent* is as of `Image`; None leaves it as it is.

    The caller holds `Store.in_use`, and everything that the manifest leads to is in the store.
    """
    with store.index_lock():
        entries = read(store)
        digests = [repo_digest] if repo_digest is not None else []
        for image in images(store):
            if image.manifest.digest == manifest.digest:
                digests = [*image.repo_digests, *(each for each in digests if each not in image.repo_digests)]
                parent = parent or image.parent
        known = {REPO_DIGESTS: " ".join(f"{each.name}@{each.digest}" for each in digests)} if digests else {}
        if parent is not None:
            known[PARENT] = parent
        changed = []
        for entry in entries:
            is_same = entry.digest == manifest.digest
            if tag is not None and entry.annotations.get(REF_NAME) == str(tag):
                if not is_same:
                    changed.append(_without_name(entry))
                continue
            # On each of its entries: names go one by one.
            changed.append(_annotated(entry, {**entry.annotations, **known}) if is_same else entry)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        extra = {REF_NAME: str(tag), TAGGED: now} if tag is not None else {}
        changed.append(_annotated(manifest, {**extra, **known}))
        _write(store, changed, manifest.digest)


def remove_names(store: Store, images: Sequence[Image], going: Collection[names.Reference]) -> None:
    """Take tags and registries' digests from images, which stay."""
    digests = {each.manifest.digest: [d for d in each.repo_digests if d not in going] for each in images}
    tags = {str(each) for each in going}
    with store.index_lock():
        changed = []
        for entry in read(store):
            if entry.digest in digests:
                if entry.annotations.get(REF_NAME) in tags:
                    entry = _without_name(entry)
                entry = _with_digests(entry, digests[entry.digest])
            changed.append(entry)
        _write(store, changed)


def remove_image(store: Store, digest: Digest) -> None:
    """Remove every entry of an image."""
    with store.index_lock():
        _write(store, [each for each in read(store) if each.digest != digest])


def _write(store: Store, entries: list[Descriptor], added: str = "") -> None:
    """An entry without a name is there only for an image that has none, or beside its OCI form.

    *added* is the digest of an image of which it is not known yet whether it has such a form.
    """
    named = {each.digest: each for each in entries if REF_NAME in each.annotations}
    kept: list[Descriptor] = []
    for each in entries:
        unnamed = REF_NAME not in each.annotations
        if unnamed and (each.digest in named or any(each.digest == other.digest for other in kept)):
            continue
        kept.append(each)
    forms = oci_forms(store)
    for digest, each in named.items():
        is_there = digest in forms and blobs.has(store, forms[digest].id)
        if not is_there and (each.media_type == DOCKER_MANIFEST or digest in forms or digest == added):
            # One whose manifest is lost stays in the list as it is: `verify` tells of it.
            with suppress(ImageError):
                form = oci_form.put(store, _plain(each))
                if form is not None:
                    forms[digest] = form
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": _listed(kept, forms),
    }
    store.write(store.index, msgspec.json.format(encode(document)))


def _listed(entries: Sequence[Descriptor], forms: Mapping[str, Descriptor]) -> list[Descriptor]:
    """The entries as they stand in index.json."""
    found: list[Descriptor] = []
    originals: set[str] = set()
    for each in entries:
        form = forms.get(each.digest)
        if form is None or REF_NAME not in each.annotations:
            found.append(each)
            continue
        if each.digest not in originals:
            originals.add(each.digest)
            found.append(_without_name(each))
        found.append(_annotated(form, {**each.annotations, CAME_AS: each.digest}))
    return found


def _plain(entry: Descriptor) -> Descriptor:
    return _annotated(entry, {})


def _with_digests(entry: Descriptor, digests: Sequence[names.Reference]) -> Descriptor:
    rest = {key: value for key, value in entry.annotations.items() if key != REPO_DIGESTS}
    text = " ".join(f"{each.name}@{each.digest}" for each in digests)
    return _annotated(entry, rest | ({REPO_DIGESTS: text} if text else {}))


def _without_name(entry: Descriptor) -> Descriptor:
    gone = (REF_NAME, TAGGED)
    return _annotated(entry, {key: value for key, value in entry.annotations.items() if key not in gone})


def _annotated(entry: Descriptor, annotations: dict[str, str]) -> Descriptor:
    """The same content with annotations of the index's own, and those of others kept out of it."""
    return msgspec.structs.replace(entry, annotations=annotations)
