"""Containers of an ordinary user: `tests.container.user_run HOME IDS`, by a user with so many further ids."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from testing.images.entries import directory, file, symlink
from testing.images.layout import image, write_layout
from tests.container.boxes import BUSYBOX, Shop
from tests.support.mounts import mount_types


def main(home: Path, ids: int) -> None:
    shop = Shop(home / "store")
    life(shop)
    with_volumes(Shop(home / "volumes", empty=True), home, (1000, 1001) if ids else (0, 0))
    if ids:
        with_ids(shop, ids)
        loaded(Shop(home / "other", empty=True), home)
    else:
        without_ids(shop)
    assert shop.names() == []
    assert [*shop.store.containers.iterdir()] == []
    assert [*shop.store.ingest.iterdir()] == []
    assert "fuse.pyunionfs" not in mount_types(home)


def life(shop: Shop) -> None:
    """What is the same with one id and with many."""
    script = "id -u; id -g; echo data >/made; stat -c '%u %g' /made /bin/sh; grep CapEff /proc/self/status"
    seen = shop.do("run", "--name", "one", "box", "sh", "-c", script)
    assert seen == "0\n0\n0 0\n0 0\nCapEff:\t00000000a80425fb\n"
    assert shop.do("diff", "one") == "A /made\n"
    assert shop.do("start", "-a", "one") == seen
    shop.do("rm", "one")
    shop.do("run", "-d", "--name", "job", "box", "sleep", "60")
    try:
        assert "sleep 60" in shop.do("exec", "job", "ps", "-o", "args")
        assert shop.do("exec", "-t", "job", "tty") == "/dev/pts/0\n"
    finally:
        shop.do("rm", "-f", "job")
    assert shop.do("run", "--rm", "-t", "box", "sh", "-c", "tty; ls -d /sys/class; echo >/dev/null") == (
        "/dev/pts/0\n/sys/class\n"
    )
    assert shop.do("run", "--rm", "box", "nosuch", status=127).endswith("not found in $PATH\n")


def with_volumes(shop: Shop, home: Path, owner: tuple[int, int]) -> None:
    """They are filled with the owners of the image, or with the one that there is."""
    ids: dict[str, Any] = {"uid": 1000, "gid": 1001}
    layer = [
        directory("bin"),
        file("bin/busybox", Path(BUSYBOX).read_bytes(), 0o755),
        *(symlink(f"bin/{each}", "busybox") for each in ("sh", "stat", "touch", "chmod")),
        directory("data", 0o700, **ids),
        file("data/file", b"x", 0o600, xattrs={"user.mark": b"value"}, **ids),
        directory("data/closed", 0, **ids),
        file("data/closed/file", b"y", 0, **ids),
    ]
    made = image([layer], {"Volumes": {"/data": {}}, "Cmd": ["sh"]})
    write_layout(home / "with-volumes", {"vol:latest": made})
    shop.do("load", "-i", str(home / "with-volumes"))
    script = "stat -c '%u %g %a' /data /data/file /data/closed /data/closed/file; touch /data/closed/new"
    uid, gid = owner
    seen = f"{uid} {gid} 700\n{uid} {gid} 600\n{uid} {gid} 0\n{uid} {gid} 0\n"
    assert shop.do("run", "--rm", "-v", "named:/data", "vol", "sh", "-c", script) == seen
    assert shop.do("run", "--name", "one", "vol", "sh", "-c", f"{script}; chmod 0 /data") == seen
    named = shop.store.volumes / "named/_data"
    if uid == 0:
        assert os.getxattr(named / "file", "user.mark") == b"value"
    else:
        assert named.stat().st_uid not in (0, uid, os.getuid())
    shop.do("cp", "-q", "one:/data/file", str(home / "copied"))
    assert (home / "copied").read_bytes() == b"x"
    shop.do("cp", "-q", str(home / "copied"), "one:/data/closed/copied")
    assert "Local Volumes   2         1" in shop.do("df")
    shop.do("rm", "-v", "one")
    assert [each.name for each in shop.store.volumes.iterdir()] == ["named"]
    shop.do("prune", "-f", "--volumes=all")
    assert [*shop.store.volumes.iterdir()] == []


def with_ids(shop: Shop, ids: int) -> None:
    assert shop.do("run", "--rm", "box", "cat", "/proc/self/uid_map").split()[-2:][1] == str(ids)
    assert shop.do("run", "--rm", "-u", "ann", "box", "sh", "-c", "id -u; id -G") == "1000\n1001 29 44\n"
    # What belongs to another id is removed, too.
    script = (
        "mkdir -p /dir/sub; echo x >/dir/sub/file; chown -R 1000:1001 /dir; chmod 700 /dir; stat -c %u /dir"
    )
    assert shop.do("run", "--rm", "box", "sh", "-c", script) == "1000\n"
    assert shop.do("run", "--name", "kept", "box", "sh", "-c", script) == "1000\n"
    assert shop.do("start", "-a", "kept") == "1000\n"
    shop.do("rm", "kept")


def loaded(shop: Shop, home: Path) -> None:
    """Files of a layer that this user unpacks belong to whom they should, on the disk, too."""
    owner: dict[str, Any] = {"uid": 1000, "gid": 1001}
    layer = [
        directory("bin"),
        file("bin/busybox", Path(BUSYBOX).read_bytes(), 0o755),
        symlink("bin/stat", "busybox"),
        directory("closed", 0o700, **owner),
        file("closed/file", b"x", 0o4600, **owner),
    ]
    write_layout(home / "layout", {"owners:latest": image([layer])})
    shop.do("load", "-i", str(home / "layout"))
    seen = shop.do("run", "--rm", "owners", "/bin/stat", "-c", "%u %g %a", "/closed/file")
    assert seen == "1000 1001 4600\n"
    (closed,) = shop.store.trees.glob("*/diff/closed")
    assert closed.stat().st_uid not in (0, 1000, os.getuid())
    shop.do("rmi", "owners")
    assert [*shop.store.containers.iterdir()] == []


def without_ids(shop: Shop) -> None:
    assert shop.do("run", "--rm", "box", "cat", "/proc/self/uid_map").split()[2:] == ["1"]
    assert "this id does not exist" in shop.do("run", "--rm", "-u", "ann", "box", "true", status=125)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
