"""The store's blobs, index and locks: whole or not there, verified, and shared by processes."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs, find, index, names
from unionfs.image.digest import Digest, digest_of
from unionfs.image.model import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, encode
from unionfs.image.store import Store, remove_tree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def described(content: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content))


def small_image(store: Store, layer: bytes = b"a layer") -> Descriptor:
    """A manifest whose config and one layer are in the store."""
    config = encode(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    )
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER, "digest": digest_of(layer), "size": len(layer)}],
        }
    )
    for content in (layer, config, manifest):
        blobs.put_bytes(store, content)
    return described(manifest, OCI_MANIFEST)


@pytest.mark.parametrize(
    ("streamed", "about"),
    [
        (b"content", None),
        (b"contenT", "expected digest"),
        (b"conten", "ends after 6 of the 7"),
        (b"content.", "larger"),
    ],
)
def test_a_blob_enters_verified_or_not_at_all(store: Store, streamed: bytes, about: str | None) -> None:
    wanted = described(b"content")
    if about is None:
        blobs.put(store, io.BytesIO(streamed), wanted, "layer")
        assert blobs.path_of(store, wanted.id).read_bytes() == b"content"
    else:
        with pytest.raises(ImageError, match=about):
            blobs.put(store, io.BytesIO(streamed), wanted, "layer")
        assert not blobs.has(store, wanted.id)
    assert [*store.blobs.rglob("data")] == []


def test_a_stream_without_end_is_refused(store: Store) -> None:
    class Endless:
        given = 0

        def read(self, size: int, /) -> bytes:
            self.given += size
            return bytes(size)

    source = Endless()
    with pytest.raises(ImageError, match="larger"):
        blobs.put(store, source, described(bytes(3 << 20)), "layer")
    assert source.given == (3 << 20) + 1


def test_two_that_want_the_same_blob_store_it_once(store: Store) -> None:
    content = os.urandom(1 << 20)
    reads: list[int] = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(1)
            return super().read(size)

    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(blobs.put, store, Counted(content), described(content), "layer") for _ in range(8)
        ]
        assert [each.result() for each in done] == [None] * 8
    assert blobs.path_of(store, digest_of(content)).read_bytes() == content
    assert len(reads) == 2, "one reader: all of it, and the end"
    assert [*store.ingest.iterdir()] == []


def test_a_tag_moves_and_its_former_image_stays_without_a_name(store: Store) -> None:
    first, second = small_image(store, b"one"), small_image(store, b"two")
    tag = names.parse("debian:12")
    index.add(store, first, tag)
    index.add(store, first, names.parse("other:1"))
    index.add(store, second, tag)
    index.add(store, second, names.parse("other:1"))
    assert [(image.manifest.digest, [str(each) for each in image.tags]) for image in index.images(store)] == [
        (first.digest, []),
        (second.digest, ["docker.io/library/debian:12", "docker.io/library/other:1"]),
    ]


def test_a_registrys_digest_is_kept_with_each_name(store: Store) -> None:
    image, digest = small_image(store), names.parse("debian@sha256:" + "a" * 64)
    for tag in ("debian:12", "debian:latest"):
        index.add(store, image, names.parse(tag))
    index.add(store, image, repo_digest=digest)
    index.remove_names(store, index.images(store), [names.parse("debian:latest")])
    (found,) = index.images(store)
    assert (list(map(str, found.tags)), found.repo_digests) == (["docker.io/library/debian:12"], [digest])


def test_images_are_found_by_name_digest_and_id(store: Store) -> None:
    first, second = small_image(store, b"one"), small_image(store, b"two")
    digest = names.parse("debian@sha256:" + "a" * 64)
    index.add(store, first, names.parse("debian:latest"), digest)
    index.add(store, second, names.parse("debian:12"))
    config = find.manifest_of(store, first).config.id
    for text in (
        "debian",
        "docker.io/library/debian:latest",
        str(digest),
        config,
        config.hex,
        config.hex[:12],
    ):
        assert find.resolve(store, text).manifest.digest == first.digest, text
    assert find.resolve(store, "debian:12").manifest.digest == second.digest
    assert find.resolve(store, second.id.hex[:20]).manifest.digest == second.digest
    for text in ("debian:13", "debian@sha256:" + "b" * 64, "0" * 12, "../x", ""):
        with pytest.raises(NotFoundError, match="there is no image"):
            find.resolve(store, text)


def test_names_added_at_the_same_time_are_all_there(store: Store) -> None:
    manifest = small_image(store)
    tags = [names.parse(f"image:{number}") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(index.add, store, manifest, tag) for tag in tags]
        assert [each.result() for each in done] == [None] * len(tags)
    (image,) = index.images(store)
    assert sorted(map(str, image.tags)) == sorted(map(str, tags))


def test_what_is_half_is_swept_unless_it_is_being_made(store: Store) -> None:
    (store.ingest / "layer-dead" / "deep").mkdir(parents=True)
    (store.ingest / "layer-dead" / "deep").chmod(0)
    (store.ingest / "blob-resumes").mkdir()
    with store.claim("layer-alive"):
        store.sweep()
        assert sorted(each.name for each in store.ingest.iterdir()) == ["blob-resumes", "layer-alive"]
    store.sweep(keep="")
    assert [*store.ingest.iterdir()] == []


def test_removing_a_tree_changes_nothing_outside_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").touch()
    tree = tmp_path / "parent" / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "link").symlink_to(outside)
    (tree / "closed").chmod(0)
    (tmp_path / "parent").chmod(0o711)
    remove_tree(tree)
    assert not tree.exists()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (outside, tmp_path / "parent")] == [0o755, 0o711]
    assert (outside / "file").exists()
    remove_tree(tree)


def test_a_directory_with_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ImageError, match="neither empty nor a store"):
        Store(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_a_malformed_digest_is_no_path() -> None:
    for text in ("sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256", "", "sha512:" + "a" * 64):
        with pytest.raises(ImageError, match="not a digest"):
            Digest(text)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_skopeo_reads_the_layout(store: Store, tmp_path: Path) -> None:
    manifest = small_image(store)
    index.add(store, manifest, names.parse("debian:12"))
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{store.root}:docker.io/library/debian:12"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, digest_of(done.stdout)) == (0, manifest.digest), done.stderr
