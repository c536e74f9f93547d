"""Archives of every form are loaded, from files and pipes; the same images, the same trees."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from testing.images import Image, digest, directory, encode, file, image, tar, whiteout, write_layout
from testing.images.archives import FORMS, archive, oci
from testing.images.layout import OCI
from testing.images.trees import differences, tree
from tests.support.stores import layers_in
from unionfs.errors import NotFoundError
from unionfs.image import archive as archives
from unionfs.image import blobs, find, index, platform
from unionfs.image.archive import Loaded
from unionfs.image.digest import Digest
from unionfs.image.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners")

BASE = [directory("etc"), file("etc/a", b"a" * 3000, uid=1), file("etc/gone", b"x")]
ONE = image([BASE, [file("etc/b", b"b", 0o4755, gid=3), whiteout("etc/gone")]], {"Cmd": ["one"]})
TWO = image([BASE, [file("srv/two", b"content" * 300_000)]], {"Cmd": ["two"]})
BOTH = {"docker.io/library/one:1": ONE, "registry.example:5000/user/two:latest": TWO}
NAMES = ["one:1", "registry.example:5000/user/two:latest"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def load(store: Store, content: bytes | Path, wanted: str | None = None) -> list[Loaded]:
    path = content if isinstance(content, Path) else store.root.parent / "archive"
    if isinstance(content, bytes):
        path.write_bytes(content)
    with opened(path) as fd:
        return archives.load(
            store, fd, "archive", wanted=platform.parse(wanted) if wanted is not None else None
        )


def loaded_by_pipe(store: Store, content: bytes) -> list[Loaded]:
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as sink:
            sink.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return archives.load(store, reading, "pipe")
    finally:
        os.close(reading)
        thread.join()


def tags(loaded: list[Loaded]) -> list[str]:
    return [tag.familiar for each in loaded for tag in each.tags]


def assert_whole(store: Store, made: Image, name: str) -> None:
    """The image has that name, its id, and layers with every attribute; and nothing is left half."""
    found = find.resolve(store, name)
    manifest = find.manifest_of(store, found.manifest)
    assert manifest.config.digest == made.id
    unpacked = layers_in(store, name)
    assert [layer.diff_id for layer in unpacked] == [digest(layer) for layer in made.layers]
    seen = tree(unpacked[0].path)
    assert (seen[b"etc/a"].uid, seen[b"etc/a"].size, seen[b"etc/a"].mtime_ns) == (
        1,
        3000,
        1_700_000_000 * 10**9,
    )
    assert [*store.ingest.iterdir()] == []


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_loaded(store: Store, form: str) -> None:
    loaded = load(store, archive(BOTH, form))
    assert [each.id for each in loaded] == [ONE.id, TWO.id]
    assert tags(loaded) == NAMES
    for name, made in zip(NAMES, (ONE, TWO), strict=True):
        assert_whole(store, made, name)
    seen = tree(layers_in(store, NAMES[0])[1].path)
    assert (seen[b"etc/b"].mode, seen[b"etc/b"].gid) == (0o104755, 3)
    assert seen[b"etc/gone"].device == 0


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "two of bzip2": lambda content: bz2.compress(content[:5000]) + bz2.compress(content[5000:]),
    "padded xz": lambda content: lzma.compress(content[:512]) + bytes(8) + lzma.compress(content[512:]),
}


@pytest.mark.parametrize(
    ("form", "how"), [("docker_old", "plain"), ("docker_old", "gzip"), *(("oci", how) for how in COMPRESSED)]
)
def test_from_a_pipe_and_compressed(store: Store, form: str, how: str) -> None:
    content = COMPRESSED[how](archive(BOTH, form))
    by_pipe = Store(store.root.parent / "by-pipe")
    assert tags(load(store, content)) == tags(loaded_by_pipe(by_pipe, content)) == NAMES
    for each in (store, by_pipe):
        assert_whole(each, ONE, NAMES[0])
    assert store.index.stat().st_size == by_pipe.index.stat().st_size


def test_a_layout_directory(store: Store, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", BOTH)
    assert tags(load(store, layout)) == NAMES
    assert_whole(store, TWO, NAMES[1])
    assert [image.manifest.digest for image in index.images(store)] == [ONE.digest, TWO.digest]
    # The store is such a directory.
    other = Store(tmp_path / "other")
    assert tags(load(other, store.root)) == NAMES
    for name in NAMES:
        one, two = layers_in(store, name), layers_in(other, name)
        for layer, same in zip(one, two, strict=True):
            # A whiteout has no time of its own, and no more has the root of a layer without an entry for it.
            assert differences(tree(layer.path), tree(same.path), ignore=("mtime_ns",)) == []


def test_an_archive_in_the_middle_of_a_file_is_read_from_there(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"before" + archive(BOTH, "oci"))
    with opened(path) as fd:
        os.lseek(fd, 6, os.SEEK_SET)
        assert tags(archives.load(store, fd, "archive")) == NAMES


def test_only_headers_are_read_of_a_tar_whose_blobs_are_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = image([[file("large", b"content" * 300_000)]], compression="none")
    content = archive({"large:1": large}, "oci")
    load(store, content)
    read: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        block = real(fd, size, offset)
        read.append(len(block))
        return block

    monkeypatch.setattr(os, "pread", pread)
    load(store, content)
    assert sum(read) < len(content) // 4


def test_names(store: Store) -> None:
    """As podman takes them; containerd's counts first; what names no image leaves one without a name."""
    entries = oci({"v1": ONE, "": TWO})
    assert tags(load(store, tar(entries))) == ["v1:latest"]
    assert [len(image.tags) for image in index.images(store)] == [1, 0]
    index_json = {
        "schemaVersion": 2,
        "manifests": [
            ONE.descriptor | {"annotations": {"org.opencontainers.image.ref.name": "Not_A_Name:"}},
            TWO.descriptor
            | {
                "annotations": {"io.containerd.image.name": "two:2", "org.opencontainers.image.ref.name": "2"}
            },
            TWO.descriptor | {"annotations": {"org.opencontainers.image.ref.name": "again:1"}},
        ],
    }
    entries = [
        *(each for each in entries if each.name != "index.json"),
        file("index.json", encode(index_json)),
    ]
    other = Store(store.root.parent / "other")
    loaded = load(other, tar(entries))
    assert [(each.id, tags([each])) for each in loaded] == [(ONE.id, []), (TWO.id, ["two:2", "again:1"])]


def several_platforms(
    *, nested: bool, present: tuple[str, ...] = ("amd64", "arm64")
) -> tuple[bytes, dict[str, Image]]:
    made = {arch: image([BASE], {"Cmd": [arch]}, platform=("linux", arch)) for arch in ("amd64", "arm64")}
    described = [
        each.descriptor | {"platform": {"os": "linux", "architecture": arch}} for arch, each in made.items()
    ]
    described.append({**ONE.descriptor, "platform": {"os": "unknown", "architecture": "unknown"}})
    entries = oci({arch: made[arch] for arch in present})[:-2]
    named = {"annotations": {"org.opencontainers.image.ref.name": "multi:1"}}
    if nested:
        inner = encode({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": described})
        entries.append(file(f"blobs/sha256/{digest(inner)[7:]}", inner))
        described = [{"mediaType": f"{OCI}.index.v1+json", "digest": digest(inner), "size": len(inner)}]
    entries += [
        file("index.json", encode({"schemaVersion": 2, "manifests": [each | named for each in described]})),
        file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ]
    return tar(entries), made


@pytest.mark.parametrize("nested", [False, True])
def test_of_several_platforms_one_is_loaded(
    store: Store, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, made = several_platforms(nested=nested)
    monkeypatch.setattr(platform, "host", lambda: platform.parse("linux/arm64"))
    assert [each.id for each in load(store, content)] == [made["arm64"].id]
    assert [each.id for each in load(store, content, "amd64")] == [made["amd64"].id]
    assert find.manifest_of(store, find.resolve(store, "multi:1").manifest).config.digest == made["amd64"].id
    with pytest.raises(NotFoundError, match="no image for linux/s390x"):
        load(store, content, "s390x")


def test_an_index_of_which_one_platform_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    content, made = several_platforms(nested=True, present=("arm64",))
    monkeypatch.setattr(platform, "host", lambda: platform.parse("linux/s390x"))
    assert [each.id for each in load(store, content)] == [made["arm64"].id]


def test_loading_again_changes_nothing(store: Store) -> None:
    load(store, archive(BOTH, "oci"))
    before = {path: path.stat().st_mtime_ns for path in sorted(store.root.rglob("*"))}
    load(store, archive(BOTH, "docker_old"))
    after = {path: path.stat().st_mtime_ns for path in sorted(store.root.rglob("*"))}
    assert set(before) == set(after), "an image that is there has its manifest already"
    assert len(index.images(store)) == 2


def test_blobs_of_layers_that_are_unpacked_from_others_are_stored(store: Store) -> None:
    load(store, archive({"one:1": ONE}, "docker_old"))
    plain = index.images(store)[0].manifest.digest
    load(store, archive({"one:1": ONE}, "oci"))
    assert find.resolve(store, "one:1").manifest.digest == ONE.digest != plain
    for layer in find.manifest_of(store, find.resolve(store, "one:1").manifest).layers:
        assert blobs.has(store, Digest(layer.digest))
    assert find.resolve(store, Digest(ONE.id).short).manifest.digest == ONE.digest, "the one with the name"
