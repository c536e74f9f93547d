"""What nothing uses goes; what an image, a container or a mount uses stays."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from testing.images import Image, directory, file, hard_link, image
from tests.image.rig import Source, add, documents, ensure
from tests.support.mounts import needs_root
from unionfs.image import blobs, index, layers, lowers, names, usage
from unionfs.image.digest import Digest
from unionfs.image.in_use import in_use
from unionfs.image.layer_record import Layer, all_layers
from unionfs.image.model import Descriptor, encode
from unionfs.image.prune import Pruned, prune
from unionfs.image.store import Store

BASE = [directory("base"), file("base/file", b"b" * 1000)]
ONE, TWO = [file("one", b"1" * 100)], [file("two", b"2" * 10)]
FIRST, SECOND = image([BASE, ONE]), image([BASE, TWO])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def pruned(
    store: Store, *, all_images: bool = False, layer_blobs: bool = False, directories: tuple[str, ...] = ()
) -> Pruned:
    with store.pruning():
        return prune(store, all_images=all_images, layer_blobs=layer_blobs, directories=directories)


def make_container(store: Store, made: Image, found: list[Layer]) -> None:
    """As container/record.py does, as far as the store needs to know."""
    folder = store.containers / ("c" * 64)
    (folder / "diff").mkdir(parents=True)
    (folder / "diff" / "written").write_bytes(b"w" * 50)
    record = {
        "id": folder.name,
        "name": "busy",
        "manifest": Descriptor(made.media_type, made.digest, len(made.manifest)),
        "layers": [layer.chain for layer in found],
    }
    (folder / "container.json").write_bytes(encode(record))


def is_whole(store: Store, made: Image, found: list[Layer]) -> bool:
    manifest, _ = documents(made)
    wanted = [manifest.config.id, Digest(made.digest), *(layer.id for layer in manifest.layers)]
    return all(blobs.has(store, each) for each in wanted) and {*found} <= {*all_layers(store)}


def test_images_without_a_name_go_with_what_only_they_have(store: Store) -> None:
    first, second = add(store, FIRST, "kept:1"), add(store, SECOND, repo_digest="q.io/x@sha256:" + "a" * 64)
    done = pruned(store)
    assert is_whole(store, FIRST, first)
    assert (done.untagged, done.images) == (["q.io/x@sha256:" + "a" * 64], [Digest(SECOND.id)])
    assert done.layers == [second[1].chain]
    gone = [documents(SECOND)[0].layers[1].size, len(SECOND.config), len(SECOND.manifest)]
    assert done.freed == 10 + sum(gone)
    assert [layer.chain for layer in all_layers(store)] == sorted(layer.chain for layer in first)
    assert len([*store.trees.iterdir()]) == 2
    assert len([*blobs.all_blobs(store)]) == 4
    assert pruned(store) == Pruned()


def test_all_images_of_no_container_go(store: Store) -> None:
    first = add(store, FIRST, "a:1", "b:2")
    add(store, SECOND, "c:3")
    make_container(store, FIRST, first)
    done = pruned(store, all_images=True)
    assert (done.untagged, done.images) == (["c:3"], [Digest(SECOND.id)])
    assert is_whole(store, FIRST, first)
    assert [str(tag) for each in index.images(store) for tag in each.tags] == [
        "docker.io/library/a:1",
        "docker.io/library/b:2",
    ]


def test_a_container_keeps_what_it_has_without_its_image(store: Store) -> None:
    first = add(store, FIRST, "a:1")
    make_container(store, FIRST, first)
    index.remove_image(store, Digest(FIRST.digest))
    assert pruned(store, all_images=True) == Pruned()
    assert is_whole(store, FIRST, first)


def test_what_is_left_over_goes(store: Store) -> None:
    """Layers without an image, trees without a layer, blobs, downloads, and what is half."""
    ensure(store, FIRST, Source(FIRST))
    (store.trees / ("0" * 64) / "diff").mkdir(parents=True)
    blobs.put_bytes(store, b"left")
    part = store.ingest / f"blob-{'1' * 64}"
    part.mkdir()
    (part / "data").write_bytes(b"half")
    (store.layers / ("2" * 64)).mkdir()
    done = pruned(store)
    assert len(done.layers) == 3
    for folder in ("layers", "trees", "blobs/sha256", "ingest"):
        assert [*(store.root / folder).iterdir()] == []


def test_what_is_being_made_is_waited_for(store: Store) -> None:
    """A prune beside a pull: it begins when the image can be seen in the index."""
    source = Source(FIRST)
    began, ended = threading.Event(), []

    def slow(_: Digest) -> None:
        began.set()
        time.sleep(0.1)

    source.wait = slow

    def pull() -> None:
        with store.in_use():
            manifest, config = documents(FIRST)
            layers.ensure(store, manifest, config, source)
            for content in (FIRST.config, FIRST.manifest):
                blobs.put_bytes(store, content)
            time.sleep(0.1)
            ended.append("pull")
            index.add(
                store, Descriptor(FIRST.media_type, FIRST.digest, len(FIRST.manifest)), names.parse("a:1")
            )

    thread = threading.Thread(target=pull)
    thread.start()
    assert began.wait(10)
    done = pruned(store)
    ended.append("prune")
    thread.join()
    assert (ended, done) == (["pull", "prune"], Pruned())
    assert len([*all_layers(store)]) == 2


def test_a_mount_keeps_its_trees(store: Store) -> None:
    first = add(store, FIRST, "a:1")
    held = lowers.hold(lowers.tree_paths(first))
    try:
        done = pruned(store, all_images=True)
        assert done.images == [Digest(FIRST.id)]
        assert all(layer.path.is_dir() for layer in first)
    finally:
        lowers.release(held)
    assert pruned(store).freed == 1100
    assert [*store.trees.iterdir()] == []


@needs_root
@pytest.mark.parametrize("how", ["tree", "layer", "relative"])
def test_a_mount_of_kernel_overlayfs_keeps_them_too(store: Store, tmp_path: Path, how: str) -> None:
    first = add(store, FIRST, "a:1")
    paths = [str(layer.path) for layer in first]
    if how == "layer":
        paths = [str(store.layers / layer.chain.hex / "diff") for layer in first]
    elif how == "relative":
        paths = [f"{layer.path.parent.name}/diff" for layer in first]
    merged = tmp_path / "merged"
    merged.mkdir()
    # The namespace is another one, and so is the process that has it.
    script = 'mount -t overlay overlay -o lowerdir="$1" "$2" && echo mounted && read _'
    words = ["unshare", "-m", "sh", "-c", script, "sh", ":".join(reversed(paths)), str(merged)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=store.trees) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"mounted\n":
            pytest.skip("overlayfs cannot be mounted over this filesystem")
        pruned(store, all_images=True)
        assert all(layer.path.is_dir() for layer in first)
        process.communicate(b"\n")
    pruned(store, all_images=True)
    assert [*store.trees.iterdir()] == []


def test_other_directories_in_use(store: Store) -> None:
    first = add(store, FIRST, "a:1")
    pruned(store, all_images=True, directories=(str(first[0].path),))
    assert [layer.path.is_dir() for layer in first] == [True, False]


def test_blobs_of_unpacked_layers_are_freed(store: Store) -> None:
    first = add(store, FIRST, "a:1")
    manifest, _ = documents(FIRST)
    done = pruned(store, layer_blobs=True)
    assert sorted(done.blobs) == sorted(layer.id for layer in manifest.layers)
    assert done.freed == sum(layer.size for layer in manifest.layers)
    assert not any(blobs.has(store, each) for each in done.blobs)
    source = Source(FIRST, SECOND)
    assert ensure(store, FIRST, source) == first
    assert source.opened == []
    add(store, SECOND, "b:1")
    assert pruned(store, layer_blobs=True).blobs == [documents(SECOND)[0].layers[1].id]


def test_a_blob_that_is_still_needed_is_not_freed(store: Store) -> None:
    """Of the same layer at another place, where it is not unpacked: it depends on what is below."""
    links = [hard_link("link", "base/file")]
    over = image([BASE, links])
    add(store, over, "a:1")
    other = image([[*BASE, file("more")], links])
    for content in (*other.blobs, other.config, other.manifest):
        blobs.put_bytes(store, content)
    index.add(store, Descriptor(other.media_type, other.digest, len(other.manifest)), names.parse("b:1"))
    done = pruned(store, layer_blobs=True)
    assert done.blobs == [documents(over)[0].layers[0].id]


def test_an_index_of_another_program_keeps_its_images(store: Store) -> None:
    first = add(store, FIRST, "a:1")
    index.remove_image(store, Digest(FIRST.digest))
    document = encode(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [Descriptor(FIRST.media_type, FIRST.digest, len(FIRST.manifest))],
        }
    )
    digest = blobs.put_bytes(store, document)
    entry = Descriptor("application/vnd.oci.image.index.v1+json", digest, len(document))
    store.write(store.index, encode({"schemaVersion": 2, "manifests": [entry]}))
    assert in_use(store).blobs >= {digest, Digest(FIRST.digest), Digest(FIRST.id)}
    assert {layer.chain for layer in first} <= in_use(store).chains


def test_the_index_by_which_an_image_came_stays_with_it(store: Store) -> None:
    add(store, FIRST, "a:1")
    came = blobs.put_bytes(store, b"an index")
    manifest = Descriptor(FIRST.media_type, FIRST.digest, len(FIRST.manifest))
    index.add(store, manifest, repo_digest=names.parse(f"a@{came}"))
    counted = usage.usage(store).blobs.total
    pruned(store, layer_blobs=True)
    assert blobs.has(store, came)
    index.remove_image(store, Digest(FIRST.digest))
    assert usage.usage(store).blobs.total == 3, "with manifest and config it is left over"
    assert counted == len(documents(FIRST)[0].layers), "an index is no layer"
    pruned(store)
    assert not blobs.has(store, came)


def test_usage_tells_shared_from_unique(store: Store) -> None:
    first = add(store, FIRST, "a:1", "b:1")
    add(store, SECOND, "c:1")
    make_container(store, FIRST, first)
    found = usage.usage(store)
    assert [(each.size, each.shared, each.unique, each.containers) for each in found.images] == [
        (1100, 1000, 100, 1),
        (1010, 1000, 10, 0),
    ]
    assert found.layers == usage.Part(2, 1, 1110, 10)
    assert found.containers == {"c" * 64: 50}
    sizes = {layer.digest: layer.size for each in (FIRST, SECOND) for layer in documents(each)[0].layers}
    assert found.blobs == usage.Part(3, 0, sum(sizes.values()), sum(sizes.values()))
    assert found.downloads == usage.Part(0, 0, 0, 0)
    assert found.layers.reclaimable == pruned(store, all_images=True).freed - sum(
        (documents(SECOND)[0].layers[1].size, len(SECOND.config), len(SECOND.manifest))
    )
