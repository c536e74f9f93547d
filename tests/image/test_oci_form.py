"""An image that came in Docker's types is listed in OCI's for other programs, and stays what it was."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from testing.images import Image, directory, file, image
from tests.image.rig import add, documents
from tests.support.stores import put
from unionfs.image import archive, blobs, find, index, names, usage
from unionfs.image.digest import Digest
from unionfs.image.model import DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST, Descriptor, decode_manifest, encode
from unionfs.image.prune import prune
from unionfs.image.remove import remove
from unionfs.image.store import Store
from unionfs.image.verify import Verification

LAYERS = [[directory("d"), file("d/file", b"x" * 100)], [file("top")]]
DOCKER, OCI = image(LAYERS, docker=True), image(LAYERS)
REPOSITORY = f"q.io/x/y@{DOCKER.digest}"
CAME_AS, REF_NAME = "io.pyunionfs.came-as", "org.opencontainers.image.ref.name"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def listed(store: Store) -> list[tuple[str, str, str | None]]:
    """Media type, digest and name of each entry of index.json."""
    document = msgspec.json.decode(store.index.read_bytes())
    return [
        (each["mediaType"], each["digest"], each.get("annotations", {}).get(REF_NAME))
        for each in document["manifests"]
    ]


def rewrite(store: Store, *kept: str | None) -> None:
    """Index.json as another program leaves it: only the entries of these names, or with none."""
    document = msgspec.json.decode(store.index.read_bytes())
    entries = document["manifests"]
    document["manifests"] = [each for each in entries if each.get("annotations", {}).get(REF_NAME) in kept]
    store.index.write_bytes(encode(document))


def form_of(store: Store, name: str = "a:1") -> Path:
    (digest,) = {each[1] for each in listed(store) if each[2] == str(names.parse(name))}
    return blobs.path_of(store, Digest(digest))


def test_names_are_at_manifests_with_types_of_oci(store: Store) -> None:
    put(store, DOCKER, "a:1", "b:2", repo_digest=REPOSITORY)
    form = f"sha256:{form_of(store).name}"
    assert listed(store) == [
        (DOCKER_MANIFEST, DOCKER.digest, None),
        (OCI_MANIFEST, form, "docker.io/library/a:1"),
        (OCI_MANIFEST, form, "docker.io/library/b:2"),
    ]
    manifest = decode_manifest(form_of(store).read_bytes(), OCI_MANIFEST, "the form")
    # But for its types it is the same, and just what it would be had it been made so.
    assert manifest == documents(OCI)[0]
    (found,) = index.images(store)
    assert (found.manifest.media_type, found.manifest.digest) == (DOCKER_MANIFEST, DOCKER.digest)
    assert [each.familiar for each in (*found.tags, *found.repo_digests)] == ["a:1", "b:2", REPOSITORY]
    assert find.resolve(store, DOCKER.digest.removeprefix("sha256:")[:12]).manifest == found.manifest


def test_an_image_of_ocis_types_is_listed_as_it_is(store: Store) -> None:
    put(store, OCI, "a:1")
    assert listed(store) == [(OCI_MANIFEST, OCI.digest, "docker.io/library/a:1")]
    assert len([*blobs.all_blobs(store)]) == 4


def test_types_of_both_in_one_manifest(store: Store) -> None:
    mixed = msgspec.json.decode(OCI.manifest)
    mixed["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    made = Image(OCI.config, OCI.layers, OCI.blobs, msgspec.json.encode(mixed), OCI_MANIFEST)
    put(store, made, "a:1")
    manifest = decode_manifest(form_of(store).read_bytes(), OCI_MANIFEST, "the form")
    assert manifest.config.media_type == OCI_CONFIG  # type: ignore[union-attr]
    assert [each.manifest.digest for each in index.images(store)] == [made.digest]


def test_the_form_goes_and_comes_with_the_last_name(store: Store) -> None:
    add(store, DOCKER, "a:1")
    form = form_of(store)
    assert usage.usage(store).blobs.total == len(DOCKER.blobs), "a manifest is no layer"
    with store.pruning():
        assert prune(store).images == []
    assert form.exists()
    add(store, image([[file("other")]]), "a:1")
    assert listed(store)[0] == (DOCKER_MANIFEST, DOCKER.digest, None)
    index.add(store, index.images(store)[0].manifest, names.parse("b:1"))
    assert form_of(store, "b:1") == form
    with store.pruning():
        assert remove(store, "b:1", []).deleted[0] == DOCKER.id
    assert not form.exists()
    assert [each[0] for each in listed(store)] == [OCI_MANIFEST]


@pytest.mark.parametrize("damage", [os.unlink, lambda path: Path(path).write_bytes(b"{}")])
def test_a_form_that_is_lost_is_made_again(store: Store, damage: object) -> None:
    add(store, DOCKER, "a:1")
    form = form_of(store)
    content = form.read_bytes()
    assert callable(damage)
    damage(form)
    with store.in_use():
        assert any("for other programs" in each.problem for each in Verification(store).run())
    with store.pruning():
        (finding,) = Verification(store, mend=True).run()
    assert (finding.what, finding.done) == ("image a:1", "made again")
    assert form.read_bytes() == content
    form.unlink()
    put(store, OCI, "b:1")
    assert form.read_bytes() == content, "a change of the list makes it again, too"


def test_another_program_removes_names(store: Store) -> None:
    add(store, DOCKER, "a:1", "b:2", repo_digest=REPOSITORY)
    rewrite(store, None, "docker.io/library/b:2")
    (found,) = index.images(store)
    assert (found.manifest.digest, [each.familiar for each in found.tags]) == (DOCKER.digest, ["b:2"])
    rewrite(store, None)
    (found,) = index.images(store)
    assert (found.tags, [each.familiar for each in found.repo_digests]) == ([], [REPOSITORY])
    assert found.manifest.digest == DOCKER.digest


def test_a_form_whose_manifest_is_not_listed_is_an_image(store: Store) -> None:
    add(store, DOCKER, "a:1")
    rewrite(store, "docker.io/library/a:1")
    (found,) = index.images(store)
    assert (found.manifest.media_type, found.tags) == (OCI_MANIFEST, [names.parse("a:1")])
    assert find.manifest_of(store, found.manifest).config.digest == DOCKER.id
    with store.pruning():
        prune(store)
    assert find.config_of(store, find.manifest_of(store, found.manifest)).diff_ids


def test_a_list_from_before_gets_forms_where_it_can(store: Store) -> None:
    """One with Docker's manifests under names, of which one is lost."""
    lost = image([[file("lost")]], docker=True)
    entries = []
    for made, name in ((DOCKER, "a:1"), (lost, "lost:1")):
        put(store, made)
        annotations = {REF_NAME: str(names.parse(name))}
        entries.append(Descriptor(made.media_type, made.digest, len(made.manifest), annotations))
    store.index.write_bytes(encode({"schemaVersion": 2, "manifests": entries}))
    blobs.path_of(store, Digest(lost.digest)).unlink()
    put(store, image([[file("new")]]), "new:1")
    assert form_of(store).exists()
    assert (DOCKER_MANIFEST, lost.digest, "docker.io/library/lost:1") in listed(store)
    assert [each.tags[0].familiar for each in index.images(store)] == ["a:1", "lost:1", "new:1"]


def test_a_store_that_is_loaded_gives_the_images_that_it_has(store: Store, tmp_path: Path) -> None:
    add(store, DOCKER, "a:1", "b:2")
    add(store, OCI, "c:3")
    other = Store(tmp_path / "other")
    fd = os.open(store.root, os.O_RDONLY)
    try:
        archive.load(other, fd, "the store")
    finally:
        os.close(fd)
    assert [(each.manifest.digest, [*map(str, each.tags)]) for each in index.images(other)] == [
        (each.manifest.digest, [*map(str, each.tags)]) for each in index.images(store)
    ]
