"""Images go both ways by a registry between this program and skopeo, podman, buildah and containerd.

The same digests, the trees that those programs unpack, and credentials that either side has stored.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from testing.images import by_buildah
from testing.images.programs import Containerd, containerd, engine, run
from testing.images.trees import Node
from tests.support.interop import (
    assert_same,
    first_manifest,
    needs_programs,
    our_tree,
    tree_by_buildah,
    tree_by_podman,
    tree_by_umoci,
)
from tests.support.registries import Running, certificates, needs_registry, serving
from unionfs.cli import main
from unionfs.image import find, index
from unionfs.image.store import Store

PROGRAMS = ("skopeo", "umoci", "podman", "buildah", "containerd", "ctr", "busybox", "htpasswd")

pytestmark = [
    needs_registry,
    *needs_programs(*PROGRAMS),
]

NAME = "docker.io/library/built:1"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout directory with an image of buildah's, one layer an instruction."""
    return by_buildah.build(tmp_path_factory.mktemp("built") / "built", name=NAME)


@pytest.fixture(scope="module")
def manifest(layout: Path) -> str:
    """The digest of its manifest."""
    return first_manifest(layout)


@pytest.fixture(scope="module")
def unpacked(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Node]:
    """The tree that umoci unpacks."""
    return tree_by_umoci(f"{layout}:{NAME}", tmp_path_factory.mktemp("umoci") / "bundle")


def pyunionfs(store: Store, *words: str | Path) -> None:
    assert main([str(words[0]), "--store", str(store.root), *map(str, words[1:])]) == 0


def test_what_skopeo_has_pushed(
    store: Store, plain: Running, layout: Path, manifest: str, unpacked: dict[bytes, Node], tmp_path: Path
) -> None:
    name = f"{plain.name}/skopeo/from"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:{NAME}", f"docker://{name}")
    pyunionfs(store, "pull", name)
    (found,) = index.images(store)
    assert found.manifest.digest == manifest
    assert_same(our_tree(store, tmp_path, name), unpacked)


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_podman_has_pushed(
    store: Store, plain: Running, layout: Path, unpacked: dict[bytes, Node], tmp_path: Path, form: str
) -> None:
    """It compresses again: other digests, the same content. v2s2 are Docker's documents."""
    name = f"{plain.name}/podman/{form}"
    with engine("podman") as podman:
        podman.run("pull", f"oci:{layout}:{NAME}")
        (identifier,) = podman.run("images", "--quiet", "--no-trunc").split()
        written = tmp_path / "digest"
        podman.run("push", "--tls-verify=false", "--format", form, "--digestfile", written, identifier, name)
    pyunionfs(store, "pull", name)
    (found,) = index.images(store)
    assert found.manifest.digest == written.read_text()
    assert ("docker" in found.manifest.media_type) == (form == "v2s2")
    if form == "oci":
        assert find.manifest_of(store, found.manifest).config.digest == identifier
    assert_same(our_tree(store, tmp_path, name), unpacked)


@pytest.fixture(scope="module")
def pushed(plain: Running, layout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """The image as this program has loaded and pushed it, and its name in the registry."""
    store = Store(tmp_path_factory.mktemp("pushed") / "store")
    pyunionfs(store, "load", layout)
    pyunionfs(store, "push", "built:1", f"{plain.name}/ours/image:1")
    return store, f"{plain.name}/ours/image:1"


def test_skopeo_reads_what_was_pushed(pushed: tuple[Store, str], manifest: str, tmp_path: Path) -> None:
    name = pushed[1]
    about = msgspec.json.decode(run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))
    assert about["Digest"] == manifest
    copy = tmp_path / "copy"
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{copy}:{NAME}")
    assert first_manifest(copy) == manifest


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_engines_pull_what_was_pushed(pushed: tuple[Store, str], program: str, tmp_path: Path) -> None:
    store, name = pushed
    with engine(program) as started:
        identifier = started.run("pull", "--quiet", "--tls-verify=false", name).strip()
        assert identifier == find.manifest_of(store, find.resolve(store, "built:1").manifest).config.id.hex
        if program == "podman":
            theirs = tree_by_podman(started, name)
        else:
            container = started.run("from", "--pull-never", name).strip()
            theirs = tree_by_buildah(started, container)
    assert_same(our_tree(store, tmp_path, "built:1"), theirs)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Containerd]:
    with containerd(tmp_path / "containerd") as running:
        yield running


def test_containerd_pulls_what_was_pushed(
    pushed: tuple[Store, str], manifest: str, daemon: Containerd, tmp_path: Path
) -> None:
    store, name = pushed
    daemon.ctr("images", "pull", "--plain-http", name)
    assert manifest in daemon.ctr("images", "list")
    assert_same(our_tree(store, tmp_path, "built:1"), daemon.tree_of(name))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A registry with TLS, and the user with secret; and a directory that has its authority's certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    certificate, key = certificates(folder / "made")
    trusted = folder / "trusted"
    trusted.mkdir()
    (trusted / "ca.crt").write_bytes((folder / "made/ca.crt").read_bytes())
    table = subprocess.run(
        ["htpasswd", "-Bbn", "-C", "4", "user", "secret"], capture_output=True, check=True
    ).stdout
    (folder / "htpasswd").write_bytes(table)
    auth = {"htpasswd": {"realm": "x", "path": str(folder / "htpasswd")}}
    with serving(
        folder, auth=auth, http={"tls": {"certificate": str(certificate), "key": str(key)}}
    ) as running:
        yield running, trusted


def test_others_use_the_credentials_that_login_has_stored(
    pushed: tuple[Store, str], manifest: str, guarded: tuple[Running, Path], home: Path
) -> None:
    registry, trusted = guarded
    words = ("-u", "user", "-p", "secret", "--cert-dir", str(trusted), registry.name)
    assert main(["login", *words]) == 0
    name = f"{registry.name}/guarded/ours"
    pyunionfs(pushed[0], "push", "--cert-dir", trusted, "built:1", name)
    about = run("skopeo", "inspect", "--cert-dir", trusted, f"docker://{name}")
    assert msgspec.json.decode(about)["Digest"] == manifest
    with engine("podman") as podman:
        podman.run("pull", "--cert-dir", trusted, name)


@pytest.mark.parametrize("program", ["skopeo", "podman", "buildah"])
def test_the_credentials_that_others_have_stored_are_used(
    store: Store, pushed: tuple[Store, str], guarded: tuple[Running, Path], program: str, home: Path
) -> None:
    registry, trusted = guarded
    run(program, "login", "-u", "user", "-p", "secret", "--cert-dir", trusted, registry.name)
    assert (home / "run/containers/auth.json").exists()
    name = f"{registry.name}/guarded/{program}"
    pyunionfs(pushed[0], "push", "--cert-dir", trusted, "built:1", name)
    pyunionfs(store, "pull", "--cert-dir", trusted, name)
    assert main(["logout", registry.name]) == 0
    assert main(["pull", "--store", str(store.root), "--cert-dir", str(trusted), name]) == 1
