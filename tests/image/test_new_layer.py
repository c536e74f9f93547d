"""Layers that are made here: their tree, made while they are written, is what their blob unpacks to."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.overlay.trees import TIME_NS, build, directory
from tests.support.mounts import needs_root
from unionfs.errors import ImageError
from unionfs.image import blobs, layer_blob
from unionfs.image.commit import Above, commit
from unionfs.image.compression import decompressed
from unionfs.image.digest import Digest
from unionfs.image.layer_blob import LayerBlob, new_layer
from unionfs.image.layer_form import LayerForm
from unionfs.image.layer_record import all_layers
from unionfs.image.new_image import About
from unionfs.image.store import Store
from unionfs.image.tar_read import Entry
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_digest import difference
from unionfs.image.unpack import unpack

pytestmark = needs_root

KINDS = ("none", "gzip", "zstd")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(store: Store, entries: list[tuple[Entry, bytes]], compression: str = "gzip") -> LayerBlob:
    with store.in_use(), new_layer(store, compression, [], []) as stream:
        writer = TarWriter(stream.write)
        for entry, data in entries:
            writer.add(entry, [data])
        writer.close()
    assert stream.blob is not None
    return stream.blob


def named(name: bytes, data: bytes = b"") -> tuple[Entry, bytes]:
    return Entry(name, "file", 0o644, 0, 0, TIME_NS, size=len(data)), data


def assert_nothing_left(store: Store) -> None:
    assert list(store.ingest.iterdir()) == []
    assert list(blobs.all_blobs(store)) == []
    assert [*store.trees.iterdir(), *store.layers.iterdir()] == []
    assert {"compress", "unpack"}.isdisjoint(thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_is_what_the_blob_unpacks_to(store: Store, tmp_path: Path, kind: str) -> None:
    upper = build(
        tmp_path / "upper",
        {"plain": "content", "empty": "", "large": "x" * 3_000_000, "d": directory({"a" * 200: "long"})},
    )
    (upper / "sparse").write_bytes(b"begin")
    os.truncate(upper / "sparse", 5_000_000)
    os.chmod(upper / "plain", 0o6751)
    os.chown(upper / "empty", 12, 2_500_000)
    os.chmod(upper / "empty", 0o600)
    os.setxattr(upper / "empty", "user.kind", b"\0binary")
    os.link(upper / "plain", upper / "d/again")
    os.symlink("../plain", upper / "link")
    os.mkfifo(upper / "fifo", 0o640)
    os.mknod(upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.utime(upper / "large", ns=(0, -1_500_000_000))
    os.chmod(upper / "d", 0o1777)
    with store.in_use():
        commit(store, Above([upper]), None, About(), _ignore, compression=kind)
    (layer,) = all_layers(store)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with blobs.open_blob(store, layer.blob, "layer") as file:
        again = unpack(decompressed(file, "layer", 1 << 40), fresh, list, LayerForm.of_process())
    assert difference(layer.path, fresh) is None
    assert (layer.size, layer.record.entries, layer.depends) == (again.size, again.entries, again.depends)
    assert layer.record.blob_size == blobs.path_of(store, layer.blob).stat().st_size


def _ignore(path: bytes, text: str) -> None:
    pass


def test_a_layer_that_is_there_stays(store: Store) -> None:
    first = make(store, [named(b"f", b"content")], "gzip")
    tree = first.layer.path.stat().st_ino
    again = make(store, [named(b"f", b"content")], "zstd")
    assert again.diff_id == first.diff_id
    assert again.descriptor.digest != first.descriptor.digest
    assert again.layer.path.stat().st_ino == tree
    assert blobs.has(store, Digest(first.descriptor.digest))
    assert blobs.has(store, Digest(again.descriptor.digest))
    assert list(store.ingest.iterdir()) == []


def test_layers_of_one_content_share_a_tree(store: Store) -> None:
    first = make(store, [named(b"f")])
    with store.in_use(), new_layer(store, "gzip", [first.diff_id], [first.layer.path]) as stream:
        writer = TarWriter(stream.write)
        writer.add(named(b"f")[0])
        writer.close()
    assert stream.blob is not None
    assert stream.blob.layer.parent == first.layer.chain
    assert stream.blob.layer.path == first.layer.path
    assert list(store.ingest.iterdir()) == []


def test_what_cannot_be_unpacked_stores_nothing(store: Store) -> None:
    with pytest.raises(ImageError, match=r"the new layer: '\.\./f' is refused"):
        make(store, [named(b"../f"), *(named(b"%d" % number, bytes(400_000)) for number in range(40))])
    assert_nothing_left(store)


def test_a_blob_that_cannot_be_written_stores_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: object) -> None:
            pass

        def write(self, block: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(layer_blob, "Compressor", Full)
    with pytest.raises(OSError, match="No space left"):
        make(store, [named(b"%d" % number, bytes(400_000)) for number in range(40)])
    assert_nothing_left(store)


def test_an_error_of_the_writer_stores_nothing(store: Store) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        new_layer(store, "gzip", [], []) as stream,
    ):
        TarWriter(stream.write).add(named(b"empty")[0])
        stream.write(bytes(2_000_000))
        raise RuntimeError("mine")
    assert_nothing_left(store)
