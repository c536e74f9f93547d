"""Images go both ways between this program and skopeo, umoci, podman, buildah and containerd.

The same ids and DiffIDs, and trees that agree in every attribute with what those programs unpack.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from testing.images import by_buildah, debian_like, image, like_debian, write_layout
from testing.images.programs import Containerd, containerd, engine, run
from testing.images.trees import Node
from tests.image.rig import add
from tests.support.interop import (
    assert_same,
    first_manifest,
    needs_programs,
    our_tree,
    tree_by_buildah,
    tree_by_podman,
    tree_by_umoci,
)
from unionfs.image import find, index
from unionfs.image.digest import digest_of
from unionfs.image.store import Store

PROGRAMS = ("skopeo", "umoci", "podman", "buildah", "containerd", "ctr", "busybox")

pytestmark = needs_programs(*PROGRAMS)

NAME = "docker.io/library/sample:1"
KINDS = ("built", "like-debian")


@pytest.fixture(scope="module", params=KINDS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout directory with the image NAME: built by buildah, or many files of many kinds."""
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "built":
        return by_buildah.build(place / "built", name=NAME)
    return write_layout(place / "layout", {NAME: image(debian_like(), like_debian.CONFIG)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Containerd]:
    with containerd(tmp_path / "containerd") as running:
        yield running


def pyunionfs(store: Store, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "unionfs", *map(str, words)],
        env={**os.environ, "PYUNIONFS_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def document(layout: Path, digest: str) -> dict[str, object]:
    content = (layout / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()
    found: dict[str, object] = msgspec.json.decode(content)
    return found


def ids(layout: Path, name: str = NAME) -> tuple[str, list[str]]:
    """Id and DiffIDs of an image in a layout directory, without our own code."""
    index = msgspec.json.decode((layout / "index.json").read_bytes())
    for entry in index["manifests"]:
        if name in (entry.get("annotations", {}).get("org.opencontainers.image.ref.name"), ""):
            config = msgspec.convert(document(layout, entry["digest"])["config"], dict[str, object])
            rootfs = msgspec.convert(
                document(layout, str(config["digest"]))["rootfs"], dict[str, list[str] | str]
            )
            return str(config["digest"]), list(rootfs["diff_ids"])
    raise LookupError(f"{name} is not in {layout}")


def our_ids(store: Store, name: str = NAME) -> tuple[str, list[str]]:
    manifest = find.manifest_of(store, find.resolve(store, name).manifest)
    return manifest.config.digest, [str(each) for each in find.config_of(store, manifest).diff_ids]


@pytest.fixture(scope="module")
def unpacked(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Node]:
    """The tree that umoci unpacks."""
    return tree_by_umoci(f"{layout}:{NAME}", tmp_path_factory.mktemp("umoci") / "bundle")


# ---- from others


def test_a_layout_directory_as_it_is(
    store: Store, layout: Path, unpacked: dict[bytes, Node], tmp_path: Path
) -> None:
    assert pyunionfs(store, "load", layout) == "Loaded image: sample:1\n"
    assert our_ids(store) == ids(layout)
    assert_same(our_tree(store, tmp_path, NAME), unpacked)


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci"])
def test_from_skopeo(
    kind: str, store: Store, layout: Path, unpacked: dict[bytes, Node], tmp_path: Path
) -> None:
    run("skopeo", "copy", f"oci:{layout}:{NAME}", f"{kind}:{tmp_path / 'copy'}:{NAME}")
    assert pyunionfs(store, "load", tmp_path / "copy") == "Loaded image: sample:1\n"
    assert our_ids(store)[1] == ids(layout)[1]
    if kind != "docker-archive":
        assert our_ids(store) == ids(layout)
    assert_same(our_tree(store, tmp_path, NAME), unpacked)


FORMS = ("docker-archive", "oci-archive", "oci-dir")


@pytest.fixture(scope="module")
def from_podman(
    layout: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], dict[bytes, Node]]:
    """What podman has saved, by form, and the tree that it mounts."""
    place = tmp_path_factory.mktemp("podman")
    saved = {form: place / form for form in FORMS}
    with engine("podman") as podman:
        podman.run("pull", f"oci:{layout}:{NAME}")
        (identifier,) = podman.run("images", "--quiet", "--no-trunc").split()
        podman.run("tag", identifier, NAME)
        for form, path in saved.items():
            podman.run("save", "--format", form, "--output", path, NAME)
        theirs = tree_by_podman(podman, NAME)
    run("gzip", "-1", "-k", saved["docker-archive"])
    saved["gzip"] = saved["docker-archive"].with_suffix(".gz")
    return saved, theirs


@pytest.mark.parametrize("form", [*FORMS, "gzip"])
def test_from_podman(
    form: str,
    store: Store,
    layout: Path,
    from_podman: tuple[dict[str, Path], dict[bytes, Node]],
    tmp_path: Path,
) -> None:
    saved, theirs = from_podman
    assert pyunionfs(store, "load", saved[form]) == "Loaded image: sample:1\n"
    assert our_ids(store)[1] == ids(layout)[1]
    assert_same(our_tree(store, tmp_path, NAME), theirs)


def test_from_buildah(store: Store, layout: Path, tmp_path: Path) -> None:
    with engine("buildah") as buildah:
        container = buildah.run("from", f"oci:{layout}:{NAME}").strip()
        theirs = tree_by_buildah(buildah, container)
        buildah.run("commit", container, f"oci-archive:{tmp_path / 'built.tar'}:{NAME}")
        buildah.run("rm", container)
    assert pyunionfs(store, "load", tmp_path / "built.tar") == "Loaded image: sample:1\n"
    assert our_ids(store)[1][: len(ids(layout)[1])] == ids(layout)[1]
    assert_same(our_tree(store, tmp_path, NAME), theirs)


def test_from_containerd(store: Store, layout: Path, daemon: Containerd, tmp_path: Path) -> None:
    run("tar", "-C", layout, "-cf", tmp_path / "layout.tar", ".")
    daemon.ctr("images", "import", tmp_path / "layout.tar")
    daemon.ctr("images", "export", tmp_path / "exported.tar", NAME)
    assert pyunionfs(store, "load", tmp_path / "exported.tar") == "Loaded image: sample:1\n"
    assert our_ids(store) == ids(layout)
    assert_same(our_tree(store, tmp_path, NAME), daemon.tree_of(NAME))


# ---- to others


@pytest.fixture(scope="module")
def loaded(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the image."""
    store = Store(tmp_path_factory.mktemp("loaded") / "store")
    pyunionfs(store, "load", layout)
    return store


@pytest.fixture(scope="module")
def saved(loaded: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The image as this program saves it, by form."""
    place = tmp_path_factory.mktemp("saved")
    for form in FORMS:
        pyunionfs(loaded, "save", "--format", form, "--output", place / form, "sample:1")
    return {form: place / form for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_to_skopeo(form: str, saved: dict[str, Path], layout: Path, tmp_path: Path) -> None:
    kind = "oci" if form == "oci-dir" else form
    run("skopeo", "copy", f"{kind}:{saved[form]}:{NAME}", f"oci:{tmp_path / 'copy'}:{NAME}")
    assert ids(tmp_path / "copy")[1] == ids(layout)[1]
    if form != "docker-archive":
        assert ids(tmp_path / "copy") == ids(layout)


def test_to_umoci(saved: dict[str, Path], unpacked: dict[bytes, Node], tmp_path: Path) -> None:
    assert_same(tree_by_umoci(f"{saved['oci-dir']}:{NAME}", tmp_path / "bundle"), unpacked)


def test_the_store_to_umoci_and_skopeo(
    loaded: Store, layout: Path, unpacked: dict[bytes, Node], tmp_path: Path
) -> None:
    """They read it as it is."""
    assert_same(tree_by_umoci(f"{loaded.root}:{NAME}", tmp_path / "bundle"), unpacked)
    run("skopeo", "copy", f"oci:{loaded.root}:{NAME}", f"oci:{tmp_path / 'copy'}:{NAME}")
    assert ids(tmp_path / "copy") == ids(layout)


def test_a_store_of_dockers_types_to_umoci_skopeo_and_podman(store: Store, tmp_path: Path) -> None:
    """They read it as it is, and find the same image; what they do to the layout takes nothing from it."""
    made = image(debian_like(), like_debian.CONFIG, docker=True)
    add(store, made, NAME, repo_digest=f"q.io/x/y@{made.digest}")
    source = f"oci:{store.root}:{NAME}"
    assert msgspec.json.decode(run("skopeo", "inspect", source))["Layers"] == [
        digest_of(b) for b in made.blobs
    ]
    run("skopeo", "copy", source, f"oci:{tmp_path / 'copy'}:{NAME}")
    assert ids(tmp_path / "copy") == our_ids(store) == (made.id, [digest_of(each) for each in made.layers])
    theirs = tree_by_umoci(f"{store.root}:{NAME}", tmp_path / "bundle")
    assert_same(our_tree(store, tmp_path, NAME), theirs)
    with engine("podman") as podman:
        podman.run("pull", source)
        assert podman.run("images", "--quiet", "--no-trunc").split() == [made.id]
    assert run("umoci", "list", "--layout", store.root).split() == [NAME]
    run("umoci", "gc", "--layout", store.root)
    (found,) = index.images(store)
    assert (found.manifest.digest, len(found.repo_digests)) == (made.digest, 1)
    assert pyunionfs(store, "verify") == "everything in the store is as it must be\n"


@pytest.mark.parametrize("form", FORMS)
def test_to_podman(form: str, saved: dict[str, Path], loaded: Store, layout: Path, tmp_path: Path) -> None:
    with engine("podman") as podman:
        if form == "oci-dir":
            podman.run("pull", f"oci:{saved[form]}:{NAME}")  # its `load` does not look for names in one
        else:
            assert NAME in podman.run("load", "--input", saved[form])
        (identifier,) = podman.run("images", "--quiet", "--no-trunc").split()
        assert identifier == ids(layout)[0]
        theirs = tree_by_podman(podman, identifier)
    assert_same(our_tree(loaded, tmp_path, NAME), theirs)


@pytest.mark.parametrize("form", FORMS[:2])
def test_to_containerd(
    form: str, saved: dict[str, Path], loaded: Store, daemon: Containerd, layout: Path, tmp_path: Path
) -> None:
    assert NAME in daemon.ctr("images", "import", saved[form])
    assert_same(our_tree(loaded, tmp_path, NAME), daemon.tree_of(NAME))
    if form == "oci-archive":
        assert first_manifest(layout) in daemon.ctr("images", "list")


def test_several_images_to_podman_and_containerd(
    store: Store, layout: Path, daemon: Containerd, tmp_path: Path
) -> None:
    pyunionfs(store, "load", layout)
    pyunionfs(store, "tag", "sample:1", "localhost:5000/other:2")
    archive = tmp_path / "several.tar"
    pyunionfs(store, "save", "-o", archive, "sample", "localhost:5000/other")
    with engine("podman") as podman:
        podman.run("load", "--input", archive)
        names = set(podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split())
    assert names == {NAME, "localhost:5000/other:2"}
    daemon.ctr("images", "import", archive)
    assert set(daemon.ctr("images", "list", "--quiet").split()) == names
