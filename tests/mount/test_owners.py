"""Owners that are shown otherwise than stored, as several users meet them, beside fuse-overlayfs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.owners_rig import PLACES, as_user, fill, fuse_overlayfs, needs_fuse_overlayfs, ours, seen
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import as_user as as_user_of
from tests.support.users import open_home, ordinary_user, user_namespaces

pytestmark = [needs_root, needs_fuse]

MAP = "uidmapping=0:1000:1:1:100000:99,gidmapping=0:1000:1:1:100000:99"


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


@needs_fuse_overlayfs
@pytest.mark.parametrize("case", CASES)
def test_as_fuse_overlayfs(base: Path, case: str) -> None:
    """The same answers, the same merged tree, the same upper."""
    options, users = CASES[case]
    sides = {}
    for name, mount in (("ours", ours), ("theirs", fuse_overlayfs)):
        where = base / name
        for directory in PLACES:
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
        forget_unused(merged)
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


def prepare(base: Path, owner: int) -> None:
    """Layers of somebody, with a file of another user and one whose ACL names a third."""
    for name in PLACES:
        (base / name).mkdir(parents=True)
    low = base / "lower"
    (low / "d").mkdir()
    for name in ("mine", "another", "d/low", "acl"):
        (low / name).write_text(name)
    none = 0xFFFFFFFF
    entries = [(1, 6, none), (2, 4, 7), (4, 4, none), (0x10, 4, none), (0x20, 4, none)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(low / "acl", "system.posix_acl_access", struct.pack("<I", 2) + packed)
    for path in (base, *base.rglob("*")):
        os.chown(path, owner, owner)
    os.chown(low / "another", 5, 5)


def deeds_by(start: list[str], side: str, base: Path, options: str) -> dict[str, dict[str, str]]:
    """What `owners_deeds` says, started so."""
    done = subprocess.run(
        [*start, "tests.mount.owners_deeds", side, str(base), options],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def in_single_id_namespace(side: str, base: Path, options: str) -> dict[str, dict[str, str]]:
    """As root of a namespace that has no other user."""
    prepare(base, 0)
    unshare = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m"]
    return deeds_by(unshare, side, base, options)


SQUASHED = {"chmod another's": "ok", "write another's": "ok", "rename another's": "ok"}
UNKNOWN = {"chmod another's": "EOVERFLOW", "write another's": "EACCES", "rename another's": "EOVERFLOW"}
SINGLE = {
    "no option": ("noatime", UNKNOWN),
    "squash": ("squash_to_root", SQUASHED),
    "squash to ids": ("squash_to_uid=0,squash_to_gid=0", SQUASHED),
    "map": ("uidmapping=0:0:1,gidmapping=0:0:1", UNKNOWN),
    "attributes": ("xattr_permissions=2", UNKNOWN),
}


@one_transport
@pytest.mark.skipif(not user_namespaces(), reason="needs user namespaces")
@pytest.mark.parametrize("case", SINGLE)
def test_a_namespace_with_a_single_id(base: Path, case: str) -> None:
    options, others = SINGLE[case]
    found = in_single_id_namespace("ours", base / "ours", options)
    answers = found["answers"]
    assert answers.pop("chown to unknown") == "EINVAL"
    assert {name: answers.pop(name) for name in others} == others
    assert answers == dict.fromkeys(answers, "ok")
    squashed = others is SQUASHED
    assert found["merged"]["d/another" if squashed else "another"] == (
        "100600 0:0" if squashed else "100644 65534:65534"
    )
    assert found["merged"]["d/dir"] == "40750 0:0"
    assert found["merged"]["mine"] == "104711 0:0"
    if case == "attributes":
        assert found["upper"]["mine"].startswith("100711 0:0 user.containers.override_stat=")
        return
    assert found["upper"]["mine"] == "104711 0:0"
    if shutil.which("fuse-overlayfs") is not None:
        theirs = in_single_id_namespace("theirs", base / "theirs", options)
        # Where an ACL names somebody unknown, that is what it answers.
        assert theirs["answers"].pop("read by ACL") == "EINVAL"
        assert answers.pop("read by ACL") == "ok"
        assert answers | others == {
            name: said for name, said in theirs["answers"].items() if name != "chown to unknown"
        }
        for tree in ("merged", "upper"):
            mine, other = found[tree], theirs[tree]
            assert {path: mine[path] for path in mine if path != "acl"} == {
                path: other[path] for path in other if path != "acl"
            }


@one_transport
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs fusermount3")
@pytest.mark.parametrize("option", ["squash", "attributes"])
def test_an_ordinary_user(option: str) -> None:
    """Without any privilege: somebody else's files can be changed where nobody sees whose they are."""
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        own = f"{user.pw_uid}:{user.pw_gid}"
        squash = f"squash_to_uid={user.pw_uid},squash_to_gid={user.pw_gid}"
        prepare(home / "layers", user.pw_uid)
        options = squash if option == "squash" else "xattr_permissions=2"
        start = as_user_of(user)
        found = deeds_by(start, "ours", home / "layers", options)
        if option == "attributes":
            refused = home / "refused"
            prepare(refused, user.pw_uid)
            with pytest.raises(AssertionError, match="xattr_permissions=2 needs no privilege"):
                deeds_by(start, "ours", refused, "xattr_permissions=1")
    answers = found["answers"]
    assert answers.pop("chown to unknown") == answers.pop("chown to root") == "EPERM"
    others = {name: answers.pop(name) for name in SQUASHED}
    assert answers == dict.fromkeys(answers, "ok")
    assert found["merged"]["mine"] == f"104711 {own}"
    if option == "squash":
        assert others == SQUASHED
        assert found["merged"]["d/another"] == f"100600 {own}"
    else:
        assert others["chmod another's"] == "EPERM"
        assert others["write another's"] == "EACCES"
        assert found["upper"]["mine"].startswith(f"100711 {own} user.containers.override_stat=")


@one_transport
@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap")
@pytest.mark.skipif(not user_namespaces(), reason="needs user namespaces")
def test_a_namespace_with_many_ids() -> None:
    """Ids are those of the mount's user namespace, on both sides of the map."""
    options = "uidmapping=0:0:1:1:2000:100,gidmapping=0:0:1:1:2000:100"
    with ordinary_user(subordinate_ids=True) as user, open_home(user.pw_uid) as home:
        prepare(home / "layers", user.pw_uid)
        found = deeds_by(as_user_of(user), "ours-many", home / "layers", options)
    answers = found["answers"]
    # 5 is an id there, and shown for none.
    assert answers.pop("chown to unknown") == "EINVAL"
    # The overflow id is one there, too, so root may do all with what is shown to have it.
    assert answers == dict.fromkeys(answers, "ok")
    assert found["merged"]["mine"] == "104711 0:0"
    assert found["merged"]["d/another"] == "100600 65534:65534"
