"""Owners that are shown otherwise than stored, as several users meet them, beside fuse-overlayfs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import needs_fuse, needs_root, pyunionfs, umount

pytestmark = [needs_root, needs_fuse]

MAP = "uidmapping=0:1000:1:1:100000:99,gidmapping=0:1000:1:1:100000:99"
MARKS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.o")


def fill(base: Path) -> None:
    """A lower with objects of several owners; shown as root's, 7's and somebody's outside the map."""
    low = base / "lower"
    for name, uid in (("root", 0), ("seven", 7), ("out", 5000)):
        (low / name).write_text(name)
        os.chown(low / name, uid, uid)
    for name, mode in (("open", 0o1777), ("group", 0o2777)):
        (low / name).mkdir()
        (low / name / "x").touch()
        os.chown(low / name, 0, 7)
        os.chmod(low / name, mode)
    os.symlink("x", low / "link")


def as_user(uid: int, where: Path, act: Callable[[], object]) -> str:
    """What happens when somebody does something in a directory: "ok" or an errno's name."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.umask(0o022)
            os.chdir(where)  # whose parents may be closed to users
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            act()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code] if code else "ok"


def seen(top: Path) -> dict[str, str]:
    """Of all that is in a tree: mode, owner, and attributes, the marks of unions left out."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.name.startswith(".wh."):
            continue
        st = path.lstat()
        attributes = [
            f" {name}={os.getxattr(path, name, follow_symlinks=False).hex()}"
            for name in sorted(os.listxattr(path, follow_symlinks=False))
            if not name.startswith(MARKS)
        ]
        line = f"{st.st_mode:o} {st.st_uid}:{st.st_gid}{''.join(attributes)}"
        found[str(path.relative_to(top))] = line
    return found


@contextmanager
def ours(base: Path, options: str) -> Iterator[Path]:
    merged = base / "merged"
    with pyunionfs([base / "lower"], base / "upper", base / "work", merged, options=[options]):
        yield merged


@contextmanager
def fuse_overlayfs(base: Path, options: str) -> Iterator[Path]:
    """The same layers' twins, by fuse-overlayfs."""
    layers = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,allow_other"
    subprocess.run(["fuse-overlayfs", "-o", f"{layers},{options}", base / "merged"], check=True)
    try:
        yield base / "merged"
    finally:
        umount(base / "merged")


def deeds(uid: int) -> dict[str, Callable[[], object]]:
    """What a user may try in such a tree."""
    place = Path("open")
    return {
        "create": lambda: (place / f"file{uid}").touch(0o666),
        "mkdir": lambda: (place / f"dir{uid}").mkdir(),
        "symlink": lambda: (place / f"link{uid}").symlink_to("to"),
        "fifo": lambda: os.mkfifo(place / f"fifo{uid}"),
        "below its own": lambda: (place / f"dir{uid}" / "file").touch(),
        "in a closed one": lambda: Path(f"no{uid}").touch(),
        "write root's": lambda: Path("root").write_text("x"),
    }


def disputes(mine: int, other: int) -> dict[str, Callable[[], object]]:
    """What a user may try with what is its own and what is another's."""
    place = Path("open")
    return {
        "chmod own": lambda: os.chmod(place / f"file{mine}", 0o640),
        "chmod other's": lambda: os.chmod(place / f"file{other}", 0o640),
        "rename own": lambda: (place / f"file{mine}").rename(place / "renamed"),
        "unlink other's": lambda: (place / f"file{other}").unlink(),
        "chgrp own": lambda: os.chown(place / f"dir{mine}", -1, other),
        "chown own": lambda: os.chown(place / f"dir{mine}", other, -1),
    }


def life(merged: Path, users: tuple[int, ...]) -> list[str]:
    """What users do, and root for upkeep; the answers."""
    answers = []
    for uid in users:
        answers += [f"{name} by {uid}: {as_user(uid, merged, act)}" for name, act in deeds(uid).items()]
    mine, other = users[-1], users[0]
    answers += [f"{name}: {as_user(mine, merged, act)}" for name, act in disputes(mine, other).items()]
    upkeep: dict[str, Callable[[], object]] = {
        "chown": lambda: os.chown("seven", 100010, 1000),
        "chgrp": lambda: os.chown("out", -1, 1000),
        "chmod setuid": lambda: os.chmod("out", 0o4755),
        "lchown": lambda: os.chown("link", 100010, 1000, follow_symlinks=False),
        "truncate": lambda: os.truncate("open/x", 5),
        "link": lambda: os.link("seven", "open/linked"),
        "rename": lambda: os.rename("root", "open/moved"),
    }
    return answers + [f"{name}: {as_user(0, merged, act)}" for name, act in upkeep.items()]


CASES = {
    "map": (MAP, (1000, 100006)),
    "squash_to_root": ("squash_to_root", (0, 1000, 7)),
    "squash to ids": ("squash_to_uid=1000,squash_to_gid=7", (1000, 0, 7)),
    "map and squash": (f"{MAP},squash_to_gid=1000", (1000, 100006)),
}


@pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs")
@pytest.mark.parametrize("case", CASES)
def test_as_fuse_overlayfs(base: Path, case: str) -> None:
    """The same answers, the same merged tree, the same upper."""
    options, users = CASES[case]
    sides = {}
    for name, mount in (("ours", ours), ("theirs", fuse_overlayfs)):
        where = base / name
        for directory in ("lower", "upper", "work", "merged"):
            (where / directory).mkdir(parents=True)
        fill(where)
        with mount(where, options) as merged:
            before = seen(merged)
            answers = life(merged, users)
            sides[name] = (before, answers, seen(merged), seen(where / "upper"))
    for mine, theirs in zip(sides["ours"], sides["theirs"], strict=True):
        assert mine == theirs
    assert f"create by {users[-1]}: ok" in sides["ours"][1]


def test_map(base: Path) -> None:
    """Shown, stored, and what the map lacks."""
    fill(base)
    with ours(base, MAP) as merged:
        shown = seen(merged)
        assert shown["root"] == "100644 1000:1000"
        assert shown["seven"] == "100644 100006:100006"
        assert shown["out"] == "100644 65534:65534"
        assert shown["group"] == "42777 1000:100006"
        acts: dict[str, Callable[[], object]] = {
            "chown": lambda: os.chown("seven", 7, -1),
            "chgrp": lambda: os.chown("seven", -1, 100099),
            "to nobody": lambda: os.chown("seven", 65534, 65534),
        }
        answers = {name: as_user(0, merged, act) for name, act in acts.items()}
        assert answers == dict.fromkeys(acts, "EINVAL")
        assert seen(base / "upper") == {}
        assert as_user(100006, merged, Path("group/new").touch) == "ok"
        assert as_user(100006, merged, Path("group/dir").mkdir) == "ok"
        assert as_user(0, merged, lambda: os.symlink("to", "open/by root")) == "ok"
        assert seen(merged)["group/new"] == "100644 100006:100006"
        assert seen(merged)["group/dir"] == "42755 100006:100006"
        assert seen(merged)["open/by root"] == "120777 65534:65534"
        # What the kernel has cached says no more than what it is told afresh.
        before = seen(merged)
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert seen(merged) == before
    upper = seen(base / "upper")
    assert upper["group"] == "42777 0:7"
    assert upper["group/new"] == "100644 7:7"
    assert upper["group/dir"] == "42755 7:7"
    assert upper["open/by root"] == "120777 65534:65534"


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs setfacl")
def test_acl(base: Path) -> None:
    """An ACL names users as callers know them, counts for those, and names the others on disk."""
    fill(base)
    os.chmod(base / "lower" / "root", 0o640)
    with ours(base, MAP) as merged:
        target = merged / "root"
        assert as_user(100006, merged, Path("root").read_text) == "EACCES"
        subprocess.run(["setfacl", "-m", "u:100006:r,g:1000:rw", target], check=True)
        assert as_user(100006, merged, Path("root").read_text) == "ok"
        assert as_user(100007, merged, Path("root").read_text) == "EACCES"
        shown = subprocess.run(["getfacl", "-nc", target], stdout=subprocess.PIPE, text=True, check=True)
        assert "user:100006:r--" in shown.stdout
        assert "group:1000:rw-" in shown.stdout
        refused = subprocess.run(["setfacl", "-m", "u:7:r", target], stderr=subprocess.PIPE, text=True)
        assert "Invalid argument" in refused.stderr
    real = base / "upper" / "root"
    stored = subprocess.run(["getfacl", "-nc", real], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "user:7:r--" in stored
    assert "group:0:rw-" in stored
    assert "user:100006" not in stored


def test_data_takes_its_usual_way(base: Path) -> None:
    """Reading, writing, appending and mapping work as without a map; set-ids go when somebody else writes."""
    fill(base)
    os.chmod(base / "lower" / "seven", 0o6757)
    with ours(base, MAP) as merged:
        target = merged / "seven"
        assert target.read_text() == "seven"
        assert as_user(1000, merged, lambda: Path("seven").write_text("written")) == "ok"
        assert stat.S_IMODE(target.stat().st_mode) == 0o757
        assert target.read_text() == "written"
        with (merged / "root").open("a") as file:
            file.write(" more")
        assert (merged / "root").read_text() == "root more"
    assert (base / "upper" / "seven").read_text() == "written"
    assert (base / "lower" / "seven").read_text() == "seven"
