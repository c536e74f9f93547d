"""`cp`, with containers that run and that do not: a table of docker-cp(1)'s rules, and what a copy keeps."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.boxes import make_tree
from tests.support.images import plant
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.cli import main
from unionfs.container import life, record
from unionfs.container.end import TIMEOUT, kill
from unionfs.container.process import Wishes
from unionfs.container.record import Container
from unionfs.container.tar_copy import Reader
from unionfs.errors import ContainerError
from unionfs.image.lowers import is_mounted
from unionfs.image.store import Store

pytestmark = [needs_root, needs_fuse, one_transport]


def make_srv(tree: Path) -> None:
    """A tree with everything that a copy may meet; /out and /up lead out of the root by name."""
    top = tree / "srv"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("content")
    (top / "sub/set-id").write_text("x")
    os.chown(top / "sub/set-id", 12, 34)
    (top / "sub/set-id").chmod(0o4751)
    (top / "link").symlink_to("file")
    os.link(top / "file", top / "sub/hard")
    os.mkfifo(top / "sub/fifo", 0o640)
    os.setxattr(top / "file", "user.mark", b"\xff\x00")
    os.utime(top / "file", ns=(10**9 + 1, 10**9 + 123456789))
    (tree / "out").symlink_to("/etc")
    (tree / "up").symlink_to("../../../etc")
    (tree / "etc").mkdir()
    (tree / "etc/own").write_text("container's")


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    store = Store()
    plant(store, "box", [make_tree, make_srv])
    made = record.create(store, "box", Wishes(command=["sleep", "1000"]), name="web")
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    yield made
    running = made.state().running
    trees = [each / "diff" for each in store.trees.iterdir()]
    assert [is_mounted(tree) for tree in trees] == [running] * len(trees)
    kill(made)
    record.remove(made, TIMEOUT)


@pytest.fixture
def box(stopped: Container) -> Container:
    """One that runs."""
    life.run_in_background(stopped)
    return stopped


def cp(*words: str, status: int = 0, given: bytes = b"") -> tuple[bytes, str]:
    """The command in a process of its own, without the start of an interpreter."""
    files = [tempfile.TemporaryFile() for _ in range(3)]
    files[0].write(given)
    files[0].seek(0)
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
        found = 99
        try:
            found = main(["cp", *words])
            sys.stderr.flush()
        finally:
            os._exit(found)
    _, code = os.waitpid(child, 0)
    texts = []
    for file in files[1:]:
        file.seek(0)
        texts.append(file.read())
        file.close()
    assert os.waitstatus_to_exitcode(code) == status, texts[1].decode()
    return texts[0], texts[1].decode()


def names(top: str = ".") -> list[str]:
    return sorted(os.path.relpath(path, top) for path in Path(top).rglob("*"))


def inside(box: Container, path: str) -> Path:
    """What a container has in its upper at a path."""
    return box.upper / path


TREE = ["file", "link", "sub", "sub/fifo", "sub/hard", "sub/set-id"]


def below(top: str, tree: list[str] = TREE) -> list[str]:
    return sorted([top, *(f"{top}/{each}" for each in tree)])


def test_out(box: Container) -> None:
    for words, made in (
        (["web:/srv/file", "new"], ["new"]),
        (["web:srv/file", "."], ["file"]),
        (["web:/srv/file", "there"], ["there"]),
        (["web:/srv", "."], below("srv")),
        (["web:/srv", "name"], below("name")),
        (["web:/srv/", "name"], below("name")),
        (["web:/srv/.", "name"], below("name")),
        (["web:/srv/.", "."], TREE),
        (["web:/srv/link", "."], ["link"]),
        (["-L", "web:/srv/link", "copy"], ["copy"]),
        (["web:/out/own", "."], ["own"]),
        (["web:/up/own", "."], ["own"]),
    ):
        if "there" in words:
            Path("there").write_text("a longer text than the new one")
        _, said = cp(*words)
        assert said.startswith("Successfully copied "), words
        assert names() == sorted(made), words
        subprocess.run("rm -r ./*", shell=True, check=True)
    cp("web:/srv", "-q", ".")
    file = Path("srv/file")
    assert (file.read_text(), file.stat().st_mtime_ns) == ("content", 10**9 + 123456789)
    assert os.getxattr(file, "user.mark") == b"\xff\x00"
    assert file.stat().st_ino == Path("srv/sub/hard").stat().st_ino
    st = Path("srv/sub/set-id").stat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (0, 0o4751)
    assert stat.S_ISFIFO(Path("srv/sub/fifo").stat().st_mode)
    cp("-a", "web:/srv/sub/set-id", "kept")
    assert (Path("kept").stat().st_uid, Path("kept").stat().st_gid) == (12, 34)
    assert Path("kept").read_text() == "x"
    cp("web:/out/own", "own")
    assert Path("own").read_text() == "container's"


def test_in(box: Container) -> None:
    os.makedirs("tree/sub")
    Path("tree/file").write_text("new")
    os.chown("tree/file", 12, 34)
    os.chmod("tree/file", 0o4640)
    os.utime("tree/file", ns=(1, 123456789))
    Path("tree/sub/link").symlink_to("/etc/passwd")
    made = ["file", "sub", "sub/link"]
    for words, top, found in (
        (["tree", "web:/srv"], "srv/tree", made),
        (["tree", "web:/new"], "new", made),
        (["tree/.", "web:/srv/sub"], "srv/sub", made),
        (["tree/.", "web:srv/newer"], "srv/newer", made),
        (["tree", "web:/out"], "etc/tree", made),
        (["tree", "web:/up/"], "etc/tree2", None),
    ):
        if found is None:
            cp("tree/file", "web:/up/named")
            assert inside(box, "etc/named").read_text() == "new"
            continue
        cp(*words)
        assert names(str(inside(box, top))) == found, words
    st = inside(box, "new/file").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode), st.st_mtime_ns) == (0, 0, 0o4640, 123456789)
    cp("-a", "tree/file", "web:/kept")
    assert (inside(box, "kept").stat().st_uid, inside(box, "kept").stat().st_gid) == (12, 34)
    cp("tree/file", "web:/srv/link")  # what it leads to
    assert inside(box, "srv/file").read_text() == "new"
    assert Path(f"/proc/{box.state().pid}/root/srv/file").read_text() == "new"


def test_one_that_does_not_run(stopped: Container) -> None:
    """Its union is mounted for as long as it takes."""
    cp("web:/srv", ".")
    assert names() == below("srv")
    cp("srv/file", "web:/out/named")
    assert inside(stopped, "etc/named").read_text() == "content"
    _, said = cp("srv", "web:/srv/file", status=1)
    assert "cannot copy a directory to /srv/file in container web" in said
    out, _ = cp("web:/etc/named", "-")
    assert b"content" in out
    assert os.listdir(stopped.merged) == []


def test_what_is_refused(box: Container) -> None:
    os.makedirs("tree")
    Path("file").touch()
    for words, says in (
        (["web:/nothing", "."], "there is no /nothing in container web"),
        (["web:/srv/file/", "."], "/srv/file/ in container web is no directory"),
        (["web:/srv", "file"], "cannot copy a directory to file here, which is none"),
        (["web:/srv/file", "nowhere/"], "there is no directory nowhere/ here"),
        (["web:/srv/file", "nowhere/x"], "nowhere here"),
        (["web:/srv/file", "file/"], "file/ here is no directory"),
        (["nothing", "web:/"], "there is no nothing here"),
        (["tree", "web:/srv/file"], "cannot copy a directory to /srv/file in container web"),
        (["file", "web:/nowhere/"], "there is no directory /nowhere/ in container web"),
        (["file", "web:/nowhere/x"], "there is no directory /nowhere in container web"),
        (["-", "web:/srv/file"], "/srv/file in container web is no directory"),
        (["file", "other:/"], "there is no container other"),
    ):
        _, said = cp(*words, status=1)
        assert says in said, words
    assert names() == ["file", "tree"]
    for words, says in (
        (["file", "tree"], "two paths here were given"),
        (["web:/x", "web:/y"], "two containers were given"),
        (["./web:/x", "/y:z"], "two paths here"),
    ):
        _, said = cp(*words, status=2)
        assert says in said


def test_tar_streams(box: Container) -> None:
    out, _ = cp("web:/srv", "-")
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert sorted(tar.getnames()) == below("srv")
        assert tar.getmember("srv/sub/set-id").uid == 12
    made = subprocess.run(
        ["tar", "cz", "--owner=7", "--group=8", "-C", "/", "etc/hostname"], capture_output=True
    )
    cp("-", "web:/srv", given=made.stdout)
    st = inside(box, "srv/etc/hostname").stat()
    assert (st.st_uid, st.st_gid) == (7, 8)
    out, _ = cp("web:/srv/etc/hostname", "-")
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.getnames() == ["hostname"]
    for given, says in ((b"no tar" * 200, "malformed"), (made.stdout[:-20], "truncated")):
        _, said = cp("-", "web:/srv", given=given, status=1)
        assert says in said


def hostile(*members: tuple[str, bytes, str]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("../x", tarfile.REGTYPE, "")], "leads upwards"),
        ([("a/../../x", tarfile.REGTYPE, "")], "leads upwards"),
        ([("a", tarfile.SYMTYPE, ".."), ("a/x", tarfile.REGTYPE, "")], "a is no directory"),
        ([("a", tarfile.LNKTYPE, "../secret")], "leads upwards"),
        ([("there", tarfile.REGTYPE, "")], "cannot overwrite a directory"),
        ([("file", tarfile.DIRTYPE, "")], "cannot overwrite what is no directory"),
    ],
)
def test_no_name_leads_out_of_a_directory_here(
    tmp_path: Path, members: list[tuple[str, bytes, str]], says: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "target/there").mkdir(parents=True)
    (tmp_path / "target/file").touch()
    with pytest.raises(ContainerError, match=says):
        Reader(str(tmp_path / "target"), keep_owners=False, follow=False).read(hostile(*members))
    assert sorted(os.listdir(tmp_path)) == ["secret", "target"]


def test_a_read_only_root_takes_nothing(stopped: Container) -> None:
    sealed = record.create(stopped.store, "box", Wishes(command=["sh"], read_only=True), name="sealed")
    Path("file").touch()
    _, said = cp("file", "sealed:/", status=1)
    assert "its root is read-only" in said
    cp("sealed:/etc/own", ".")
    record.remove(sealed)
