"""Blobs that are made here: on disk before they have their place, and their names before the call returns."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.mounts import needs_root
from unionfs.image import blobs, layer_blob
from unionfs.image.digest import digest_of
from unionfs.image.store import Store, sync_filesystem
from unionfs.image.tar_read import Entry
from unionfs.image.tar_write import TarWriter


class Calls:
    """What is synced and renamed, in order, by the last components of the paths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        fsync, rename = os.fsync, os.rename

        def noting_fsync(fd: int) -> None:
            self.names.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")
            fsync(fd)

        def noting_rename(source: Path, target: Path) -> None:
            self.names.append(f"rename {Path(source).name} {Path(target).parent.name}")
            rename(source, target)

        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(os, "rename", noting_rename)


def test_contents_come_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    blobs.put_bytes(store, b"there")
    calls = Calls(monkeypatch)
    contents = [b"one", b"there", b"two"]
    assert blobs.put_all(store, contents) == list(map(digest_of, contents))
    assert calls.names == [*["fsync data", "rename data sha256"] * 2, "fsync sha256"]
    for content in contents:
        path = blobs.path_of(store, digest_of(content))
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == blobs.MODE
    calls.names.clear()
    blobs.put_all(store, contents)
    assert calls.names == []


@needs_root
def test_a_new_layer_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One syncfs(2) for tree and blob; where the layer is there already, the blob has one of its own."""
    store = Store(tmp_path / "store")
    calls = Calls(monkeypatch)

    def noting_sync(path: Path) -> None:
        assert len([*path.glob("layer-*/tree/diff/f")]) == 1
        assert [part.stat().st_size for part in path.glob("new-layer-*/data")] > [0]
        calls.names.append("syncfs")
        sync_filesystem(path)

    def make(compression: str) -> layer_blob.LayerBlob:
        calls.names.clear()
        with store.in_use(), layer_blob.new_layer(store, compression, [], []) as stream:
            writer = TarWriter(stream.write)
            writer.add(Entry(b"f", "file", 0o644, 0, 0, 0))
            writer.close()
        assert stream.blob is not None
        return stream.blob

    monkeypatch.setattr("unionfs.image.layers.sync_filesystem", noting_sync)
    names = ["fsync sha256", "fsync trees", "fsync layers"]
    made = make("gzip")
    assert calls.names == [
        "rename tree " + calls.names[0].split()[-1],
        "syncfs",
        "rename tree trees",
        "rename layer layers",
        "rename data sha256",
        *names,
    ]
    assert stat.S_IMODE(blobs.path_of(store, made.descriptor.id).stat().st_mode) == blobs.MODE
    make("zstd")
    assert calls.names == ["fsync data", "rename data sha256", *names]
