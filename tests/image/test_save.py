"""What `save` writes: the same bytes for the same images, loadable again; and when it cannot."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import digest, file, image
from tests.image.test_load import load
from tests.support.stores import put
from unionfs.errors import ImageError, NotFoundError
from unionfs.image import archive_save, blobs, find, index
from unionfs.image.archive_save import Chosen
from unionfs.image.digest import Digest
from unionfs.image.store import Store

ONE = image([[file("a", b"a" * 5000)], [file("b")]], {"Cmd": ["one"]})
DOCKER = image([[file("a", b"a" * 5000)], [file("c", b"c" * 1000)]], {"Cmd": ["two"]}, docker=True)
NAMES = ["one:1", "one:latest", "localhost:5000/two:2"]

Save = Callable[[Store, Sequence[Chosen], int], object]
SAVES: dict[str, Save] = {"docker": archive_save.save_docker, "oci": archive_save.save_oci}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, ONE, "one:1", "one")
    put(store, DOCKER, "localhost:5000/two:2")
    return store


def saved(store: Store, save: Save, *texts: str) -> bytes:
    path = store.root.parent / "saved"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        save(store, archive_save.choose(store, texts), fd)
    finally:
        os.close(fd)
    return path.read_bytes()


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {}
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            found[member.name] = data.read()
            assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
        return found


def document(content: bytes) -> Any:
    return msgspec.json.decode(content)


def test_a_docker_archive_is_as_podman_writes_it(store: Store) -> None:
    found = members(saved(store, archive_save.save_docker, "one", "localhost:5000/two:2"))
    assert document(found["manifest.json"]) == [
        {
            "Config": f"{made.id[7:]}.json",
            "RepoTags": tags,
            "Layers": [f"{digest(layer)[7:]}.tar" for layer in made.layers],
        }
        for made, tags in (
            (ONE, ["docker.io/library/one:1", "docker.io/library/one:latest"]),
            (DOCKER, ["localhost:5000/two:2"]),
        )
    ]
    for made in (ONE, DOCKER):
        assert found[f"{made.id[7:]}.json"] == made.config
        for layer in made.layers:
            assert found[f"{digest(layer)[7:]}.tar"] == layer
    assert len(found) == 1 + 2 + 3, "the layer that both have is there once"


def test_an_oci_archive_has_the_blobs_as_they_are(store: Store) -> None:
    found = members(saved(store, archive_save.save_oci, "one:1", "localhost:5000/two:2"))
    assert document(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    entries = document(found["index.json"])["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == [
        entry["annotations"]["io.containerd.image.name"] for entry in entries
    ]
    assert entries[0]["digest"] == ONE.digest
    for content in (ONE.manifest, ONE.config, *ONE.blobs, DOCKER.config, *DOCKER.blobs):
        assert found[f"blobs/sha256/{digest(content)[7:]}"] == content
    # Docker's types become OCI's: nothing else is changed.
    changed = document(found[f"blobs/sha256/{entries[1]['digest'][7:]}"])
    assert changed == document(
        DOCKER.manifest.replace(b"vnd.docker.distribution.manifest.v2", b"vnd.oci.image.manifest.v1")
        .replace(b"vnd.docker.container.image.v1", b"vnd.oci.image.config.v1")
        .replace(b"vnd.docker.image.rootfs.diff.tar.gzip", b"vnd.oci.image.layer.v1.tar+gzip")
    )


@pytest.mark.parametrize("form", SAVES)
def test_the_same_bytes_each_time_and_through_a_pipe(store: Store, form: str) -> None:
    first = saved(store, SAVES[form], *NAMES)
    other = Store(store.root.parent / "other")
    put(other, DOCKER, "localhost:5000/two:2")
    put(other, ONE, "one:1", "one")
    assert saved(other, SAVES[form], *NAMES) == first
    reading, writing = os.pipe()
    got: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as source:
            got.append(source.read())

    thread = threading.Thread(target=read)
    thread.start()
    SAVES[form](store, archive_save.choose(store, NAMES), writing)
    os.close(writing)
    thread.join()
    assert got == [first]


@pytest.mark.parametrize("form", SAVES)
def test_a_file_that_is_appended_to(store: Store, form: str, tmp_path: Path) -> None:
    path = tmp_path / "appended"
    path.write_bytes(b"before")
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    SAVES[form](store, archive_save.choose(store, NAMES), fd)
    os.close(fd)
    assert path.read_bytes() == b"before" + saved(store, SAVES[form], *NAMES)


@pytest.mark.parametrize("form", SAVES)
def test_what_is_saved_is_loaded_again(store: Store, form: str) -> None:
    other = Store(store.root.parent / "other")
    loaded = load(other, saved(store, SAVES[form], *NAMES))
    assert [(each.id, [tag.familiar for tag in each.tags]) for each in loaded] == [
        (ONE.id, NAMES[:2]),
        (DOCKER.id, NAMES[2:]),
    ]


def test_a_parent_goes_along_in_dockers_form_if_it_is_saved_too(store: Store) -> None:
    """moby, image/tarexport: save.go, and load.go, which wants the parent's history to be the beginning."""
    first, second, odd = (image([[file(name)] for name in names]) for names in ("a", "ab", "ba"))
    for number, (made, parent) in enumerate(((first, None), (second, first.id), (odd, first.id))):
        manifest = put(store, made, f"made:{number}")
        index.add(store, manifest, parent=parent)

    alone = saved(store, archive_save.save_docker, "made:1")
    assert "Parent" not in document(members(alone)["manifest.json"])[0]
    content = saved(store, archive_save.save_docker, "made:1", "made:0", "made:2")
    described = document(members(content)["manifest.json"])
    assert [each.get("Parent") for each in described] == [first.id, None, first.id]
    others = [Store(store.root.parent / name) for name in ("alone", "together")]
    for other, archived in zip(others, (alone, content), strict=True):
        load(other, archived)
    assert find.resolve(others[0], "made:1").parent is None
    assert find.resolve(others[1], "made:1").parent == first.id
    assert find.resolve(others[1], "made:0").parent is None
    assert find.resolve(others[1], "made:2").parent is None, "its layers do not begin with the parent's"


def test_a_directory_appears_whole(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "layout"
    archive_save.save_directory(store, archive_save.choose(store, NAMES), target)
    files = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert files == members(saved(store, archive_save.save_oci, *NAMES))
    blobs.path_of(store, Digest(digest(ONE.blobs[1]))).write_bytes(b"damaged")
    with pytest.raises(ImageError, match="ends after 7 of the"):
        archive_save.save_directory(store, archive_save.choose(store, NAMES), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "saved", "store"]


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        (["one"], [(ONE, ["one:1", "one:latest"])]),
        (["one:1"], [(ONE, ["one:1"])]),
        (["one:1", "one:latest"], [(ONE, ["one:1", "one:latest"])]),
        (["localhost:5000/two", "one:1"], [(DOCKER, ["localhost:5000/two:2"]), (ONE, ["one:1"])]),
        ([ONE.id[7:19]], [(ONE, [])]),
        ([ONE.id, "one:1"], [(ONE, ["one:1"])]),
    ],
)
def test_what_a_name_stands_for(store: Store, texts: list[str], chosen: list[Any]) -> None:
    found = archive_save.choose(store, texts)
    assert [(each.image.manifest.digest, [tag.familiar for tag in each.tags]) for each in found] == [
        (made.digest, tags) for made, tags in chosen
    ]


def test_what_is_not_there(store: Store) -> None:
    for text in ("nothing", "one:2", "0" * 12):
        with pytest.raises(NotFoundError, match="there is no image"):
            archive_save.choose(store, ["one:1", text])


def test_a_layer_whose_blob_was_freed(store: Store) -> None:
    """It is taken from another blob of that content; if there is none, that is said."""
    whole = saved(store, archive_save.save_docker, "one:1")
    blob, layer = ONE.blobs[0], ONE.layers[0]
    blobs.path_of(store, Digest(digest(blob))).unlink()
    for save in SAVES.values():
        with pytest.raises(NotFoundError, match="prune --blobs"):
            saved(store, save, "one:1")
    blobs.put_bytes(store, layer)
    assert saved(store, archive_save.save_docker, "one:1") == whole
    found = members(saved(store, archive_save.save_oci, "one:1"))
    (entry,) = document(found["index.json"])["manifests"]
    manifest = document(found[f"blobs/sha256/{entry['digest'][7:]}"])
    assert manifest["config"]["digest"] == ONE.id
    assert manifest["layers"] == [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)},
        document(ONE.manifest)["layers"][1],
    ]
    assert found[f"blobs/sha256/{digest(layer)[7:]}"] == layer


def test_what_is_damaged_is_not_saved(store: Store) -> None:
    manifest = find.manifest_of(store, find.resolve(store, "one:1").manifest)
    path = blobs.path_of(store, manifest.layers[0].id)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for save in SAVES.values():
        with pytest.raises(ImageError, match="layer"):
            saved(store, save, "one:1")
