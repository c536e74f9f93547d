"""The JSON of `docker image inspect`: fields as Docker has them, and what an image leaves out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from testing.images import Image, digest, encode, file, image
from tests.image.rig import Source, ensure
from tests.support.mounts import needs_root
from tests.support.stores import put
from unionfs.image import find, index, inspect, names
from unionfs.image.commit import Above, commit
from unionfs.image.new_image import About
from unionfs.image.store import Store

DOCKER = (
    "Id RepoTags RepoDigests Parent Comment Created DockerVersion Author Config Architecture Os Size"
    " GraphDriver RootFS Metadata"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def changed(made: Image, **fields: object) -> Image:
    """An image with further fields in its config."""
    config = encode(msgspec.json.decode(made.config) | fields)
    manifest = msgspec.json.decode(made.manifest)
    manifest["config"] |= {"digest": digest(config), "size": len(config)}
    return Image(config, made.layers, made.blobs, encode(manifest), made.media_type)


def test_an_image(store: Store) -> None:
    healthcheck = {"Test": ["CMD", "true"]}
    made = changed(
        image([[file("a", b"1")], [file("b", b"2")]], {"Env": ["A=1"], "Healthcheck": healthcheck}),
        author="the author",
        history=[{"created_by": "a"}, {"created_by": "b", "comment": "second"}],
        variant="v8",
    )
    put(store, made, "debian:12", "localhost:5000/x:1", repo_digest="debian@sha256:" + "d" * 64)
    found = inspect.image(store, find.resolve(store, "debian:12"))
    assert [*found] == DOCKER.replace("Architecture", "Architecture Variant").split()
    assert found["Id"] == made.id
    assert found["RepoTags"] == ["debian:12", "localhost:5000/x:1"]
    assert found["RepoDigests"] == ["debian@sha256:" + "d" * 64]
    assert (found["Comment"], found["Author"], found["Variant"]) == ("second", "the author", "v8")
    assert found["Created"] == "2023-11-14T22:13:20Z"
    assert found["RootFS"] == {"Type": "layers", "Layers": [digest(each) for each in made.layers]}
    assert found["Config"]["Env"] == ["A=1"]
    assert found["Config"]["Healthcheck"] == healthcheck
    assert (found["Config"]["Cmd"], found["Config"]["Tty"], found["Config"]["User"]) == (None, False, "")
    assert found["GraphDriver"] == {"Data": None, "Name": "overlay2"}, "nothing is unpacked"
    assert found["Metadata"]["LastTagTime"] > "2026"


def test_an_image_that_says_nothing(store: Store) -> None:
    put(store, changed(image([]), created=None, config=None, history=None))
    found = inspect.image(store, index.images(store)[0])
    assert [*found] == DOCKER.split()
    assert (found["RepoTags"], found["RepoDigests"], found["Size"], found["Author"]) == ([], [], 0, "")
    assert found["Created"] == found["Metadata"]["LastTagTime"] == "0001-01-01T00:00:00Z"
    assert found["Config"]["Env"] is None


@needs_root
def test_the_parent_of_what_was_committed_here_is_its_base(store: Store, tmp_path: Path) -> None:
    """Docker says no parent of what came from elsewhere, whatever is in the store; and none that is gone."""
    layers = [[file(name)] for name in "abc"]
    one, two = (image(layers[:number]) for number in (1, 2))
    without_history = changed(image(layers), history=None)
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "new").touch()

    def made_of(base: Image, number: int) -> index.Image:
        ensure(store, base, Source(base))
        put(store, base, f"base:{number}")
        found = find.resolve(store, f"base:{number}")
        tag = names.parse(f"new:{number}")
        made = commit(store, Above([upper]), found, About(), lambda path, text: None, tag=tag).image
        assert inspect.image(store, found)["Parent"] == ""
        assert inspect.image(store, made)["Parent"] == base.id
        return made

    made_of(one, 0)
    made_of(two, 1)
    made = made_of(without_history, 2)
    # Further names, and the loss of one, change nothing of it.
    index.add(store, made.manifest, names.parse("other:1"))
    index.remove_names(store, [made], made.tags)
    (again,) = [each for each in index.images(store) if each.manifest.digest == made.manifest.digest]
    assert [each.familiar for each in again.tags] == ["other:1"]
    assert inspect.image(store, again)["Parent"] == without_history.id
    index.remove_image(store, find.resolve(store, "base:2").manifest.id)
    assert inspect.image(store, again)["Parent"] == ""
