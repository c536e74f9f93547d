"""`export` and `import`: whole trees as tars and as images of one layer."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from testing.images import debian_like, directory, file, hard_link, image, symlink, tar, whiteout
from testing.images.trees import differences, tree
from tests.image.rig import Source
from tests.image.rig import ensure as ensure_layers
from tests.support.mounts import environment, needs_root
from tests.support.stores import put
from unionfs.cli import main
from unionfs.image.store import Store

pytestmark = needs_root

BASE = image(
    [
        [file("etc/conf", b"old"), file("gone"), file("a", b"a"), hard_link("z", "a")],
        [whiteout("gone"), directory("etc", 0o700), file("new", mode=0o4755, uid=5, mtime=1e9 + 0.5)],
    ],
    {"Cmd": ["sh"]},
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    store = Store()
    put(store, BASE, "base:1")
    return store


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.strip()


def inspect(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output(capsys, "inspect", name))[0]
    return found


@pytest.mark.usefixtures("store")
def test_an_image_is_exported_as_it_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "export", "base:1", "-o", str(tmp_path / "out.tar")) == ""
    with tarfile.open(tmp_path / "out.tar") as found:
        members = {member.name: member for member in found}
        assert list(members) == [".", "a", "etc", "etc/conf", "new", "z"]
        assert found.extractfile("etc/conf").read() == b"old"  # type: ignore[union-attr]
    assert (members["etc"].mode, members["new"].mode, members["new"].uid) == (0o700, 0o4755, 5)
    assert members["z"].linkname == "a"
    assert members["new"].pax_headers == {"mtime": "1000000000.5"}


def test_a_container_is_exported_with_its_init_layer(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_layers(store, BASE, Source(BASE))
    identifier = output(capsys, "create", "--name", "box", "base:1")
    upper = store.containers / identifier / "diff"
    (upper / "added").write_text("added")
    os.mknod(upper / "a", 0o20000, 0)
    output(capsys, "export", "box", "-o", str(tmp_path / "out.tar"))
    with tarfile.open(tmp_path / "out.tar") as found:
        names = found.getnames()
    assert {"added", "etc/hosts", ".dockerenv", "z"} <= set(names)
    assert "a" not in names


@pytest.mark.usefixtures("store")
def test_a_tree_comes_back_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Out by a tar program, in as a tree: the same layer as the export itself."""
    output(capsys, "export", "base:1", "-o", str(tmp_path / "out.tar"))
    (tmp_path / "tree").mkdir()
    subprocess.run(["tar", "-xpf", tmp_path / "out.tar", "-C", tmp_path / "tree"], check=True)
    by_tree = output(capsys, "import", "-m", "same", str(tmp_path / "tree"), "by-tree:1")
    by_tar = output(capsys, "import", "-m", "same", str(tmp_path / "out.tar"), "by-tar:1")
    assert by_tree == by_tar
    diff_id = "sha256:" + hashlib.sha256((tmp_path / "out.tar").read_bytes()).hexdigest()
    assert inspect(capsys, "by-tree:1")["RootFS"]["Layers"] == [diff_id]


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda content: content,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packed", PACKED)
def test_a_tar_is_the_layer_as_it_is(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: str
) -> None:
    content = tar([directory("."), file("bin/sh", b"x", 0o755), symlink("sh", "bin/sh")])
    (tmp_path / "rootfs.tar.x").write_bytes(PACKED[packed](content))
    words = ["--platform", "arm64", "--compression", "none", "-c", 'CMD ["sh"]', "-c", "ENV A=1"]
    identifier = output(capsys, "import", *words, str(tmp_path / "rootfs.tar.x"), "new:1")
    found = inspect(capsys, "new:1")
    assert (found["Id"], found["RepoTags"], found["Architecture"]) == (identifier, ["new:1"], "arm64")
    assert (found["Config"]["Cmd"], found["Config"]["Env"]) == (["sh"], ["A=1"])
    assert (found["Created"], found["Comment"]) == ("2023-11-14T22:13:20Z", "Imported from rootfs.tar.x")
    diff_id = hashlib.sha256(content).hexdigest()
    assert found["RootFS"]["Layers"] == ["sha256:" + diff_id]
    assert (store.blobs / "sha256" / diff_id).read_bytes() == content


def test_pipes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, image(debian_like(100, 100_000)), "deb:1")
    command = [sys.executable, "-m", "unionfs"]
    piped = subprocess.run(
        [*command, "export", "deb:1"], capture_output=True, check=True, env=environment()
    ).stdout
    done = subprocess.run(
        [*command, "import", "-", "flat:1"], input=piped, capture_output=True, check=True, env=environment()
    )
    found = inspect(capsys, "flat:1")
    assert found["Id"] == done.stdout.decode().strip()
    assert found["Comment"] == "Imported from -"
    assert found["RootFS"]["Layers"] == ["sha256:" + hashlib.sha256(piped).hexdigest()]


@pytest.mark.usefixtures("store")
def test_an_image_without_a_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    identifier = output(capsys, "import", str(tmp_path / "tree"))
    assert inspect(capsys, identifier)["RepoTags"] == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no tar at all" * 100, "malformed tar"),
        (b"", "empty, where a tar is expected"),
        (tar([file("f", b"x" * 5000)])[:2000], "truncated"),
        (tar([file("../f")]), "leads out of the layer"),
        (gzip.compress(b"x" * 2000), "malformed tar"),
    ],
    ids=["text", "nothing", "cut", "leading out", "compressed text"],  # gzip's header has the time
)
def test_bad_tars_make_no_image(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    before = store.index.read_bytes()
    assert main(["import", str(tmp_path / "bad.tar"), "bad:1"]) == 1
    assert why in capsys.readouterr().err
    assert store.index.read_bytes() == before
    assert list(store.ingest.iterdir()) == []


def test_what_is_refused(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, status, why in (
        (["import", str(tmp_path / "none")], 1, "No such file"),
        (["import", str(tmp_path), "a@sha256:" + "0" * 64], 2, "a name with a digest"),
        (["import", "-c", "RUN x", str(tmp_path)], 2, "RUN is no instruction"),
        (["export", "none"], 1, "there is no container, image or mounted union none"),
        (["export", str(tmp_path), "-o", str(tmp_path / "x")], 1, "there is no container, image or mounted"),
    ):
        assert main(words) == status, words
        assert why in capsys.readouterr().err
    put(store, image([]), "empty:1")
    assert main(["export", "empty:1", "-o", str(tmp_path / "x")]) == 1
    assert "has no layers" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_tree_in_every_attribute(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_bytes(b"data")
    os.link(top / "d/f", top / "link")
    os.symlink("nowhere", top / "symlink")
    os.mkfifo(top / "pipe", 0o620)
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    (top / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    os.chown(top / "d", 7, 8)
    (top / "d").chmod(0o3751)
    os.setxattr(top / "d/f", "user.x", b"y")
    os.setxattr(top / "d/f", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.utime(top / "d", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top, (1, 1_000_000_000))
    top.chmod(0o711)
    output(capsys, "import", str(top), "tree:1")
    upper = Path(inspect(capsys, "tree:1")["GraphDriver"]["Data"]["UpperDir"])
    clamped = {
        path: node._replace(mtime_ns=min(node.mtime_ns, 1_700_000_000 * 10**9))
        for path, node in tree(top).items()
    }
    assert differences(clamped, tree(upper)) == []
