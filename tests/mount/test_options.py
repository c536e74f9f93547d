"""Mount options on a real mount: what the mount table shows of each, and what it does where that shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.rig import eventually, gone, mount, run, statuses
from tests.support.mounts import mount_types, needs_fuse, needs_root
from unionfs.linux.mount import MountPoint, mount_at

pytestmark = [needs_root, needs_fuse]

PLAIN = {"rw", "relatime"}
ALWAYS = {"user_id=0", "group_id=0", "default_permissions", "allow_other"}


def entry_of(base: Path, *options: str) -> MountPoint:
    """What the mount table says of a mount with these options, which is gone again."""
    mount(base, *(word for option in options for word in ("-o", option)))
    entry = mount_at(str(base / "merged"))
    run("umount", base / "merged")
    assert entry is not None
    return entry


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("nodev", {"rw", "nodev", "relatime"}),
        ("nodev,dev", PLAIN),
        ("nosuid", {"rw", "nosuid", "relatime"}),
        ("nosuid,suid", PLAIN),
        ("noexec", {"rw", "noexec", "relatime"}),
        ("noexec,exec", PLAIN),
        ("nosymfollow", {"rw", "nosymfollow", "relatime"}),
        ("nosymfollow,symfollow", PLAIN),
        ("noatime", {"rw", "noatime"}),
        ("noatime,atime", PLAIN),
        ("noatime,relatime", PLAIN),
        ("strictatime", {"rw"}),
        ("noatime,strictatime", {"rw"}),
        ("nodiratime", {"rw", "nodiratime", "relatime"}),
        ("nodiratime,diratime", PLAIN),
        ("ro", {"ro", "relatime"}),
        ("ro,rw", PLAIN),
    ],
)
def test_options_of_the_mount(base: Path, option: str, shown: set[str]) -> None:
    assert set(entry_of(base, option).options) == shown


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("sync", {"rw", "sync"}),
        ("sync,async", {"rw"}),
        ("dirsync", {"rw", "dirsync"}),
        ("lazytime", {"rw", "lazytime"}),
        ("lazytime,nolazytime", {"rw"}),
        ("max_read=65536", {"rw", "max_read=65536"}),
        ("allow_other,default_permissions", {"rw"}),
        ("ro", {"ro"}),
    ],
)
def test_options_of_the_filesystem(base: Path, option: str, shown: set[str]) -> None:
    assert set(entry_of(base, option).super_options) == shown | ALWAYS


@pytest.mark.parametrize(
    ("option", "source", "fstype"),
    [
        (r"fsname=my\, union", "my, union", "fuse.pyunionfs"),
        ('fsname="my, union"', "my, union", "fuse.pyunionfs"),
        ("subtype=other", "pyunionfs", "fuse.other"),
        (r"subtype=o\,dd", "pyunionfs", "fuse.o,dd"),
    ],
)
def test_names_in_the_mount_table(base: Path, option: str, source: str, fstype: str) -> None:
    entry = entry_of(base, option)
    assert (entry.source, entry.fstype) == (source, fstype)


def test_a_mount_with_another_subtype_is_ours(base: Path) -> None:
    pid = mount(base, "-o", "subtype=other")
    assert mount_types(base / "merged") == ["fuse.other"]
    [status] = statuses(base / "merged")
    assert (status["state"], status["pid"]) == ("serving", pid)
    run("umount", base / "merged")
    assert gone(pid)


def test_symlinks_are_not_followed(base: Path) -> None:
    (base / "lower" / "link").symlink_to("file")
    mount(base, "-o", "nosymfollow")
    with pytest.raises(OSError, match="Too many levels"):
        (base / "merged" / "link").read_text()
    assert os.readlink(base / "merged" / "link") == "file"
    run("umount", base / "merged")


@pytest.mark.parametrize("option", ["async", "sync"])
def test_with_sync_every_write_is_synced(base: Path, option: str) -> None:
    # With passthrough the kernel syncs upper's file itself.
    mount(base, "-o", f"{option},passthrough=off")
    with open(base / "merged" / "new", "wb", buffering=0) as file:
        file.write(b"one")
        file.write(b"two")
    counts = statuses(base / "merged")[0]["requests"]
    assert counts.get("FSYNC", 0) == (2 if option == "sync" else 0)
    run("umount", base / "merged")


def test_reads_are_no_longer_than_max_read(base: Path) -> None:
    size = 1 << 20
    (base / "lower" / "big").write_bytes(os.urandom(size))
    # passthrough=off, because what the kernel reads itself is no request.
    mount(base, "-o", "max_read=8192,passthrough=off")
    assert (base / "merged" / "big").read_bytes() == (base / "lower" / "big").read_bytes()
    assert statuses(base / "merged")[0]["requests"]["READ"] >= size // 8192
    run("umount", base / "merged")


@pytest.mark.parametrize("name", ["context", "fscontext", "defcontext", "rootcontext"])
def test_a_label_is_shown_or_refused_with_the_reason(base: Path, name: str) -> None:
    label = "system_u:object_r:tmp_t:s0:c127,c456"
    if "selinuxfs" in Path("/proc/filesystems").read_text():
        entry = entry_of(base, f'{name}="{label}"')
        assert any(label in option for option in (*entry.super_options, ",".join(entry.super_options)))
        return
    words = [base / each for each in ("lower", "upper", "work", "merged")]
    complaint = run("mount", "-o", f'{name}="{label}"', *words, status=1).stderr
    assert f"mount(2) says: Invalid argument; {name} need SELinux" in complaint
    assert mount_types(base / "merged") == []
    assert os.listdir(base / "work") == []


def test_status_prints_options_that_mount_the_same_again(base: Path) -> None:
    given = r"noatime,nodiratime,sync,auto_unmount,max_read=65536,fsname=a\,b,subtype=other,passthrough=off"
    mount(base, "-o", given)
    before = mount_at(str(base / "merged"))
    [status] = statuses(base / "merged")
    run("umount", base / "merged")
    assert eventually(lambda: gone(status["pid"]))
    after = entry_of(base, ",".join(status["options"]))
    assert before is not None
    for what in ("options", "super_options", "source", "fstype"):
        assert getattr(after, what) == getattr(before, what)


def test_passthrough_as_asked_for(base: Path, transport: str) -> None:
    words = [base / each for each in ("lower", "upper", "work", "merged")]
    if transport == "pyfuse3":
        said = run("mount", "-o", "passthrough=on", *words, status=2).stderr
        assert "passthrough=on and transport=pyfuse3 conflict" in said
        mount(base)
        assert "pyfuse3 cannot ask" in statuses(base / "merged")[0]["passthrough_problem"]
    elif tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        assert (
            "this kernel does not offer it" in run("mount", "-o", "passthrough=on", *words, status=1).stderr
        )
        assert mount_types(base / "merged") == []
        mount(base)
    else:
        mount(base, "-o", "passthrough=on")
        status = statuses(base / "merged")[0]
        assert (status["passthrough_problem"], "PASSTHROUGH" in status["flags"]) == (None, True)
        assert "\n  transport direct, passthrough\n" in run("status", base / "merged").stdout
        run("umount", base / "merged")
        mount(base, "-o", "passthrough=off")
        assert "PASSTHROUGH" not in statuses(base / "merged")[0]["flags"]
        assert "no passthrough: switched off" in run("status", base / "merged").stdout
    run("umount", base / "merged")


def test_with_debug_the_flags_are_logged(base: Path, transport: str) -> None:
    mount(base, "--debug", "--log-file", str(base / "log"))
    flags = statuses(base / "merged")[0]["flags"]
    run("umount", base / "merged")
    assert (flags == []) == (transport == "pyfuse3"), "libfuse keeps them to itself"
    assert " ".join(flags) in (base / "log").read_text()
