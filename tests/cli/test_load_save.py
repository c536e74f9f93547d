"""`load` and `save`: what they print, where they read and write, what they refuse."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from testing.images import Image, directory, file, image, write_layout
from testing.images.archives import archive
from tests.support.mounts import needs_root
from tests.support.stores import layers_in, put
from unionfs.cli import main
from unionfs.container import record
from unionfs.image import index
from unionfs.image.store import Store

MADE = image([[file("a", b"content")]])
PYUNIONFS = [sys.executable, "-m", "unionfs"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return Store()


def written(form: str = "oci", **names: Image) -> str:
    Path("archive.tar").write_bytes(archive(names or {"a:1": MADE, "b/c": MADE}, form))
    return "archive.tar"


@pytest.mark.parametrize("words", [["archive.tar"], ["-i", "archive.tar"], ["./layout"]])
def test_load_prints_as_docker(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    written()
    write_layout(Path("layout"), {"a:1": MADE, "b/c:latest": MADE})
    assert main(["load", *words]) == 0
    assert capsys.readouterr().out == "Loaded image: a:1\nLoaded image: b/c:latest\n"


def test_an_image_without_a_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    Path("archive.tar").write_bytes(archive({"": MADE}, "docker_old"))
    assert main(["load", "archive.tar"]) == 0
    assert capsys.readouterr().out == f"Loaded image ID: {MADE.id}\n"
    assert len(index.images(store)) == 1


@needs_root
def test_load_says_which_attributes_a_store_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    xattrs = {"user.overlay.opaque": b"y"}
    made = image([[directory("d", xattrs=xattrs), directory("e", xattrs={**xattrs, "user.mine": b"1"})]])
    assert main(["load", "-q", written(a=made)]) == 0
    error = capsys.readouterr().err
    wanted = "extended attributes that this store cannot hold: user.overlay.opaque (2)"
    assert error.startswith("pyunionfs: ")
    assert error.endswith(f": {wanted}\n")


@pytest.mark.parametrize(
    ("words", "about", "status"),
    [
        (["nothing.tar"], "cannot open nothing.tar: No such file", 1),
        (["-i", "a", "b"], "FILE is given twice", 2),
        (["--platform", "x/", "archive.tar"], "--platform", 2),
        (["--max-layer-size", "many", "archive.tar"], "is not a size", 2),
        (["--max-layer-size", "1K", "archive.tar"], "larger than 1024 bytes", 1),
        (["/dev/null"], "neither an OCI layout nor a Docker archive", 1),
        (["."], "neither an OCI layout nor a Docker archive", 1),
    ],
)
def test_load_refuses(
    words: list[str], about: str, status: int, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    written()
    assert main(["load", *words]) == status
    seen = capsys.readouterr()
    assert about in seen.err
    assert seen.err.count("\n") == 1
    assert index.images(store) == []


def test_through_a_pipe(tmp_path: Path, store: Store) -> None:
    put(store, MADE, "a:1", "a:2")
    other = {**os.environ, "PYUNIONFS_STORE": str(tmp_path / "other")}
    saving = subprocess.Popen([*PYUNIONFS, "save", "a"], stdout=subprocess.PIPE)
    done = subprocess.run(
        [*PYUNIONFS, "load", "-"], stdin=saving.stdout, env=other, capture_output=True, text=True, check=False
    )
    assert saving.wait() == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Loaded image: a:1\nLoaded image: a:2\n"


def test_save_writes_a_file_whole_and_for_its_owner_only(store: Store, tmp_path: Path) -> None:
    put(store, MADE, "a:1")
    Path("out.tar").write_text("before")
    assert main(["save", "a:1", "nothing", "-o", "out.tar"]) == 1
    assert Path("out.tar").read_text() == "before"
    assert main(["save", "a:1", "-o", "out.tar"]) == 0
    assert Path("out.tar").stat().st_mode & 0o777 == 0o600
    assert main(["save", "a:1", "-o", "layout", "--format", "oci-dir"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out.tar", "store"]
    assert main(["load", "out.tar"]) == main(["load", "layout"]) == 0


@pytest.mark.parametrize(
    ("words", "about", "status"),
    [
        (["nothing"], "there is no image nothing", 1),
        (["a:1", "-o", "no/where"], "cannot write no/where", 1),
        (["a:1", "--format", "oci-dir"], "needs --output", 2),
        (["a:1", "--format", "oci-dir", "-o", "store"], "there already", 1),
        (["a:1", "--format", "zip"], "invalid choice", 2),
        ([], "required", 2),
    ],
)
def test_save_refuses(
    words: list[str], about: str, status: int, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(store, MADE, "a:1")
    assert main(["save", *words]) == status
    seen = capfd.readouterr()
    assert about in seen.err
    assert seen.err.count("\n") == 1
    assert seen.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_layers_have_lines_on_a_terminal_only(tmp_path: Path) -> None:
    name = written()
    typescript = tmp_path / "typescript"
    words = " ".join([*PYUNIONFS, "load", name])
    subprocess.run(["script", "-qec", words, str(typescript)], check=True, stdout=subprocess.DEVNULL)
    assert b": Loaded layer\r\n" in typescript.read_bytes()
    done = subprocess.run([*PYUNIONFS, "load", name], check=True, capture_output=True, text=True)
    assert done.stdout == "Loaded image: a:1\nLoaded image: b/c:latest\n"


@needs_root
def test_a_committed_layer_is_saved_again_after_its_blob_was_freed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tar depends on nothing but its files; that of another program's layer does, and is missed."""
    base = image(
        [[directory("etc"), file("etc/gone"), file("etc/kept", b"old", 0o640, uid=3)]], {"Cmd": ["x"]}
    )
    assert main(["load", written("docker_old", **{"base:1": base})]) == 0
    assert main(["create", "--name", "box", "base:1"]) == 0
    upper = record.find(store, "box").upper
    (upper / "etc").mkdir()
    (upper / "etc/kept").write_text("new")
    (upper / "etc/more").hardlink_to(upper / "etc/kept")
    os.mknod(upper / "etc/gone", stat.S_IFCHR, 0)
    os.setxattr(upper / "etc/kept", "user.x", b"\0value")
    assert main(["commit", "--compression", "zstd", "box", "made:1"]) == 0
    assert main(["save", "made:1", "-o", "before.tar"]) == 0
    other = ["--store", str(tmp_path / "other")]
    assert main(["load", *other, "before.tar"]) == 0
    assert main(["prune", *other, "--force", "--blobs"]) == 0
    capsys.readouterr()
    assert main(["save", *other, "made:1", "-o", "after.tar"]) == 1
    assert "a tar of its files is another" in capsys.readouterr().err
    # With the layer of another program there, what commit has made is made again.
    assert main(["load", *other, "archive.tar"]) == 0
    for layer in layers_in(Store(tmp_path / "other"), "base:1"):
        (tmp_path / "other" / "blobs" / "sha256" / layer.diff_id.hex).write_bytes(base.layers[0])
    assert main(["save", *other, "made:1", "-o", "after.tar"]) == 0
    assert Path("after.tar").read_bytes() == Path("before.tar").read_bytes()
    assert main(["save", *other, "--format", "oci-archive", "made:1", "-o", "oci.tar"]) == 0
    assert "saved uncompressed" in capsys.readouterr().err
    assert main(["load", "--store", str(tmp_path / "third"), "oci.tar"]) == 0
    assert [layer.diff_id for layer in layers_in(Store(tmp_path / "third"), "made:1")] == [
        layer.diff_id for layer in layers_in(Store(tmp_path / "other"), "made:1")
    ]
    assert [*(tmp_path / "other" / "ingest").iterdir()] == []
