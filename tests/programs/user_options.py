"""Mount options of an ordinary user, whose mounts fusermount3 makes: `python -m ... DIRECTORY`.

Run as that user (see as_user.py) with an empty directory of its own.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.mount.rig import eventually, gone, mount, run
from tests.support import transports
from tests.support.mounts import mount_types
from unionfs.linux.mount import mount_at

STACK = ("lower", "upper", "work", "merged")


def auto_unmount(base: Path) -> None:
    """A killed daemon's mount goes; one that has ended well takes nothing with it."""
    merged = base / "merged"
    daemon = mount(base, "-o", "auto_unmount")
    (merged / "new").write_text("new\n")
    os.kill(daemon, signal.SIGKILL)
    assert eventually(lambda: mount_types(merged) == []), "the mount stayed"
    assert eventually(lambda: gone(daemon))
    daemon = mount(base, "-o", "auto_unmount")
    assert (merged / "new").read_text() == "new\n"
    run("umount", merged)
    assert gone(daemon)
    mount(base)
    time.sleep(0.5)
    assert (merged / "file").read_text() == "lower\n", "the next mount was taken away"
    run("umount", merged)


def supervised(base: Path) -> None:
    """His mounts have a supervisor of his own."""
    other = base / "other"
    for name in STACK:
        (other / name).mkdir(parents=True)
    pids = [mount(base), mount(other)]
    parents = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in pids}
    assert len(parents) == 1
    supervisor = Path("/proc") / parents.pop()
    assert supervisor.joinpath("cmdline").read_bytes().startswith(b"pyunionfs: supervisor")
    assert {supervisor.stat().st_uid, Path(f"/proc/{pids[0]}").stat().st_uid} == {os.getuid()}
    run("umount", base / "merged")
    run("umount", other / "merged")
    shutil.rmtree(other)


def shown(base: Path) -> None:
    """What fusermount3 takes is passed on to it."""
    mount(base, "-o", r"noexec,noatime,sync,dirsync,max_read=65536,fsname=my\, union,subtype=other")
    entry = mount_at(str(base / "merged"))
    run("umount", base / "merged")
    assert entry is not None
    assert set(entry.options) == {"rw", "nosuid", "nodev", "noexec", "noatime"}
    assert {"sync", "dirsync", "max_read=65536", "default_permissions"} <= set(entry.super_options)
    assert (entry.source, entry.fstype) == ("my, union", "fuse.other")


def refused(base: Path) -> None:
    """What it does not take, or what needs root, is refused with the reason, and nothing is left."""
    complaints = {
        "context=a:b:c:d": "context can be given by root only",
        "passthrough=on": "passthrough=on: it needs CAP_SYS_ADMIN of the machine's root",
        "nodiratime": "unknown option 'nodiratime'; this fusermount3 does not support it",
    }
    if transports.chosen() == "pyfuse3":
        complaints["passthrough=on"] = "passthrough=on and transport=pyfuse3 conflict"
    for option, complaint in complaints.items():
        done = run("mount", "-o", option, *(base / name for name in STACK), status=None)
        if option == "nodiratime" and done.returncode == 0:
            run("umount", base / "merged")  # a newer one does take it
            continue
        assert done.returncode in (1, 2), option
        assert complaint in done.stderr, done.stderr
        assert mount_types(base / "merged") == []


def without(base: Path) -> None:
    """What is left of ACLs, attributes and link counts where an option takes them away; the umask counts."""
    merged = base / "merged"
    os.setxattr(base / "lower" / "file", "user.x", b"1")
    for option, x, acl, links in (
        ("rw", 0, errno.ENODATA, 4),
        ("noacl", 0, errno.EOPNOTSUPP, 4),
        ("noxattrs", errno.EOPNOTSUPP, errno.ENODATA, 4),
        ("static_nlink", 0, errno.ENODATA, 1),
    ):
        (base / "upper" / option / "below").mkdir(parents=True)
        mount(base, "-o", option)
        before = os.umask(0o027)
        (merged / option / "made").mkdir()  # its parent has two directories from now on
        os.umask(before)
        answers = [_errno_of(merged / "file", name) for name in ("user.x", "system.posix_acl_access")]
        found = [*answers, (merged / option / "below").parent.stat().st_nlink]
        mode = (merged / option / "made").stat().st_mode & 0o777
        run("umount", merged)
        assert found == [x, acl, links], option
        assert mode == 0o750, option


def deletions_as_files(base: Path) -> None:
    """Whiteouts as files, in and of directories whose modes keep their owner out, too."""
    merged, upper = base / "merged", base / "upper"
    shutil.rmtree(upper)
    upper.mkdir()
    for name in ("low", "closed", "other"):
        (base / "lower" / name / "deep").mkdir(parents=True)
        (base / "lower" / name / "f").write_text(name)
    for option in ("whiteouts=aufs", "whiteouts=overlay"):
        mount(base, "-o", option)
        if option == "whiteouts=aufs":
            shutil.rmtree(merged / "low")
            (merged / "low").mkdir(mode=0o555)
            (merged / "other" / "f").unlink()
            (merged / "other" / "deep").rmdir()
            (merged / "own").mkdir()
            (merged / "own" / "g").write_text("g")
            (merged / "own").chmod(0o555)
            (merged / "own").rename(merged / "other")
            shutil.rmtree(merged / "closed")
            (merged / "file").rename(merged / "closed")
        found = sorted(str(path.relative_to(merged)) for path in merged.rglob("*"))
        modes = [(merged / name).stat().st_mode & 0o777 for name in ("low", "other")]
        run("umount", merged)
        assert found == ["closed", "low", "other", "other/g"], found
        assert modes == [0o555, 0o555]
    held = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
    assert held == sorted(
        [".wh.file", "closed", "low", "low/.wh..wh..opq", "other", "other/.wh..wh..opq", "other/g"]
    ), held
    mount(base, "-o", "whiteouts=aufs")
    (merged / "low").rmdir()
    (merged / "other").chmod(0o755)
    shutil.rmtree(merged / "other")
    assert os.listdir(merged) == ["closed"]
    run("umount", merged)
    assert sorted(os.listdir(upper)) == [".wh.file", ".wh.low", ".wh.other", "closed"]


def _errno_of(path: Path, name: str) -> int:
    try:
        os.getxattr(path, name)
    except OSError as error:
        return error.errno or -1
    return 0


def main(base: Path) -> None:
    for name in STACK:
        (base / name).mkdir()
    (base / "lower" / "file").write_text("lower\n")
    auto_unmount(base)
    supervised(base)
    shown(base)
    refused(base)
    without(base)
    deletions_as_files(base)
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
