"""Removing images by name or id, with Docker's rules (moby, daemon/images/image_delete.go).

A name goes, and the image with its last one. What the image had alone goes with it: layers, trees, blobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from unionfs.errors import ImageError
from unionfs.image import find, index, names
from unionfs.image.digest import Digest
from unionfs.image.in_use import Broken, in_use
from unionfs.image.names import Reference
from unionfs.image.prune import Pruned, remove_unused
from unionfs.image.store import Store


@dataclass(frozen=True, slots=True)
class User:
    """A container of an image."""

    name: str
    image: Digest
    """The image's id."""
    running: bool
    manifest: str = ""
    """The digest of the image's manifest, by which a broken image is known."""


@dataclass(slots=True)
class Removed:
    """What has gone."""

    untagged: list[Reference] = field(default_factory=list)
    deleted: list[Digest] = field(default_factory=list)
    """Ids of images and layers (ChainIDs)."""
    broken: list[Broken] = field(default_factory=list)
    """Other images, which may need what the image had: that was kept."""


def remove(
    store: Store,
    text: str,
    users: Sequence[User],
    *,
    force: bool = False,
    directories: Iterable[str] = (),
) -> Removed:
    """Remove the name or the image that a user means. The caller holds `Store.pruning`.

    *directories* are in use besides, as for `prune`.

    Raises NotFoundError, and ImageError where the image is in use or has other names; with *force* only where
    a container of it runs.
    """
    image = find.resolve(store, text)
    identifier = find.id_of(store, image)
    # Manifests that have one config are one image, as for Docker.
    same = find.by_id(store, index.images(store), identifier.hex)
    references = [each for one in same for each in (*one.tags, *one.repo_digests)]
    manifests = {one.manifest.digest for one in same}
    using = [user for user in users if user.image == identifier or user.manifest in manifests]
    named = _named(text, references)
    if named is not None:
        _check_name(named, references, using, force=force)
        going = _with_digests(named, references)
        if len(going) < len(references):
            index.remove_names(store, same, going)
            return Removed(going)
    else:
        _check_id(text, references, using, force=force)
    removed = Removed(references, [identifier])
    for one in same:
        index.remove_image(store, one.manifest.id)
    done = Pruned()
    remove_unused(store, in_use(store, directories), done)
    removed.deleted += reversed(done.layers)
    removed.broken = done.broken
    return removed


def _named(text: str, references: Sequence[Reference]) -> Reference | None:
    """The reference that the text is; None: it is an id."""
    try:
        wanted = names.parse(text).tagged()
    except ImageError:
        return None
    for each in references:
        if each == wanted or (
            wanted.digest is not None and (each.name, each.digest) == (wanted.name, wanted.digest)
        ):
            return each
    return None


def _is_single(references: Sequence[Reference]) -> bool:
    """Whether it has one tag at most, and digests of the same repository at most (isSingleReference)."""
    tags = [each for each in references if each.digest is None]
    return len(tags) <= 1 and len({each.name for each in references}) <= 1


def _with_digests(named: Reference, references: Sequence[Reference]) -> list[Reference]:
    """A name; with the last tag of a repository go the digests by which that repository knows the image."""
    if named.digest is not None:
        return [named]
    others = [each for each in references if each.name == named.name and each != named]
    return [named, *others] if all(each.digest is not None for each in others) else [named]


def _check_name(
    named: Reference, references: Sequence[Reference], using: Sequence[User], *, force: bool
) -> None:
    if not using or not _is_single(references):
        return
    _refuse_running(named.familiar, using)
    if not force:
        raise ImageError(
            f"cannot remove {named.familiar}: container {using[0].name} has this image, of which it is"
            " the last name: remove the container, or use -f"
        )


def _check_id(text: str, references: Sequence[Reference], using: Sequence[User], *, force: bool) -> None:
    _refuse_running(text, using)
    if force:
        return
    if using:
        raise ImageError(
            f"cannot remove image {text}: container {using[0].name} has it: remove the container, or use -f"
        )
    if not _is_single(references):
        every = ", ".join(each.familiar for each in references)
        raise ImageError(f"cannot remove image {text}: it has several names ({every[:500]}): use -f")


def _refuse_running(text: str, using: Sequence[User]) -> None:
    for user in using:
        if user.running:
            raise ImageError(
                f"cannot remove {text}: container {user.name}, which is running, has this image: end it first"
            )
