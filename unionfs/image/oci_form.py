"""The manifest of an image in OCI's media types, where it came in others: what skopeo, podman and umoci need.

They look for a name in index.json among OCI's manifests only, and read no config of Docker's type (skopeo:
containers/image, oci/layout; umoci: oci/casext). Config and layers are the same content under either type, so
an image has one id in both forms. Nothing but types is changed: the same manifest always gives the same form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from unionfs.image import blobs
from unionfs.image.digest import digest_of
from unionfs.image.model import OCI_MANIFEST, Descriptor, Index, as_oci, decode, decode_manifest, encode
from unionfs.image.store import Store


def document(content: bytes, media_type: str, what: str) -> dict[str, Any] | None:
    """A manifest, which is described as *media_type*, in OCI's types; None where it has no others.

    Raises ImageError where it is malformed.
    """
    if isinstance(decode_manifest(content, media_type, what), Index):
        return None
    found: dict[str, Any] = decode(content, dict, what)
    is_oci = media_type == OCI_MANIFEST
    if not is_oci:
        found["mediaType"] = OCI_MANIFEST
    for each in (found["config"], *found["layers"]):
        wanted = as_oci(each["mediaType"])
        is_oci = is_oci and wanted == each["mediaType"]
        each["mediaType"] = wanted
    return None if is_oci else found


def of(store: Store, manifest: Descriptor) -> tuple[Descriptor, bytes] | None:
    """The OCI form of a manifest of the store; None where it is that itself. Raises ImageError."""
    what = f"manifest {manifest.digest}"
    found = document(blobs.read_small(store, manifest, what), manifest.media_type, what)
    if found is None:
        return None
    content = encode(found)
    return msgspec.structs.replace(
        manifest, media_type=OCI_MANIFEST, digest=digest_of(content), size=len(content), annotations={}
    ), content


def put(store: Store, manifest: Descriptor) -> Descriptor | None:
    """Have the OCI form of a manifest in the store, as `of` gives it."""
    found = of(store, manifest)
    if found is not None:
        blobs.put_bytes(store, found[1])
    return None if found is None else found[0]
