"""Layers get into the store once, verified, whole or not at all, from sources that are read once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from testing.images import TarEntry, directory, file, hard_link, image
from tests.image.rig import Source, documents, ensure
from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs, ingest, layers
from unionfs.image.digest import Digest
from unionfs.image.layer_record import all_layers, find
from unionfs.image.model import Descriptor, chain_ids
from unionfs.image.progress import State
from unionfs.image.store import Store, sync_filesystem

A = [directory("a"), file("a/one", b"1" * 5000), file("a/two", b"2")]
B = [directory("b"), file("b/one", os.urandom(300_000))]
C = [file("c", b"c")]
LINKS = [hard_link("linked", "a/one")]
"""Depends on A."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def names(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def ingest_is_empty(store: Store) -> bool:
    return [*store.ingest.iterdir()] == []


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_an_image_is_unpacked_from_one_reading_of_each_layer(store: Store, compression: str) -> None:
    made = image([A, B, C], compression=compression)
    source = Source(made)
    found = ensure(store, made, source)
    config = documents(made)[1]
    assert [layer.chain for layer in found] == chain_ids(config.diff_ids)
    assert [layer.diff_id for layer in found] == config.diff_ids
    assert [layer.parent for layer in found] == [None, *chain_ids(config.diff_ids)[:-1]]
    assert [layer.size for layer in found] == [5001, 300_000, 1]
    assert [names(layer.path) for layer in found] == [["a", "a/one", "a/two"], ["b", "b/one"], ["c"]]
    assert sorted(source.opened) == sorted((digest, 0) for digest in source.content)
    for digest, content in source.content.items():
        assert blobs.path_of(store, digest).read_bytes() == content
    assert layers.layers_of(store, config) == found
    assert {each.chain for each in all_layers(store)} == {each.chain for each in found}
    for layer in found:
        assert (store.layers / layer.chain.hex / "diff").resolve() == layer.path
    assert ingest_is_empty(store)


def test_nothing_is_fetched_or_unpacked_twice(store: Store) -> None:
    first, second = image([A, B]), image([A, B, C])
    source = Source(first, second)
    made = ensure(store, first, source)
    before = {layer.path: layer.path.stat().st_ino for layer in made}
    source.opened.clear()
    assert ensure(store, first, source) == made
    assert source.opened == []
    assert ensure(store, second, source)[:2] == made
    assert [digest for digest, _ in source.opened] == [documents(second)[0].layers[2].id]
    assert {layer.path: layer.path.stat().st_ino for layer in made} == before


def test_a_layer_that_is_unpacked_is_not_fetched_for_its_blob(store: Store) -> None:
    made = image([A, B])
    source = Source(made)
    ensure(store, made, source, keep_blobs=False)
    assert [*blobs.all_blobs(store)] == []
    ensure(store, made, source)
    assert len(source.opened) == 2
    assert ingest_is_empty(store)


def test_blobs_of_the_store_are_unpacked_without_a_source(store: Store) -> None:
    made = image([A, B])
    for blob in made.blobs:
        blobs.put_bytes(store, blob)
    assert len(layers.ensure(store, *documents(made))) == 2
    other = image([C])
    with pytest.raises(NotFoundError, match="is not in the store"):
        layers.ensure(store, *documents(other))


def test_equal_content_is_one_tree_wherever_it_stands(store: Store) -> None:
    first, second = image([A, B]), image([B, A, B], compression="none")
    source = Source(first, second)
    one, two = ensure(store, first, source), ensure(store, second, source)
    assert [layer.path for layer in two] == [one[1].path, one[0].path, one[1].path]
    assert len({layer.chain for layer in (*one, *two)}) == 5
    assert len([*store.trees.iterdir()]) == 2
    assert len(source.opened) == 2, "the other form of the blobs is not fetched"


def test_what_depends_on_its_parents_is_not_shared(store: Store) -> None:
    other_a = [directory("a"), file("a/one", b"other")]
    first, second = image([A, C, LINKS]), image([other_a, LINKS])
    source = Source(first, second)
    one, two = ensure(store, first, source)[-1], ensure(store, second, source)[-1]
    assert (one.diff_id, one.depends, two.depends) == (two.diff_id, True, True)
    assert (one.path / "linked").read_bytes() == b"1" * 5000
    assert (two.path / "linked").read_bytes() == b"other"
    assert one.path.parent.name == one.chain.hex
    assert ensure(store, first, source)[-1] == one


def test_a_layer_that_would_depend_if_there_were_any_below_is_not_shared(store: Store) -> None:
    """Its directory `d` has no entry: where a layer below has it, it gets the attributes from there."""
    lone: list[TarEntry] = [file("d/x", b"x")]
    alone, over = image([lone]), image([[directory("d", 0o700)], lone])
    source = Source(alone, over)
    for each, mode in ((alone, 0o755), (over, 0o700), (alone, 0o755)):
        layer = ensure(store, each, source)[-1]
        assert (layer.path / "d").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("small", [0, ingest.SMALL])
def test_a_layer_that_needs_its_parents_waits_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Its blob is kept meanwhile, and read once more from there."""
    monkeypatch.setattr(ingest, "SMALL", small)
    made = image([A, LINKS, [hard_link("more", "linked")]])
    lowest, *rest = documents(made)[0].layers
    source = Source(made)

    def has_come(layer: Descriptor) -> bool:
        part = store.ingest / f"blob-{layer.id.hex}" / "data"
        is_whole = part.exists() and part.stat().st_size == layer.size
        return is_whole if small else blobs.has(store, layer.id)

    def wait(digest: Digest) -> None:
        while digest == lowest.id and not all(map(has_come, rest)):
            time.sleep(0.01)

    source.wait = wait
    found = ensure(store, made, source)
    assert (found[2].path / "more").read_bytes() == b"1" * 5000
    assert len(source.opened) == 3


def spoiled(content: bytes, how: str) -> bytes:
    if how == "changed":
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return content[:-1] if how == "shorter" else content + b"x"


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("changed", "expected digest {digest}, got sha256:"),
        ("shorter", "ends after"),
        ("longer", "larger than"),
    ],
)
def test_wrong_bytes_store_nothing(store: Store, compression: str, how: str, says: str) -> None:
    made = image([B], compression=compression)
    source = Source(made)
    (digest,) = source.content
    source.content[digest] = spoiled(made.blobs[0], how)
    with pytest.raises(ImageError, match=f"layer {digest}.*{says.format(digest=digest)}"):
        ensure(store, made, source)
    assert [[*all_layers(store)], [*blobs.all_blobs(store)], [*store.trees.iterdir()]] == [[], [], []]
    assert ingest_is_empty(store)
    source.content[digest] = made.blobs[0]
    assert len(ensure(store, made, source)) == 1


def test_content_that_is_not_of_its_diff_id_stores_nothing(store: Store) -> None:
    made, other = image([A, B]), image([A, C])
    manifest, config = documents(made)[0], documents(other)[1]
    with pytest.raises(ImageError, match=f"expected digest {config.diff_ids[1]}, got sha256:"):
        layers.ensure(store, manifest, config, Source(made))
    assert find(store, chain_ids(config.diff_ids)[1]) is None
    assert not blobs.has(store, manifest.layers[1].id)
    assert ingest_is_empty(store)


@pytest.mark.parametrize("keep_blobs", [True, False])
def test_a_download_that_breaks_goes_on_where_it_stopped(store: Store, keep_blobs: bool) -> None:
    made = image([B], compression="none")
    source = Source(made)
    (digest,) = source.content
    source.breaks_at = 200_000
    with pytest.raises(ImageError, match="connection lost"):
        ensure(store, made, source, keep_blobs=keep_blobs)
    store.sweep()
    assert [*all_layers(store)] == []
    source.breaks_at = None
    (layer,) = ensure(store, made, source, keep_blobs=keep_blobs)
    assert source.opened == [(digest, 0), (digest, 200_000 if keep_blobs else 0)]
    assert (layer.path / "b/one").read_bytes() == B[1].content
    assert ingest_is_empty(store)


def test_a_download_that_never_began_leaves_nothing(store: Store) -> None:
    made = image([B])
    source = Source(made)
    source.breaks_at = 0
    with pytest.raises(ImageError, match="connection lost"):
        ensure(store, made, source)
    assert ingest_is_empty(store)


@pytest.mark.parametrize(("left", "offsets"), [(1000, [1000, 0]), (-1, [0]), (0, [0])])
def test_what_a_crash_left_of_a_download_may_be_wrong(store: Store, left: int, offsets: list[int]) -> None:
    """Zeros, and as much as the whole, or more."""
    made = image([B], compression="none")
    source = Source(made)
    (digest,) = source.content
    part = store.ingest / f"blob-{digest.hex}" / "data"
    part.parent.mkdir()
    part.write_bytes(bytes(left if left > 0 else len(made.blobs[0]) - left))
    ensure(store, made, source)
    assert source.opened == [(digest, offset) for offset in offsets]
    assert blobs.path_of(store, digest).read_bytes() == made.blobs[0]


def test_a_download_that_was_whole_is_not_fetched_again(store: Store) -> None:
    made = image([B])
    source = Source(made)
    (digest,) = source.content
    part = store.ingest / f"blob-{digest.hex}" / "data"
    part.parent.mkdir()
    part.write_bytes(made.blobs[0])
    ensure(store, made, source)
    assert source.opened == []


def run_all(works: Sequence[Callable[[], object]]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "they wait for each other"
    return errors


def test_several_that_want_the_same_layers_do_the_work_once(store: Store) -> None:
    """Each with a store of its own, as processes have: nothing but the directory is shared."""
    made = image([A, B, C, LINKS])
    source = Source(made)
    source.wait = lambda digest: time.sleep(0.05)
    errors = run_all([partial(ensure, Store(store.root), made, source) for _ in range(4)])
    assert errors == []
    assert sorted(source.opened) == sorted((digest, 0) for digest in source.content)
    assert len([*all_layers(store)]) == 4
    assert ingest_is_empty(store)


def test_images_that_have_the_same_layers_in_other_orders_never_wait_for_each_other(store: Store) -> None:
    """Each layer of theirs depends on any that is below it, and some are there twice."""
    both: list[TarEntry] = [file("x", b"x"), file("y", b"y"), file("z", b"z")]
    x, y, z = ([*LINKS, hard_link(f"{name}-link", name)] for name in "xyz")
    orders = ([x, y, z], [z, y, x], [y, x, y], [x, z, y], [y, x, z, x])
    made = [image([[*A, *both], *order]) for order in orders]
    source = Source(*made)
    source.wait = lambda digest: time.sleep(0.01)
    for number in range(3):
        again = Store(store.root.parent / f"store{number}")
        errors = run_all([partial(ensure, again, each, source) for each in made])
        assert errors == []
        for each in made:
            for layer in ensure(again, each, source)[1:]:
                assert {"linked", "a/one"} < set(names(layer.path))
                assert layer.path.parent.name == layer.chain.hex


def test_the_first_failure_ends_the_others(store: Store) -> None:
    made = image([A, B, C, LINKS])
    source = Source(made)
    bad = documents(made)[0].layers[1].id

    def wait(digest: Digest) -> None:
        if digest == bad:
            raise ImageError("no such blob")

    source.wait = wait
    with pytest.raises(ImageError, match="no such blob"):
        ensure(store, made, source)
    source.wait = lambda digest: None
    assert len(ensure(store, made, source)) == 4


def test_waiting_for_another_process_ends_when_another_layer_fails(store: Store) -> None:
    made = image([A, B])
    lowest, _ = chain_ids(documents(made)[1].diff_ids)
    source = Source(made)
    source.breaks_at = 0
    with store.claim(f"layer-{lowest.hex}"):
        errors = run_all([lambda: ensure(store, made, source)])
    assert "connection lost" in str(errors[0])


def test_progress_is_reported(store: Store) -> None:
    made = image([A, B])
    seen: list[tuple[Digest, State, int, int | None]] = []

    class Recorder:
        def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
            seen.append((digest, state, done, total))

        def remark(self, digest: Digest, text: str) -> None:
            raise AssertionError(text)

    for _ in range(2):
        layers.ensure(store, *documents(made), Source(made), Recorder())
    for layer in documents(made)[0].layers:
        # A layer that is fetched before it is its turn is extracted later, and not while it is downloaded.
        states = [state for digest, state, _, _ in seen if digest == layer.id and state != "extracting"]
        assert list(dict.fromkeys(states)) == ["waiting", "downloading", "done", "exists"]
        assert (layer.id, "downloading", layer.size, layer.size) in seen


def test_layers_are_unpacked_from_the_lowest_up_and_fetched_meanwhile(store: Store) -> None:
    made = image([A, B, C], compression="none")
    order: list[tuple[str, Digest]] = []
    fetched = threading.Event()

    class Recorder:
        def report(self, digest: Digest, state: State, done: int = 0, total: int | None = None) -> None:
            order.append((state, digest))

        def remark(self, digest: Digest, text: str) -> None:
            raise AssertionError(text)

    first, second, last = (layer.id for layer in documents(made)[0].layers)
    source = Source(made)

    def wait(digest: Digest) -> None:
        if digest == last:
            fetched.set()
        elif digest == first:
            assert fetched.wait(20), "others are fetched while the lowest is"

    source.wait = wait
    layers.ensure(store, *documents(made), source, Recorder())
    assert [digest for state, digest in order if state == "done"] == [first, second, last]


def test_a_damaged_layer_is_made_again(store: Store) -> None:
    made = image([A, B])
    source = Source(made)
    found = ensure(store, made, source)
    found[0].path.parent.rename(store.root / "gone")
    (store.layers / found[1].chain.hex / "layer.json").unlink()
    assert ensure(store, made, source) == found
    assert len(source.opened) == 2, "the blobs are there"
    assert ingest_is_empty(store)


def test_many_layers_are_synced_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none has its place before that."""
    made = image([[file(f"{number}", b"x")] for number in range(40)])
    seen: list[int] = []

    def sync(path: Path) -> None:
        before = len([*store.layers.iterdir()]), len([*store.trees.iterdir()])
        sync_filesystem(path)
        # What gets its place after this is whole in ingest/ by now.
        assert before == (len([*store.layers.iterdir()]), len([*store.trees.iterdir()]))
        waiting = [*store.ingest.glob("layer-*/layer/layer.json")]
        assert len(waiting) == len([*store.ingest.glob("layer-*/tree/tree.json")])
        seen.append(len(waiting))

    monkeypatch.setattr(layers, "sync_filesystem", sync)
    monkeypatch.setattr(layers, "_LONGEST_PENDING", 1e9)
    assert len(ensure(store, made, Source(made))) == 40
    assert seen == [33, 7]
    assert ingest_is_empty(store)


def test_layers_that_are_equal_are_no_hindrance_to_each_other(store: Store) -> None:
    same = [file("same", b"x")]
    made = image([same, [file("other")], same, same])
    found = ensure(store, made, Source(made))
    assert [layer.path for layer in found[2:]] == [found[0].path] * 2


def test_what_is_pending_stays_when_another_layer_fails(store: Store) -> None:
    made = image([A, B, C])
    source = Source(made)
    manifest, config = documents(made)
    last, below = manifest.layers[2].id, chain_ids(config.diff_ids)[1]
    source.content[last] = spoiled(source.content[last], "changed")

    def wait(digest: Digest) -> None:
        while digest == last and not (store.ingest / f"layer-{below.hex}" / "layer/layer.json").exists():
            time.sleep(0.01)

    source.wait = wait
    with pytest.raises(ImageError, match="expected digest"):
        ensure(store, made, source)
    assert len([*all_layers(store)]) == 2
    assert ingest_is_empty(store)
