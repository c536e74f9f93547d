"""What an ordinary user does with a union: `python -m tests.programs.user_life DIRECTORY`.

Run as that user (see as_user.py) or as the root of a user namespace; it mounts its own layers in DIRECTORY,
which is empty and its own, and asserts every result. It must never need a privilege.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from tests.support.mounts import command, environment, mount_types, pyunionfs


def is_whiteout(path: Path) -> bool:
    """Whether this is the mark of a deleted name."""
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def make_layers(top: Path, bottom: Path) -> None:
    """Two lowers that share a directory."""
    for directory in (bottom / "both", bottom / "tree/inner", top / "both", bottom / "bin"):
        directory.mkdir(parents=True)
    (bottom / "file").write_text("lower\n")
    (bottom / "gone").write_text("to be deleted\n")
    (bottom / "replaced").write_text("old\n")
    (bottom / "both/below").write_text("below\n")
    (bottom / "both/hidden").write_text("hidden by the top layer\n")
    (bottom / "tree/inner/leaf").write_text("leaf\n")
    (top / "both/hidden").write_text("top\n")
    os.setxattr(bottom / "file", "user.note", b"kept")
    os.mknod(top / "both/never", stat.S_IFCHR, os.makedev(0, 0))
    (bottom / "both/never").write_text("whited out by the top layer\n")


def first_mount(merged: Path, upper: Path) -> None:
    """Every main thing once."""
    assert sorted(os.listdir(merged)) == ["bin", "both", "file", "gone", "replaced", "tree"]
    assert sorted(os.listdir(merged / "both")) == ["below", "hidden"]
    assert (merged / "both/hidden").read_text() == "top\n"
    assert os.listdir(upper) == [], "reading copied something up"
    assert merged.joinpath("file").stat().st_uid == os.getuid()

    (merged / "new").write_text("new\n")
    assert (upper / "new").read_text() == "new\n"
    number = (merged / "file").stat().st_ino
    with (merged / "file").open("a") as file:
        file.write("changed\n")
    assert (merged / "file").read_text() == "lower\nchanged\n"
    assert (merged / "file").stat().st_ino == number, "a copy-up changed the inode number"
    assert os.getxattr(merged / "file", "user.note") == b"kept"

    os.setxattr(merged / "both/below", "user.mine", b"1")
    assert os.listxattr(merged / "both/below") == ["user.mine"]
    os.removexattr(merged / "file", "user.note")
    assert os.listxattr(merged / "file") == []
    for name in ("user.overlay.opaque", "trusted.overlay.opaque"):
        assert name not in os.listxattr(merged / "both")

    (merged / "gone").unlink()
    assert not (merged / "gone").exists()
    assert is_whiteout(upper / "gone")

    (merged / "both/below").rename(merged / "moved")
    assert is_whiteout(upper / "both/below")
    (merged / "new2").write_text("renamed over\n")
    (merged / "new2").rename(merged / "replaced")
    assert (merged / "replaced").read_text() == "renamed over\n"
    subprocess.run(["mv", merged / "tree", merged / "branch"], check=True)
    assert (merged / "branch/inner/leaf").read_text() == "leaf\n"
    assert not (merged / "tree").exists()

    (merged / "private").mkdir(mode=0o700)
    os.link(merged / "file", merged / "private/link")
    assert (merged / "file").stat().st_nlink == 2
    os.symlink("link", merged / "private/symbolic")
    os.mkfifo(merged / "private/fifo")
    os.chmod(merged / "replaced", 0o400)
    os.utime(merged / "replaced", ns=(1, 1_000_000_001))


CHANGES = """\
C /both
D /both/below
A /branch
A /branch/inner
A /branch/inner/leaf
C /file
D /gone
A /moved
A /new
A /private
A /private/fifo
A /private/link
A /private/symbolic
C /replaced
D /tree
"""


def changes(*words: str | Path) -> str:
    """What `pyunionfs changes` lists."""
    return subprocess.check_output(command("changes", *map(str, words)), text=True, env=environment())


def last_look(merged: Path) -> None:
    """What the next mount of the same upper must show."""
    assert sorted(os.listdir(merged)) == [
        "bin",
        "both",
        "branch",
        "file",
        "moved",
        "new",
        "private",
        "replaced",
    ]
    assert os.listdir(merged / "both") == ["hidden"]
    assert (merged / "file").read_text() == "lower\nchanged\n"
    assert (merged / "private/symbolic").read_text() == "lower\nchanged\n"
    assert os.getxattr(merged / "moved", "user.mine") == b"1"
    assert (merged / "branch/inner/leaf").read_text() == "leaf\n"
    info = (merged / "replaced").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o400, 1_000_000_001)


def run_inside(merged: Path) -> None:
    """In a user namespace the user is root and may make the merged tree a process's root."""
    busybox = shutil.which("busybox")
    if os.getuid() != 0 or busybox is None:
        return
    shutil.copy2(busybox, merged / "bin/busybox")
    script = "/bin/busybox cat /file && /bin/busybox rm -r /both && /bin/busybox ls /"
    said = subprocess.check_output(["chroot", merged, "/bin/busybox", "sh", "-c", script], text=True)
    assert said.startswith("lower\nchanged\n")
    assert "both" not in said.split()


def main(directory: Path) -> None:
    """Mount, use, unmount, and mount again."""
    names = ("top", "bottom", "upper", "work", "merged")
    top, bottom, upper, work, merged = (directory / name for name in names)
    for path in (top, bottom, upper, work, merged):
        path.mkdir()
    make_layers(top, bottom)
    with pyunionfs([top, bottom], upper, work, merged):
        first_mount(merged, upper)
        assert changes(merged) == CHANGES
    assert changes("--lowers", f"{top}:{bottom}", upper) == CHANGES
    assert mount_types(merged) == []
    assert os.listdir(merged) == []
    with pyunionfs([top, bottom], upper, work, merged, foreground=False):
        last_look(merged)
        run_inside(merged)
    assert mount_types(merged) == []
    assert (bottom / "gone").read_text() == "to be deleted\n"
    assert (bottom / "file").read_text() == "lower\n"
    print("all done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
