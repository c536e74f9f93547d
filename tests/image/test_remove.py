"""Removing images: which names go, what goes with the last one, and what is refused, as by Docker."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from testing.images import Image, file, image
from tests.support.stores import put
from unionfs.errors import ImageError, NotFoundError
from unionfs.image import blobs, index
from unionfs.image.digest import Digest
from unionfs.image.remove import Removed, User, remove
from unionfs.image.store import Store

ONE = image([[file("base")], [file("one")]])
TWO = image([[file("base")], [file("two")]])
ID = Digest(ONE.id)
RUNNING, STOPPED = User("runs", ID, True), User("stopped", ID, False)
DIGEST, OTHER_DIGEST = "one@sha256:" + "d" * 64, "other@sha256:" + "e" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, TWO, "two:1")
    return store


def named(store: Store, *tags: str, repo_digest: str | None = None) -> None:
    put(store, ONE, *tags, repo_digest=repo_digest)


def removed(store: Store, text: str, *users: User, force: bool = False) -> Removed:
    with store.pruning():
        return remove(store, text, users, force=force)


def untagged(found: Removed) -> list[str]:
    return [each.familiar for each in found.untagged]


def left(store: Store) -> dict[str, list[str]]:
    return {
        each.manifest.digest: [name.familiar for name in (*each.tags, *each.repo_digests)]
        for each in index.images(store)
    }


def blobs_of(store: Store) -> set[str]:
    return {str(digest) for digest, _ in blobs.all_blobs(store)}


def test_the_last_name_takes_the_image_with_what_it_has_alone(store: Store) -> None:
    named(store, "one:1", "one:2")
    assert untagged(removed(store, "one:1")) == ["one:1"]
    assert left(store)[ONE.digest] == ["one:2"]
    found = removed(store, "one:2")
    assert (untagged(found), found.deleted) == (["one:2"], [ONE.id])
    assert left(store) == {TWO.digest: ["two:1"]}
    assert blobs_of(store) == {TWO.id, TWO.digest, *(layer["digest"] for layer in layers(TWO))}


def layers(made: Image) -> list[dict[str, str]]:
    found: list[dict[str, str]] = msgspec.json.decode(made.manifest)["layers"]
    return found


def test_with_the_last_tag_of_a_repository_go_its_digests(store: Store) -> None:
    named(store, "one:1", repo_digest=DIGEST)
    named(store, "other:1", repo_digest=OTHER_DIGEST)
    assert untagged(removed(store, "one:1")) == ["one:1", DIGEST]
    assert left(store)[ONE.digest] == ["other:1", OTHER_DIGEST]
    assert untagged(removed(store, OTHER_DIGEST)) == [OTHER_DIGEST]
    assert left(store)[ONE.digest] == ["other:1"]
    assert untagged(removed(store, "other:1")) == ["other:1"]
    assert ONE.digest not in left(store)


def test_an_image_without_a_name_goes_by_its_id(store: Store) -> None:
    named(store)
    assert removed(store, ID.short).deleted == [ONE.id]


def test_manifests_of_one_config_are_one_image(store: Store) -> None:
    named(store, "one:1")
    docker = image([[file("base")], [file("one")]], docker=True)
    assert docker.id == ONE.id
    put(store, docker)
    assert removed(store, ID.short).deleted == [ONE.id]
    assert left(store) == {TWO.digest: ["two:1"]}


@pytest.mark.parametrize(
    ("tags", "text", "users", "about", "by_force"),
    [
        (["one:1"], "one:1", [STOPPED], "the last name", True),
        (["one:1", "one:2"], "one:1", [STOPPED, RUNNING], None, True),
        (["one:1"], "one:1", [STOPPED, RUNNING], "runs, which is running", False),
        (["one:1"], ID.short, [STOPPED], "container stopped has it", True),
        (["one:1"], ID.short, [RUNNING], "runs, which is running", False),
        (["one:1", "one:2"], ID.short, [], r"several names \(one:1, one:2\)", True),
        (["one:1", "other:1"], ID, [], "several names", True),
        (["one:1"], ID, [], None, True),
        (["one:1"], "one", [], "there is no image one", False),
        (["one:1"], "one:1", [User("of another", Digest(TWO.id), True)], None, True),
    ],
)
def test_what_is_refused_and_what_force_does(
    store: Store, tags: list[str], text: str, users: list[User], about: str | None, by_force: bool
) -> None:
    named(store, *tags)
    before = store.index.read_bytes()
    if about is not None:
        with pytest.raises(ImageError, match=about):
            removed(store, text, *users)
        assert store.index.read_bytes() == before
    if by_force:
        removed(store, text, *users, force=True)
        assert len(left(store).get(ONE.digest, [])) in (0, len(tags) - 1)
    else:
        with pytest.raises(ImageError, match=about):
            removed(store, text, *users, force=True)


def test_one_that_is_gone(store: Store) -> None:
    with pytest.raises(NotFoundError):
        removed(store, ID.short)
