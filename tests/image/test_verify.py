"""Each kind of damage in the store is found, and mended where it can be."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.images import directory, file, hard_link, image, whiteout
from tests.image.rig import Source, add, documents, ensure, in_memory
from unionfs.cli import main
from unionfs.errors import ImageError
from unionfs.image import blobs, index, lowers
from unionfs.image.digest import Digest, Readable
from unionfs.image.in_use import in_use
from unionfs.image.layer_record import Layer, all_layers
from unionfs.image.model import Descriptor, encode
from unionfs.image.names import Reference
from unionfs.image.prune import prune
from unionfs.image.store import Store
from unionfs.image.verify import Finding, Verification, fetch_nothing

BASE = [
    directory("d"),
    file("d/file", b"f" * 1000, 0o640),
    file("gone", b"g"),
    file("xattrs", xattrs={"user.a": b"1"}),
]
TOP = [hard_link("link", "d/file"), whiteout("gone"), file("top", b"t" * 100)]
MADE = image([BASE, TOP])
REPOSITORY = "q.io/x/y@sha256:" + "d" * 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with in_memory(tmp_path) as place:
        yield Store(place / "store")


@pytest.fixture
def made(store: Store) -> list[Layer]:
    return add(store, MADE, "a:1", repo_digest=REPOSITORY)


@contextmanager
def registry(repository: Reference, blob: Descriptor) -> Iterator[Readable]:
    """Has everything of MADE."""
    assert repository.name == "q.io/x/y"
    content = {Digest(MADE.digest): MADE.manifest, Digest(MADE.id): MADE.config, **Source(MADE).content}
    yield io.BytesIO(content[blob.id])


def look(store: Store) -> list[Finding]:
    with store.in_use():
        return [*Verification(store).run()]


def mended(store: Store, *, online: bool) -> list[Finding]:
    with store.pruning():
        return [*Verification(store, mend=True, fetch=registry if online else fetch_nothing).run()]


def snapshot(store: Store) -> dict[str, tuple[int, int, bytes]]:
    """Everything in the store but the notes in tree.json, to see that nothing was changed."""
    found = {}
    for path in sorted(path for path in store.root.rglob("*") if path.name != "tree.json"):
        st = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(store.root))] = (st.st_mode, st.st_ino, content)
    return found


def test_a_sound_store(store: Store, made: list[Layer]) -> None:
    assert look(store) == []
    with store.pruning():
        prune(store, layer_blobs=True)
    assert look(store) == []
    assert mended(store, online=False) == []


@dataclass(frozen=True)
class Damage:
    """What is done to the store, what is found then, and whether a repair mends it without a registry."""

    name: str
    do: Callable[[Store, list[Layer]], object]
    says: str
    offline: bool
    loses_image: bool = False


def blob_of(store: Store, number: int) -> Path:
    return blobs.path_of(store, documents(MADE)[0].layers[number].id)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def free_blobs(store: Store) -> None:
    with store.pruning():
        prune(store, layer_blobs=True)


def free_then(damage: Callable[[list[Layer]], object]) -> Callable[[Store, list[Layer]], object]:
    def both(store: Store, made: list[Layer]) -> None:
        free_blobs(store)
        damage(made)

    return both


def lose_layer(store: Store, made: list[Layer]) -> None:
    """Layer and blob."""
    blob_of(store, 1).unlink()
    made[1].path.parent.rename(store.root / "lost")


def exchange_records(store: Store, made: list[Layer]) -> None:
    one, two = (store.layers / layer.chain.hex / "layer.json" for layer in made)
    one.write_bytes(two.read_bytes())


def spoil_record(store: Store, made: list[Layer]) -> None:
    path = layer_json(store, made)
    path.write_bytes(path.read_bytes().replace(b'"entries":4', b'"entries":5'))


def relink(store: Store, made: list[Layer]) -> None:
    link = store.layers / made[0].chain.hex / "diff"
    link.unlink()
    link.symlink_to(made[1].path)


def manifest(store: Store) -> Path:
    return blobs.path_of(store, Digest(MADE.digest))


def config(store: Store) -> Path:
    return blobs.path_of(store, Digest(MADE.id))


DAMAGES = [
    Damage("a blob that is spoiled", lambda store, made: spoil(blob_of(store, 0)), "damaged", offline=True),
    Damage(
        "a blob that is cut", lambda store, made: os.truncate(blob_of(store, 1), 10), "damaged", offline=True
    ),
    Damage(
        "a blob that is empty", lambda store, made: os.truncate(blob_of(store, 1), 0), "damaged", offline=True
    ),
    Damage(
        "something else there",
        lambda store, made: (store.blobs / "sha256/x").touch(),
        "is no digest",
        offline=True,
    ),
    Damage(
        "a manifest that is spoiled",
        lambda store, made: spoil(manifest(store)),
        "manifest",
        True,
        loses_image=True,
    ),
    Damage("no manifest", lambda store, made: manifest(store).unlink(), "manifest", True, loses_image=True),
    Damage("no config", lambda store, made: config(store).unlink(), "config", True, loses_image=True),
    Damage("a spoiled config", lambda store, made: spoil(config(store)), "config", True, loses_image=True),
    Damage(
        "content", lambda store, made: spoil(made[0].path / "d/file"), "differs at 'd/file'", offline=True
    ),
    Damage(
        "a mode",
        lambda store, made: (made[0].path / "d/file").chmod(0o600),
        "differs at 'd/file'",
        offline=True,
    ),
    Damage(
        "a mode of the root", lambda store, made: made[0].path.chmod(0o700), "differs at '.'", offline=True
    ),
    Damage(
        "an owner", lambda store, made: os.chown(made[0].path / "d", 1, 1), "differs at 'd'", offline=True
    ),
    Damage(
        "a time", lambda store, made: os.utime(made[1].path / "top", (1, 1)), "differs at 'top'", offline=True
    ),
    Damage(
        "an xattr", lambda store, made: os.setxattr(made[0].path / "xattrs", "user.a", b"2"), "'xattrs'", True
    ),
    Damage(
        "no xattr", lambda store, made: os.removexattr(made[0].path / "xattrs", "user.a"), "'xattrs'", True
    ),
    Damage("a file too many", lambda store, made: (made[1].path / "new").touch(), "'new'", offline=True),
    Damage("a file too few", lambda store, made: (made[1].path / "top").unlink(), "'top'", offline=True),
    Damage("no whiteout", lambda store, made: (made[1].path / "gone").unlink(), "'gone'", offline=True),
    Damage("no link", lambda store, made: (made[1].path / "link").unlink(), "'link'", offline=True),
    Damage(
        "content of a layer whose blob is freed",
        free_then(lambda made: spoil(made[0].path / "d/file")),
        "its tree was changed, and its blob is not in the store",
        offline=False,
    ),
    Damage(
        "a cut layer.json", lambda store, made: os.truncate(layer_json(store, made), 99), "malformed", True
    ),
    Damage("a spoiled layer.json", spoil_record, "tree.json of its tree differ", offline=True),
    Damage(
        "no layer.json", lambda store, made: layer_json(store, made).unlink(), "layer.json or", offline=True
    ),
    Damage("another layer's layer.json", exchange_records, "another layer's", offline=True),
    Damage("another layer's tree", relink, "does not lead to its tree", offline=True),
    Damage(
        "no tree",
        lambda store, made: made[0].path.parent.rename(store.root / "lost"),
        "its tree",
        offline=True,
    ),
    Damage("neither layer nor blob", lose_layer, "neither unpacked nor a blob", offline=False),
    Damage(
        "something else there", lambda store, made: (store.layers / "x").mkdir(), "is no digest", offline=True
    ),
]


def layer_json(store: Store, made: list[Layer]) -> Path:
    return store.layers / made[0].chain.hex / "layer.json"


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.name for damage in DAMAGES])
@pytest.mark.parametrize("noted", [True, False])
def test_damage_is_found_and_mended(store: Store, made: list[Layer], damage: Damage, noted: bool) -> None:
    if noted:
        assert look(store) == []
    damage.do(store, made)
    before = snapshot(store)
    found = look(store)
    assert any(damage.says in f"{each.what}: {each.problem}" for each in found), found
    assert [each.done for each in found] == [""] * len(found)
    assert snapshot(store) == before

    done = mended(store, online=False)
    assert (all(each.done for each in done)) == damage.offline, done
    assert (look(store) == []) == damage.offline
    assert (len(index.images(store)) == 0) == damage.loses_image
    with store.pruning():
        prune(store)
    again = add(store, MADE, "a:1", repo_digest=REPOSITORY) if damage.offline else None
    assert again is None or (look(store), again) == ([], made)


FETCHED = [each for each in DAMAGES if not each.offline or each.loses_image or "blob" in each.name]


@pytest.mark.parametrize("damage", FETCHED, ids=[damage.name for damage in FETCHED])
def test_a_registry_has_what_is_lost(store: Store, made: list[Layer], damage: Damage) -> None:
    damage.do(store, made)
    done = mended(store, online=True)
    assert done
    assert all(each.done for each in done), done
    assert look(store) == []
    assert len(index.images(store)) == 1
    assert [*all_layers(store)] == sorted(made, key=lambda layer: layer.chain.hex)


def test_a_layer_that_is_mounted_is_not_replaced(store: Store, made: list[Layer]) -> None:
    (made[0].path / "gone").write_bytes(b"x")
    held = lowers.hold([made[0].path])
    try:
        (finding,) = mended(store, online=False)
        assert (finding.done, "unmount" in finding.problem) == ("", True)
        assert (made[0].path / "gone").read_bytes() == b"x"
    finally:
        lowers.release(held)
    assert [each.done for each in mended(store, online=False)] == ["unpacked again"]
    assert (made[0].path / "gone").read_bytes() == b"g"


def test_what_was_unpacked_without_keeping_the_blob(store: Store) -> None:
    found = ensure(store, MADE, Source(MADE), keep_blobs=False)
    assert look(store) == []
    (found[0].path / "gone").write_bytes(b"x")
    assert [each.problem for each in look(store)] == [
        "its tree was changed, and its blob is not in the store"
    ]


def test_a_container_without_its_layers(store: Store, made: list[Layer]) -> None:
    folder = store.containers / ("c" * 64)
    folder.mkdir()
    record = {
        "id": folder.name,
        "name": "lonely",
        "manifest": Descriptor(MADE.media_type, MADE.digest, len(MADE.manifest)),
        "layers": [layer.chain for layer in made],
    }
    (folder / "container.json").write_bytes(encode(record))
    index.remove_image(store, Digest(MADE.digest))
    assert look(store) == []
    lose_layer(store, made)
    assert [each.what for each in look(store)][-1] == "container lonely"
    config(store).unlink()
    assert "container lonely" in {each.what for each in look(store)}
    assert set(in_use(store).chains) == {layer.chain for layer in made}


def test_the_command(store: Store, made: list[Layer], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "--store", str(store.root)]
    assert main(words) == 0
    assert "as it must be" in capsys.readouterr().out
    (made[0].path / "gone").write_bytes(b"x")
    assert main(words) == 1
    assert "1 found: `pyunionfs verify --repair`" in capsys.readouterr().out
    assert main([*words, "--json", "--repair"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["done"] == "unpacked again"
    assert main(words) == 0


def test_nothing_is_fetched_without_a_registry() -> None:
    with pytest.raises(ImageError, match="no registry"):
        fetch_nothing(Reference("q.io", "x"), Descriptor("x", MADE.digest, 1))
