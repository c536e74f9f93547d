"""What is refused before a union is opened: each by its line, and that it leaves the directories alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.mounts import (
    loop_fs,
    make_directories,
    mount,
    mounted,
    needs_overlayfs,
    needs_root,
    overlayfs,
    scratch,
    umount,
)
from unionfs.errors import MountError
from unionfs.overlay.check import check
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.lock import lock_and_check

pytestmark = needs_root


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    with scratch(tmp_path) as where:
        make_directories(where)
        yield where


def union(base: Path, **changes: object) -> UnionConfig:
    config = UnionConfig((str(base / "lower"),), str(base / "upper"), str(base / "work"))
    return replace(config, **changes)  # type: ignore[arg-type]


def snapshot(base: Path) -> list[tuple[str, int, int]]:
    """Every name with mode and change of content; not atime, which looking at a directory may set."""
    found = []
    for path in [base, *sorted(base.rglob("*"))]:
        st = path.lstat()
        found.append((str(path), st.st_mode, st.st_mtime_ns))
    return found


def refused(base: Path, config: UnionConfig, mountpoint: Path | None = None) -> str:
    """The line with which this union is refused; the directories must be as they were."""
    before = snapshot(base)
    with pytest.raises(MountError) as caught:
        check(config, str(mountpoint or base / "merged"))
        lock_and_check(config).close()
    assert snapshot(base) == before
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_good_stack_passes_and_is_left_as_it_was(base: Path) -> None:
    before = snapshot(base)
    config = union(base)
    check(config, str(base / "merged"))
    lock_and_check(config).close()
    assert snapshot(base) == before


def test_a_read_only_union_needs_no_lock(base: Path) -> None:
    config = union(base, upper=None, work=None)
    check(config, str(base / "merged"))
    lock_and_check(config).close()


@pytest.mark.parametrize(
    ("kind", "field"),
    [("lower", "lowers"), ("data-only layer", "data_lowers"), ("upper", "upper"), ("work", "work")],
    ids=["lower", "data", "upper", "work"],
)
class TestEachDirectory:
    def config(self, base: Path, field: str, path: Path) -> UnionConfig:
        value = (str(base / "lower"), str(path)) if field.endswith("lowers") else str(path)
        return union(base, **{field: value})

    def test_missing(self, base: Path, kind: str, field: str) -> None:
        path = base / "none" / "there"
        assert f"{kind} {path} does not exist: create it" in refused(base, self.config(base, field, path))

    def test_not_a_directory(self, base: Path, kind: str, field: str) -> None:
        path = base / "file"
        path.touch()
        assert f"{kind} {path} is not a directory" in refused(base, self.config(base, field, path))
        below = refused(base, self.config(base, field, path / "below"))
        assert f"{kind} {path}/below does not exist (something above it is no directory)" in below

    def test_unreadable(self, base: Path, kind: str, field: str) -> None:
        path = base / "closed"
        path.mkdir(0o300)
        os.chown(path, 12345, 12345)
        for parent in (base, *base.parents):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        config = self.config(base, field, path)
        os.seteuid(12345)
        try:
            with pytest.raises(MountError) as caught:
                check(config, str(base / "merged"))
        finally:
            os.seteuid(0)
        # As an ordinary user the first directory that is not that user's may be another one.
        assert "user 12345" in str(caught.value)


def test_upper_that_cannot_be_written(base: Path) -> None:
    (base / "upper").chmod(0o555)
    for parent in (base, *base.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(12345)
    try:
        with pytest.raises(MountError, match=r"upper .* cannot be written by user 12345"):
            check(union(base), str(base / "merged"))
    finally:
        os.seteuid(0)


def test_upper_on_a_read_only_filesystem(base: Path) -> None:
    with mounted("tmpfs", base / "upper", 1):
        assert "is on a read-only filesystem" in refused(base, union(base))


def test_upper_and_work_on_different_filesystems(base: Path) -> None:
    with mounted("tmpfs", base / "work"):
        text = refused(base, union(base))
    assert "are on different filesystems" in text
    assert "put work beside upper" in text


def test_upper_and_work_on_two_mounts_of_one_filesystem(base: Path) -> None:
    mount(str(base / "work"), base / "work", "none", 4096)
    try:
        assert "are on two mounts of one filesystem" in refused(base, union(base))
    finally:
        umount(base / "work")


@pytest.mark.parametrize(
    ("upper", "work", "says"),
    [
        ("upper", "upper", "are the same directory"),
        ("upper", "upper/in", "is inside upper"),
        ("work/in", "work", "is inside work"),
        ("upper", "upper/a/b", "is inside upper"),
    ],
)
def test_upper_and_work_in_each_other(base: Path, upper: str, work: str, says: str) -> None:
    (base / upper).mkdir(parents=True, exist_ok=True)
    (base / work).mkdir(parents=True, exist_ok=True)
    assert says in refused(base, union(base, upper=str(base / upper), work=str(base / work)))


@pytest.mark.parametrize(("field", "what"), [("lowers", "lower"), ("data_lowers", "data-only layer")])
@pytest.mark.parametrize(
    ("lower", "says"),
    [
        ("upper", "is also the"),
        ("work", "is also the"),
        ("upper/in", "lies around the"),
        ("work/work", "lies around the"),
        (".", "lies inside the"),
    ],
)
def test_upper_or_work_overlapping_a_lower(base: Path, lower: str, says: str, field: str, what: str) -> None:
    (base / lower).mkdir(parents=True, exist_ok=True)
    lowers = (str(base / "lower"), os.path.normpath(base / lower))
    assert f"{says} {what} {lowers[1]}" in refused(base, union(base, **{field: lowers}))


def test_overlap_is_seen_through_a_bind_mount(base: Path) -> None:
    (base / "upper" / "a").mkdir()
    (base / "elsewhere").mkdir()
    mount(str(base / "upper" / "a"), base / "elsewhere", "none", 4096)
    try:
        text = refused(base, union(base, lowers=(str(base / "elsewhere"),)))
    finally:
        umount(base / "elsewhere")
    assert f"upper {base}/upper lies around the lower {base}/elsewhere" in text


def test_names_that_only_begin_alike_do_not_overlap(base: Path) -> None:
    (base / "upper2").mkdir()
    config = union(base, lowers=(str(base / "upper2"),))
    check(config, str(base / "merged"))


def test_another_filesystem_below_a_lower_does_not_overlap(base: Path) -> None:
    inner = base / "lower" / "inner"
    inner.mkdir()
    with mounted("tmpfs", inner):
        (inner / "u").mkdir()
        (inner / "w").mkdir()
        config = union(base, upper=str(inner / "u"), work=str(inner / "w"))
        check(config, str(base / "merged"))
        lock_and_check(config).close()


@pytest.mark.parametrize("where", ["lower", "lower/in", "upper", "upper/in", "merged"])
def test_the_mountpoint_may_be_in_a_layer(base: Path, where: str) -> None:
    (base / where).mkdir(exist_ok=True)
    check(union(base), str(base / where))


@pytest.mark.parametrize("where", ["work", "work/in"])
def test_the_mountpoint_may_not_be_in_work(base: Path, where: str) -> None:
    assert "is in work" in refused(base, union(base), base / where)


def test_foreign_content_in_work(base: Path) -> None:
    (base / "work" / "thesis.txt").write_text("precious")
    (base / "work" / "work").mkdir()
    text = refused(base, union(base))
    assert "it holds thesis.txt" in text
    assert (base / "work" / "thesis.txt").read_text() == "precious"


def test_many_foreign_names_are_not_all_told(base: Path) -> None:
    for number in range(10):
        (base / "work" / f"{number}").touch()
    assert "it holds 0, 1, 2, ...)" in refused(base, union(base))


def test_what_overlayfs_leaves_in_work_is_welcome(base: Path) -> None:
    (base / "work" / "work").mkdir(0)
    (base / "work" / "index").mkdir(0)
    (base / "work" / "work" / "#12").touch()
    before = snapshot(base / "work" / "work")
    lock_and_check(union(base)).close()
    # Only the time of work/work differs: marks were tried in there.
    assert [entry[:2] for entry in snapshot(base / "work" / "work")] == [
        (name, 0o40700 if name.endswith("/work/work") else mode) for name, mode, _ in before
    ]


def test_a_volatile_mark(base: Path) -> None:
    (base / "work" / "work" / "incompat" / "volatile").mkdir(parents=True)
    text = refused(base, union(base))
    assert "was used by a volatile mount" in text
    assert f"`pyunionfs check LOWERS {base}/upper {base}/work`" in text
    assert "`--repair --accept-volatile`" in text


@needs_overlayfs
def test_a_volatile_mark_that_the_kernel_left(base: Path) -> None:
    with overlayfs([base / "lower"], base / "upper", base / "work", base / "merged", options=["volatile"]):
        pass
    assert "was used by a volatile mount" in refused(base, union(base))


def test_a_feature_that_is_not_known(base: Path) -> None:
    (base / "work" / "work" / "incompat" / "quantum").mkdir(parents=True)
    assert "the overlayfs feature 'quantum'" in refused(base, union(base))


@pytest.mark.parametrize("name", ["upper", "work"])
def test_a_directory_that_is_locked(base: Path, name: str) -> None:
    fd = os.open(base / name, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        text = refused(base, union(base))
    finally:
        os.close(fd)
    assert f"{name} {base}/{name} is in use by another mount" in text
    assert "pyunionfs status" in text


def test_a_refused_lock_is_let_go(base: Path) -> None:
    (base / "work" / "foreign").touch()
    refused(base, union(base))
    (base / "work" / "foreign").unlink()
    held = lock_and_check(union(base))
    assert "in use" in refused(base, union(base))
    held.close()
    lock_and_check(union(base)).close()


@needs_overlayfs
@pytest.mark.parametrize("swapped", [False, True])
def test_upper_in_use_by_kernel_overlayfs(base: Path, swapped: bool) -> None:
    with overlayfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        names = ("work", "upper") if swapped else ("upper", "work")
        text = refused(base, union(base, upper=str(base / names[0]), work=str(base / names[1])))
    assert f"is in use by kernel overlayfs mounted at {base}/merged" in text
    assert f"umount {base}/merged" in text


@needs_overlayfs
def test_a_lower_in_use_by_kernel_overlayfs_is_no_hindrance(base: Path) -> None:
    for name in ("u2", "w2"):
        (base / name).mkdir()
    with overlayfs([base / "lower"], base / "u2", base / "w2", base / "merged"):
        lock_and_check(union(base)).close()


@needs_overlayfs
def test_an_upper_that_cannot_hold_whiteouts(base: Path) -> None:
    with overlayfs([base / "lower"], base / "upper", base / "work", base / "merged"):
        for name in ("u", "w"):
            (base / "merged" / name).mkdir()
        config = union(base, upper=str(base / "merged" / "u"), work=str(base / "merged" / "w"))
        text = refused(base, config)
        assert os.listdir(base / "merged" / "w") == []
    assert f"the filesystem of upper {base}/merged/u cannot hold whiteouts" in text
    assert "put them on ext4, xfs, btrfs or tmpfs" in text


def test_an_upper_without_extended_attributes(base: Path) -> None:
    """ramfs is the one filesystem that every kernel has and that stores none."""
    where = base / "ramfs"
    where.mkdir()
    with mounted("ramfs", where):
        for name in ("u", "w"):
            (where / name).mkdir()
        text = refused(base, union(base, upper=str(where / "u"), work=str(where / "w")))
        assert os.listdir(where / "w") == []
    assert "cannot hold trusted.* extended attributes (Operation not supported)" in text


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_filesystems_that_must_do(base: Path, kind: str) -> None:
    with loop_fs(kind, directory=base) as where:
        for name in ("u", "w"):
            (where / name).mkdir()
        for userxattr in (False, True):
            config = union(base, upper=str(where / "u"), work=str(where / "w"), userxattr=userxattr)
            check(config, str(base / "merged"))
            lock_and_check(config).close()
            assert os.listdir(where / "w") == []
