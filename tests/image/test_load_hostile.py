"""Archives from strangers: each is refused by one line, and nothing of it is stored."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import TarEntry, digest, encode, file, hard_link, image, symlink, tar, write_layout
from testing.images.archives import archive, docker_old, oci
from testing.images.layout import OCI
from tests.image.test_load import load, loaded_by_pipe, opened
from unionfs.errors import ImageError
from unionfs.image import archive as archives
from unionfs.image import index
from unionfs.image.archive_members import opened as opened_members
from unionfs.image.archive_read import images
from unionfs.image.store import Store

MADE = image([[file("a", b"content")]], {"Cmd": ["a"]})
OF = {"a:1": MADE}
CONFIG = f"{MADE.id[7:]}.json"
BLOB = digest(MADE.blobs[0])
MANIFEST = msgspec.json.decode(MADE.manifest)


def without(entries: list[TarEntry], *names: str) -> list[TarEntry]:
    return [entry for entry in entries if entry.name not in names]


def docker(*entries: TarEntry, manifest: Any = None, **fields: Any) -> bytes:
    """A Docker archive with another manifest.json, or fields of it, or further entries."""
    found = docker_old(OF)
    for entry in found:
        if entry.name == "manifest.json" and manifest is None:
            manifest = [msgspec.json.decode(entry.content)[0] | fields]
    return tar([*without(found, "manifest.json"), file("manifest.json", encode(manifest)), *entries])


def layout(*entries: TarEntry, gone: tuple[str, ...] = (), index: Any = None) -> bytes:
    """An OCI archive with another index, without some members, or with further ones."""
    found = without(oci(OF), *gone)
    if index is not None:
        found = [*without(found, "index.json"), file("index.json", encode(index))]
    return tar([*found, *entries])


def of_manifest(
    changed: bytes | dict[str, Any], media_type: str = MADE.media_type, **descriptor: Any
) -> bytes:
    """An OCI archive whose index leads to this manifest, described rightly but for *descriptor*."""
    content = changed if isinstance(changed, bytes) else encode(changed)
    described = {"mediaType": media_type, "digest": digest(content), "size": len(content)} | descriptor
    where = f"blobs/sha256/{digest(content)[7:]}"
    return layout(file(where, content), index={"schemaVersion": 2, "manifests": [described]})


def index_of_itself() -> bytes:
    """No document can have its own digest in it: what claims that has a wrong one."""
    described = {"mediaType": f"{OCI}.index.v1+json", "digest": digest(b"x"), "size": 200}
    content = encode({"schemaVersion": 2, "manifests": [described]})
    content += b" " * (200 - len(content))
    entry = file(f"blobs/sha256/{digest(b'x')[7:]}", content)
    return layout(entry, index={"schemaVersion": 2, "manifests": [described]})


def deep_index(depth: int = 20) -> bytes:
    described = MADE.descriptor
    entries = []
    for _ in range(depth):
        content = encode({"schemaVersion": 2, "manifests": [described]})
        entries.append(file(f"blobs/sha256/{digest(content)[7:]}", content))
        described = {"mediaType": f"{OCI}.index.v1+json", "digest": digest(content), "size": len(content)}
    return layout(*entries, index={"schemaVersion": 2, "manifests": [described]})


def with_layer(**changed: Any) -> bytes:
    return of_manifest(MANIFEST | {"layers": [MANIFEST["layers"][0] | changed]})


def huge_header(name: str = "huge") -> bytes:
    """A header that announces 2^62 bytes, and no more."""
    header = bytearray(tar([file(name)], end=False))
    header[124:136] = b"\x80" + bytes(3) + struct.pack(">Q", 1 << 62)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


GOOD = archive(OF, "oci")

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "neither an OCI layout nor a Docker archive"),
    "an empty tar": (lambda: tar([]), "neither an OCI layout nor a Docker archive"),
    "a root filesystem": (lambda: tar([file("etc/passwd")]), "`pyunionfs import`"),
    "no tar": (lambda: b"text" * 1000, "malformed tar"),
    "an old Docker's": (lambda: tar([file("repositories", b"{}")]), "older than 1.10"),
    "cut in a header": (lambda: GOOD[:700], "truncated"),
    "cut in a blob": (lambda: tar([file("blobs/sha256/x", bytes(5000))])[:2000], "truncated"),
    "cut gzip": (lambda: gzip.compress(GOOD)[:-10], "truncated"),
    "a size of exabytes": (lambda: huge_header() + bytes(5000), "at most"),
    "something behind its end": (lambda: GOOD + b"more", "follows its end"),
    "an absolute name": (lambda: layout(file("/etc/passwd")), "leads outside"),
    "a name with ..": (lambda: layout(file("blobs/../../x")), "leads outside"),
    "a link to outside": (
        lambda: layout(symlink("index.json", "../../etc/passwd"), gone=("index.json",)),
        "neither an OCI layout",
    ),
    "an absolute link": (
        lambda: layout(symlink("oci-layout", "/etc/passwd"), gone=("oci-layout",)),
        "no oci-layout",
    ),
    "a link to itself": (
        lambda: layout(symlink("oci-layout", "oci-layout"), gone=("oci-layout",)),
        "no oci-layout",
    ),
    "a circle of hard links": (
        lambda: layout(hard_link("oci-layout", "x"), hard_link("x", "oci-layout"), gone=("oci-layout",)),
        "no oci-layout",
    ),
    "no version": (lambda: layout(gone=("oci-layout",)), "no oci-layout"),
    "another version": (
        lambda: layout(file("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'), gone=("oci-layout",)),
        "version '2.0.0'",
    ),
    "an index that is no JSON": (lambda: layout(file("index.json", b"{")), "malformed"),
    "an index of nothing": (lambda: layout(index={"schemaVersion": 2, "manifests": []}), "no images"),
    "an index that is a manifest": (lambda: layout(file("index.json", MADE.manifest)), "no index"),
    "a manifest and an index in one": (
        lambda: of_manifest(MANIFEST | {"manifests": []}),
        "both layers and manifests",
    ),
    "an index of itself": (index_of_itself, "expected digest"),
    "indexes 20 deep": (deep_index, "in an index of an index"),
    "schema 1": (
        lambda: of_manifest({"schemaVersion": 1, "name": "a", "fsLayers": []}),
        "schema version 1",
    ),
    "a missing manifest": (lambda: layout(gone=(f"blobs/sha256/{MADE.digest[7:]}",)), "there is no"),
    "a missing config": (lambda: layout(gone=(f"blobs/sha256/{MADE.id[7:]}",)), "there is no"),
    "a missing layer": (lambda: layout(gone=(f"blobs/sha256/{BLOB[7:]}",)), f"{BLOB} is missing"),
    "a manifest of another digest": (
        lambda: layout(file(f"blobs/sha256/{MADE.digest[7:]}", MADE.manifest[:-1] + b" ")),
        "expected digest",
    ),
    "a manifest of another size": (lambda: of_manifest(MANIFEST, size=3), "where its descriptor says 3"),
    "a layer of another content": (
        lambda: layout(file(f"blobs/sha256/{BLOB[7:]}", MADE.blobs[0][:-1] + b"x")),
        "expected digest",
    ),
    "a layer of another size": (lambda: with_layer(size=7), "where its descriptor says 7"),
    "a layer of another DiffID": (
        lambda: of_manifest(
            MANIFEST | {"layers": [MANIFEST["layers"][0] | {"digest": MADE.id, "size": len(MADE.config)}]}
        ),
        "layer",
    ),
    "a layer that is no layer": (lambda: with_layer(mediaType="text/plain"), "no layer of a filesystem"),
    "a layer of negative size": (lambda: with_layer(size=-1), "size of -1"),
    "a digest that is a path": (lambda: with_layer(digest="sha256:../../../etc/passwd"), "not a digest"),
    "fewer layers than DiffIDs": (lambda: of_manifest(MANIFEST | {"layers": []}), "names 1 layers"),
    "an artifact": (
        lambda: of_manifest(MANIFEST | {"config": MANIFEST["config"] | {"mediaType": "text/x"}}),
        "an artifact",
    ),
    "a config of 9 MiB": (
        lambda: docker(file(CONFIG, b" " * (9 << 20))),
        "where at most 8388608 are read",
    ),
    "manifest.json of 9 MiB": (lambda: tar([file("manifest.json", b" " * (9 << 20))]), "at most 8388608"),
    "manifest.json that is no list": (lambda: docker(manifest={}), "malformed"),
    "manifest.json of nothing": (lambda: docker(manifest=[]), "no images"),
    "a config outside": (lambda: docker(Config="../../../../etc/passwd"), "there is no"),
    "a config by an absolute path": (lambda: docker(Config="/etc/passwd"), "there is no"),
    "a layer outside": (lambda: docker(Layers=["../../../../etc/passwd"]), "is missing"),
    "a layer that is a directory": (lambda: docker(Layers=["."]), "is missing"),
    "too few layers": (lambda: docker(Layers=[]), "names 1 layers"),
    "too many layers": (lambda: docker(Layers=["a", "b"]), "names 1 layers"),
    "a tag that is none": (lambda: docker(RepoTags=["A B"]), "image name"),
    "a layer of another DiffID (Docker)": (
        lambda: docker(file("other", tar([file("b")])), Layers=["other"]),
        "expected digest",
    ),
    "a layer that is no tar (Docker)": (
        lambda: docker(file("other", b"x" * 2000), Layers=["other"]),
        "expected digest",
    ),
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def content_of(store: Store) -> list[str]:
    """What is in the store, without its empty folders and its locks."""
    kept = {"lock", "index.lock", "oci-layout"}
    return [
        str(path.relative_to(store.root))
        for path in store.root.rglob("*")
        if path.is_file() and path.name not in kept
    ]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("how", ["file", "pipe"])
def test_is_refused_and_nothing_is_stored(store: Store, kind: str, how: str) -> None:
    make, about = HOSTILE[kind]
    content = make()
    with pytest.raises(ImageError) as caught:
        (load if how == "file" else loaded_by_pipe)(store, content)
    message = str(caught.value)
    assert about in message
    assert "\n" not in message
    assert len(message) < 800
    assert content_of(store) == []
    assert [*store.layers.iterdir()] == [*store.trees.iterdir()] == [*store.ingest.iterdir()] == []


def test_one_bad_image_keeps_the_good_one_out(store: Store) -> None:
    bad = image([[file("b")]])
    entries = oci({"good:1": MADE, "bad:1": bad})
    blob = f"blobs/sha256/{digest(bad.blobs[0])[7:]}"
    entries = [*without(entries, blob), file(blob, bad.blobs[0][:-1] + b"x")]
    with pytest.raises(ImageError, match="expected digest"):
        load(store, tar(entries))
    assert index.images(store) == []


def test_of_duplicate_entries_the_last_counts(store: Store) -> None:
    other = file("index.json", encode({"schemaVersion": 2, "manifests": []}))
    assert load(store, tar([other, file("oci-layout", b"?"), *oci(OF)]))[0].id == MADE.id


def test_a_layer_that_is_too_large(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archive({"zeros:1": image([[file("zeros", bytes(3 << 20))]])}, "oci"))
    with opened(path) as fd, pytest.raises(ImageError, match="--max-layer-size"):
        archives.load(store, fd, "archive", max_layer_size=1 << 20)
    assert content_of(store) == []


def test_a_bomb_around_the_archive(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    many = tar([file(f"{number}", bytes(1 << 20)) for number in range(8)])
    path.write_bytes(gzip.compress(many))
    with opened(path) as fd, pytest.raises(ImageError, match="--max-layer-size"):
        archives.load(store, fd, "archive", max_layer_size=1 << 20)
    assert [*store.ingest.iterdir()] == []


def test_what_is_no_file_in_a_layout_directory_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", OF)
    (layout / "blobs" / "sha256" / BLOB[7:]).unlink()
    os.mkfifo(layout / "blobs" / "sha256" / BLOB[7:])
    with pytest.raises(ImageError, match="is missing"):
        load(store, layout)


def test_a_link_in_an_old_archive_is_followed_inside(store: Store) -> None:
    """And nothing but names of the archive is looked at, however it is written."""
    entries = docker_old(OF)
    layer = next(entry for entry in entries if str(entry.name).endswith("layer.tar"))
    moved = [
        file("./deep//layer", layer.content),
        symlink(layer.name, "../deep/./x/../link"),
        symlink("deep/link", "layer"),
    ]
    assert load(store, tar([*without(entries, str(layer.name)), *moved]))[0].id == MADE.id


def test_nothing_is_stored_by_looking(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(GOOD)
    with opened(path) as fd, opened_members(store, fd, "archive", 1 << 30) as members:
        assert [found.descriptor.digest for found in images(members, None)] == [MADE.digest]
    assert content_of(store) == []
