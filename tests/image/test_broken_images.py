"""An image whose manifest or config is lost: what it may need stays, and it can be removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.images import directory, file, image
from tests.image.rig import add, documents, ensure, in_memory
from tests.support.stores import put
from unionfs.cli import main
from unionfs.errors import ImageError
from unionfs.image import blobs, find_by_layers, index, usage
from unionfs.image.digest import Digest
from unionfs.image.in_use import in_use
from unionfs.image.layer_record import all_layers
from unionfs.image.model import Descriptor, encode
from unionfs.image.prune import Pruned, prune
from unionfs.image.remove import User, remove
from unionfs.image.store import Store
from unionfs.image.summary import summaries

BASE = [directory("base"), file("base/file", b"b" * 1000)]
BROKEN, SOUND, GONE = (image([BASE, [file(name)]]) for name in ("broken", "sound", "gone"))
MANIFEST, CONFIG = Digest(BROKEN.digest), Digest(BROKEN.id)
GONE_BLOB = documents(GONE)[0].layers[1].id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """With an image that is about to break, one that is sound, and what is left of one that was removed."""
    with in_memory(tmp_path) as place:
        store = Store(place / "store")
        add(store, BROKEN, "broken:1")
        add(store, SOUND, "sound:1")
        add(store, GONE)
        index.remove_image(store, Digest(GONE.digest))
        yield store


def pruned(store: Store, *, all_images: bool = False, layer_blobs: bool = False) -> Pruned:
    with store.pruning():
        return prune(store, all_images=all_images, layer_blobs=layer_blobs)


def spoil(store: Store, document: Digest, how: str) -> None:
    path = blobs.path_of(store, document)
    path.unlink()
    if how == "damaged":
        path.write_bytes(b"{}")


def images(store: Store) -> list[str]:
    return [each.shown for each in index.images(store)]


DOCUMENTS = pytest.mark.parametrize("document", [MANIFEST, CONFIG], ids=["manifest", "config"])
HOW = pytest.mark.parametrize("how", ["missing", "damaged"])


@DOCUMENTS
@HOW
def test_prune_keeps_what_the_image_may_need_and_nothing_else(
    store: Store, document: Digest, how: str
) -> None:
    spoil(store, document, how)
    half = store.ingest / f"blob-{'1' * 64}"
    half.mkdir()
    done = pruned(store)
    (broken,) = done.broken
    assert (broken.name, broken.has_manifest) == ("broken:1", document == CONFIG)
    assert str(document) in str(broken)
    assert not half.exists()
    assert (done.layers, len([*all_layers(store)])) == ([], 4), "any layer may be one of its"
    # A manifest says which blobs an image needs, a config which layers.
    assert blobs.has(store, GONE_BLOB) == (document == MANIFEST)
    assert all(blobs.has(store, each.id) for each in documents(BROKEN)[0].layers)
    with store.pruning():
        removed = remove(store, "broken:1", [])
    assert removed.deleted[0] == document
    assert (removed.broken, images(store)) == ([], ["sound:1"])
    assert len([*all_layers(store)]) == 2
    assert pruned(store) == Pruned()


@DOCUMENTS
def test_a_broken_image_that_nobody_wants_goes(store: Store, document: Digest) -> None:
    index.remove_names(store, index.images(store), index.images(store)[0].tags)
    spoil(store, document, "damaged")
    done = pruned(store)
    assert (done.images, done.broken) == ([document], [])
    assert images(store) == ["sound:1"]
    assert len([*all_layers(store)]) == 2

    put(store, BROKEN, "again:1")
    spoil(store, document, "missing")
    done = pruned(store, all_images=True)
    assert (done.untagged, done.broken) == (["sound:1", "again:1"], [])
    assert [*blobs.all_blobs(store)] == []


@DOCUMENTS
def test_blobs_of_unpacked_layers_are_freed_as_far_as_that_is_safe(store: Store, document: Digest) -> None:
    spoil(store, document, "missing")
    done = pruned(store, layer_blobs=True)
    own = documents(SOUND)[0].layers[1].id
    assert done.blobs == ([] if document == MANIFEST else [own])
    assert blobs.has(store, documents(BROKEN)[0].layers[0].id), "it may be unpacked elsewhere"


@pytest.mark.parametrize("text", ["broken:1", MANIFEST.hex[:12], MANIFEST])
def test_it_is_removed_by_name_and_digest_unless_a_container_runs(store: Store, text: str) -> None:
    spoil(store, MANIFEST, "damaged")
    runs = User("runs", CONFIG, True, MANIFEST)
    with store.pruning(), pytest.raises(ImageError, match="runs, which is running"):
        remove(store, text, [runs], force=True)
    with store.pruning():
        remove(store, text, [])
    assert images(store) == ["sound:1"]


def test_another_image_is_removed_beside_it(store: Store) -> None:
    spoil(store, MANIFEST, "missing")
    with store.pruning():
        removed = remove(store, "sound:1", [])
    assert removed.deleted == [SOUND.id]
    assert [each.name for each in removed.broken] == ["broken:1"]
    assert len([*all_layers(store)]) == 4


def test_a_container_whose_image_is_broken_needs_its_layers_only(store: Store) -> None:
    made = ensure(store, BROKEN, None)  # type: ignore[arg-type]  # all are there
    folder = store.containers / ("c" * 64)
    folder.mkdir()
    record = {
        "id": folder.name,
        "name": "busy",
        "manifest": Descriptor(BROKEN.media_type, BROKEN.digest, len(BROKEN.manifest)),
        "layers": [layer.chain for layer in made],
    }
    (folder / "container.json").write_bytes(encode(record))
    index.remove_image(store, MANIFEST)
    spoil(store, MANIFEST, "damaged")
    assert pruned(store).broken == []
    assert {layer.chain for layer in made} <= in_use(store).chains
    assert {*made} <= {*all_layers(store)}


def test_lists_name_it_and_other_images_are_found(store: Store) -> None:
    spoil(store, MANIFEST, "damaged")
    assert [str(each).partition(":1: ")[0] for each in summaries(store)[1]] == ["image broken"]
    assert [str(each).partition(":1: ")[0] for each in usage.usage(store).problems] == ["image broken"]
    sound = index.images(store)[1]
    lowers = find_by_layers.lowers_of(store, sound)
    assert find_by_layers.image_of(store, lowers) == (sound, 0)


def test_the_commands_say_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(store, MANIFEST, "missing")
    place = ["--store", str(store.root)]
    assert main(["prune", *place, "-f"]) == 1
    said = capsys.readouterr()
    assert said.out == "Total reclaimed space: 0B\n"
    assert said.err.startswith(f"pyunionfs: prune: image broken:1 is broken: manifest {MANIFEST}: ")
    assert "`pyunionfs rmi broken:1` removes it" in said.err
    assert main(["rmi", *place, "sound:1"]) == 0
    assert "pyunionfs: rmi: image broken:1 is broken" in capsys.readouterr().err
    assert main(["rmi", *place, "broken:1"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["prune", *place, "-f"]) == 0
    assert [*all_layers(store)] == []
