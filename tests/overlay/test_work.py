"""The work directory: litter of a crash, the volatile mark, its layout, and what it is never to keep."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.overlay.rig import Stack, descriptors, leaked
from tests.overlay.trees import WHITEOUT, build, directory, disk, file
from tests.support.mounts import mounted, needs_overlayfs, overlayfs
from unionfs.errors import MountError
from unionfs.linux import syscalls
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.super import Union
from unionfs.overlay.work import Work, remove_tree


def test_litter_is_cleared(stack: Stack) -> None:
    stack.layers({"f": "f"})
    build(
        stack.work,
        {
            "work": {
                "#1": "half a file",
                "#2": WHITEOUT,
                "#3": directory(
                    {"deep": directory({"x": "x", "w": WHITEOUT}, mode=0)}, mode=0o500, opaque="y"
                ),
                "#4": file("locked", mode=0),
            }
        },
    )
    with stack.open() as view:
        assert stack.work_names() == []
        view.write("f", b"F")
    assert stack.work_names() == []
    assert sorted(os.listdir(stack.work)) == ["work"]


def test_litter_that_is_a_symlink_is_not_followed(stack: Stack) -> None:
    outside = build(stack.base / "outside", {"keep": "k"})
    (stack.work / "work").mkdir()
    (stack.work / "work" / "#1").symlink_to(outside)
    stack.layers({"f": "f"})
    with stack.open():
        pass
    assert (outside / "keep").read_text() == "k"
    assert stack.work_names() == []


def test_work_that_is_a_symlink_is_refused(stack: Stack) -> None:
    outside = build(stack.base / "outside", {"keep": "k"})
    (stack.work / "work").symlink_to(outside)
    stack.layers({"f": "f"})
    before = descriptors()
    with pytest.raises(OSError):
        stack.open()
    assert leaked(before) == []
    assert (outside / "keep").read_text() == "k"


@needs_overlayfs
def test_litter_of_the_kernel_is_cleared(stack: Stack) -> None:
    """overlayfs leaves work/work with mode 0."""
    stack.layers({"f": "f"})
    stack.kernel("index=on")
    assert stat.S_IMODE((stack.work / "work").stat().st_mode) == 0
    with stack.open(index=True) as view:
        view.unlink("f")
    assert disk(stack.upper) == {"f": "whiteout"}
    assert stack.kernel("index=on") == {}


def test_index_is_made_on_demand_and_kept(stack: Stack) -> None:
    stack.layers({"a": "a"})
    os.link(stack.lowers[0] / "a", stack.lowers[0] / "b")
    with stack.open(index=True) as view:
        view.write("a", b"A")
    kept = stack.index_names()
    assert len(kept) == 1
    with stack.open() as view:
        view.read("a")
    assert stack.index_names() == kept


def test_volatile_mark(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open(volatile=True) as view:
        mark = stack.work / "work" / "incompat" / "volatile"
        assert mark.is_dir()
        view.write("f", b"F")
        view.union.syncfs()
        with view.opened("f", os.O_WRONLY) as handle:
            assert view.union.sync_file(handle) is None
        handle_dir = view.union.open_dir(1)
        assert view.union.sync_dir(handle_dir.directory.ino) is None
        view.union.release_dir(handle_dir)
    assert mark.is_dir(), "as overlayfs: it says that upper may be incomplete, until somebody decides"
    before = descriptors()
    for volatile in (False, True):
        with pytest.raises(MountError) as failure:
            stack.open(volatile=volatile)
        assert "`--repair --accept-volatile`" in str(failure.value)
    assert leaked(before) == []
    assert disk(stack.upper) == {"f": "file 'F' origin"}


@needs_overlayfs
def test_volatile_mark_is_the_kernels(stack: Stack) -> None:
    stack.layers({"f": "f"})
    with stack.open(volatile=True):
        pass
    ours = sorted(str(path.relative_to(stack.work)) for path in stack.work.rglob("*"))
    with pytest.raises(OSError), overlayfs(stack.lowers, stack.upper, stack.work, stack.merged):
        pytest.fail("overlayfs has mounted after a volatile mount of ours")
    (stack.base / "other").mkdir()
    other = Stack(stack.base / "other")
    other.layers({"f": "f"})
    with overlayfs(other.lowers, other.upper, other.work, other.merged, options=["volatile"]):
        pass
    theirs = sorted(str(path.relative_to(other.work)) for path in other.work.rglob("*"))
    assert ours == theirs
    with pytest.raises(MountError):
        other.open()


def test_sync_reaches_upper(stack: Stack) -> None:
    stack.layers({"d": {"f": "f"}})
    done: list[int] = []
    with stack.open() as view:
        view.union.fs.write_out = lambda fd, _: done.append(os.fstat(fd).st_ino)
        reader = view.open("d/f")
        assert view.union.sync_file(reader) is None, "a lower has nothing to sync"
        writer = view.open("d/f", os.O_WRONLY)
        assert done == [(stack.upper / "d/f").stat().st_ino], "on disk before it was renamed into place"
        handle = view.union.open_dir(view.ino("d"))
        for fd, real in (
            (view.union.sync_file(writer), "d/f"),
            (view.union.sync_file(reader), "d/f"),
            (view.union.sync_dir(handle.directory.ino), "d"),
        ):
            assert fd is not None
            assert os.fstat(fd).st_ino == (stack.upper / real).stat().st_ino
            os.close(fd)
        view.union.release_dir(handle)
        view.union.release(reader)
        view.union.release(writer)


def test_volatile_copies_up_without_sync(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers({"f": "f" * 300_000})
    done: list[int] = []
    monkeypatch.setattr(os, "fsync", done.append)
    monkeypatch.setattr(syscalls, "write_data", done.append)
    with stack.open(volatile=True) as view:
        view.write("f", b"F")
    assert done == []


def test_whiteouts_when_links_run_out(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 has at most 65000 links of one inode: then there is another inode."""
    stack.layers({f"f{i}": "" for i in range(6)})
    true_link = os.link
    count = 0

    def link(*args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise OSError(31, "too many links")
        true_link(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link)
    with stack.open() as view:
        for i in range(6):
            view.unlink(f"f{i}")
        assert view.ls() == []
    assert disk(stack.upper) == {f"f{i}": "whiteout" for i in range(6)}
    assert stack.work_names() == []
    assert len({(stack.upper / f"f{i}").lstat().st_ino for i in range(6)}) > 1


def test_whiteouts_without_any_links(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.layers({"a": "", "b": {}, "c": ""})

    def link(*args: object, **kwargs: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    with stack.open() as view:
        view.unlink("a")
        view.rmdir("b")
        view.rename("c", "d")
    assert disk(stack.upper) == {"a": "whiteout", "b": "whiteout", "c": "whiteout", "d": "file '' origin"}
    assert stack.work_names() == []


def test_placing_never_replaces(base: Path) -> None:
    build(base, {"target": "mine"})
    top = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    work = Work(os.dup(top), UnionConfig(()))
    name = work.mkdir()
    with pytest.raises(FileExistsError):
        work.place(name, top, b"target")
    work.place(name, top, b"free")
    assert (base / "target").read_text() == "mine"
    assert (base / "free").is_dir()
    work.close()
    os.close(top)


def test_remove_tree(base: Path) -> None:
    build(base / "t", {"x": {"y": {"z": "z"}, "w": WHITEOUT}, "f": "f"})
    fd = os.open(base / "t", os.O_RDONLY | os.O_DIRECTORY)
    for name in (b"x", b"f", b"none"):
        remove_tree(fd, name)
    assert os.listdir(fd) == []
    os.close(fd)


def test_temporary_names_are_those_of_overlayfs(base: Path) -> None:
    top = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    work = Work(top, UnionConfig(()))
    names = [work.temp_name() for _ in range(40)]
    assert len(set(names)) == 40
    assert all(name.startswith(b"#") and int(name[1:], 16) for name in names)
    made = work.mkdir()
    assert os.listdir(base / "work") == [os.fsdecode(made)]
    work.remove(made)
    work.close()
    assert os.listdir(base / "work") == []


@pytest.mark.parametrize("missing", ["lower", "upper", "work"])
def test_open_that_fails_leaks_nothing(stack: Stack, missing: str) -> None:
    stack.layers({"f": "f"}, {"g": "g"})
    config = stack.config()
    gone = str(stack.base / "gone")
    fields = {"lowers": config.lowers, "upper": config.upper, "work": config.work}
    fields[{"lower": "lowers"}.get(missing, missing)] = (
        (config.lowers[0], gone) if missing == "lower" else gone
    )
    before = descriptors()
    with pytest.raises((OSError, MountError)):
        Union.open(UnionConfig(**fields))  # type: ignore[arg-type]
    assert leaked(before) == []


def test_layers_with_something_mounted_on_them(stack: Stack, base: Path) -> None:
    """As overlayfs: what is mounted in a layer, before or later, is not seen through the union."""
    stack.layers({"d": {"below": "b"}})
    with mounted("tmpfs", stack.lowers[0] / "d"), stack.open() as view:
        assert view.ls("d") == ["below"]


def test_relative_times_of_lowers_do_not_change(stack: Stack) -> None:
    """Reading through the union sets no atime in a lower."""
    stack.layers({"d": {"f": "f"}})
    os.utime(stack.lowers[0] / "d/f", ns=(1, 1))
    os.utime(stack.lowers[0] / "d", ns=(1, 1))
    with stack.open() as view:
        view.tree()
    assert (stack.lowers[0] / "d/f").stat().st_atime_ns == 1
    assert (stack.lowers[0] / "d").stat().st_atime_ns == 1


def test_deletions_go_on_when_somebody_clears_work(stack: Stack) -> None:
    stack.layers({"a": "", "b": ""})
    with stack.open() as view:
        view.unlink("a")
        for name in os.listdir(stack.work / "work"):
            (stack.work / "work" / name).unlink()
        view.unlink("b")
        assert view.tree() == {}
    assert disk(stack.upper) == {"a": "whiteout", "b": "whiteout"}


@needs_overlayfs
def test_work_has_the_modes_of_the_kernels(stack: Stack) -> None:
    """Mode 0 of what root made, and of another user's work/work, which root's mount takes over."""
    stack.layers({"f": "f"})

    def modes() -> dict[str, int]:
        return {name: stat.S_IMODE((stack.work / name).stat().st_mode) for name in ("work", "index")}

    with stack.open(index=True):
        assert modes() == {"work": 0, "index": 0}
    stack.kernel("index=on")
    assert modes() == {"work": 0, "index": 0}
    os.chown(stack.work / "work", 1000, 1000)
    os.chown(stack.work / "index", 1000, 1000)
    with stack.open(index=True):
        assert modes() == {"work": 0, "index": 0o700}
        assert (stack.work / "work").stat().st_uid == 0
