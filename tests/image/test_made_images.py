"""The images that tests are made of: the same each time, readable by other programs, and told apart."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testing.images import TarEntry, debian_like, digest, directory, file, hard_link, image, make_image, tar
from testing.images.trees import differences, tree
from unionfs.image.model import Manifest, decode_config, decode_manifest


def test_debian_like_is_the_same_on_each_machine() -> None:
    layers = [tar(layer) for layer in debian_like(120, 200_000)]
    assert layers == [tar(layer) for layer in debian_like(120, 200_000)]
    assert len(layers) == 6
    assert digest(b"".join(layers)) == (
        "sha256:ae70933530d83433b08bfebbf7d1c38102ba77771b4500fd125bffb3fa02bb0e"
    )


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_its_documents_are_valid(compression: str, docker: bool) -> None:
    made = image([[file("a", b"1")], []], {"Cmd": ["a"]}, compression=compression, docker=docker)
    manifest = decode_manifest(made.manifest, made.media_type, "made")
    assert isinstance(manifest, Manifest)
    assert {each.compression for each in manifest.layers} == {compression}
    assert [*decode_config(made.config, manifest, "made").diff_ids] == [digest(each) for each in made.layers]


@pytest.mark.skipif(shutil.which("umoci") is None or os.geteuid() != 0, reason="needs umoci and root")
def test_umoci_unpacks_what_was_written(tmp_path: Path) -> None:
    odd: list[TarEntry] = [
        directory("d", 0o1777, uid=1, gid=2, mtime=1_600_000_000),
        file("d/a", b"content", 0o4711, mtime=1_600_000_000.5, xattrs={"user.x": b"\0\xff"}),
        hard_link("d/b", "d/a"),
        file(b"d/\xff", b"no UTF-8"),
    ]
    layout = make_image(tmp_path / "layout", [odd], name="odd")
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:odd", str(bundle)], check=True, capture_output=True
    )
    found = tree(bundle / "rootfs")
    assert set(found) == {b".", b"d", b"d/a", b"d/b", b"d/\xff"}
    assert found[b"d"][:4] == (0o041777, 1, 2, 1_600_000_000_000_000_000)
    assert found[b"d/a"].mode == 0o104711
    assert found[b"d/a"].mtime_ns == 1_600_000_000_500_000_000
    assert found[b"d/a"].links == (b"d/a", b"d/b")
    assert found[b"d/b"].xattrs == {"user.x": b"\0\xff"}


def test_trees_that_differ_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
        os.utime(tmp_path / name / "file", (1, 1))
        (tmp_path / name / "link").symlink_to("file")
        os.utime(tmp_path / name / "link", (1, 1), follow_symlinks=False)
        os.utime(tmp_path / name, (1, 1))
    assert differences(tree(tmp_path / "one"), tree(tmp_path / "other")) == []
    (tmp_path / "other" / "file").chmod(0o600)
    (tmp_path / "one" / "more").touch()
    found = [
        ": ".join(line.split(": ")[:2])
        for line in differences(tree(tmp_path / "one"), tree(tmp_path / "other"))
    ]
    assert found == ["b'.': mtime_ns", "b'file': mode", "b'more': only in the first"]
    assert differences(tree(tmp_path / "one"), tree(tmp_path / "other"), ignore=("mtime_ns", "mode")) == [
        "b'more': only in the first"
    ]
