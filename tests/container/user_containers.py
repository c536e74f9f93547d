"""What an ordinary user does with containers: `python -m tests.container.user_containers DIRECTORY [FORM]`.

FORM is that of the layers: `override_stat`, or `userns`, where the user is root in a user namespace, as in
that of `buildah unshare`. It asserts every result.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from tests.container.boxes import make_tree
from tests.mount.rig import run
from tests.support.images import plant
from tests.support.mounts import environment
from unionfs.container import record
from unionfs.image.store import Store

OVERRIDE = "user.containers.override_stat"


def make_layer(tree: Path) -> None:
    """busybox, owned by root as the attributes have it, but for one file that only root may read."""
    make_tree(tree)
    (tree / "etc/shadow").write_text("secret\n")
    (tree / "etc/shadow").chmod(0o600)
    if os.geteuid() == 0:
        return
    for path in [tree, *tree.rglob("*")]:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            os.setxattr(path, OVERRIDE, f"0:0:{stat.S_IMODE(mode):o}".encode())


SCRIPT = (
    "id -u; cat /etc/shadow; stat -c %u:%a /etc/shadow; chmod 4711 /etc/shadow; rm /bin/wc; hostname > /made"
)


def shown(path: Path) -> tuple[int, int]:
    """Owner and mode of what is in an upper."""
    if os.geteuid() == 0:
        return path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)
    uid, _, mode, *_ = os.getxattr(path, OVERRIDE).split(b":")
    return int(uid), int(mode, 8)


def main(home: Path) -> None:
    store = Store(home / "store")
    place = ["--store", str(store.root)]
    plant(store, "box", [make_layer], Cmd=["sh", "-c", SCRIPT])
    run("create", *place, "--name", "web", "box")
    box = record.find(store, "web")
    done = run("start", *place, "-a", "web")
    assert done.stdout == "0\nsecret\n0:600\n", done
    assert run("diff", *place, "web").stdout == "C /bin\nD /bin/wc\nC /etc\nC /etc/shadow\nA /made\n"
    assert shown(box.upper / "etc/shadow") == (0, 0o4711)

    run("cp", *place, "-q", "web:/etc", str(home / "etc"))
    assert (home / "etc/shadow").read_text() == "secret\n"
    st = (home / "etc/shadow").stat()
    assert (st.st_uid, stat.S_IMODE(st.st_mode)) == (os.getuid(), 0o4711)
    run("cp", *place, "-q", str(home / "etc/shadow"), "web:/etc/copied")
    assert shown(box.upper / "etc/copied") == (0, 0o4711)

    run("commit", *place, "-c", "CMD []", "web", "changed:1")
    look = "stat -c %u:%a /etc/shadow; cat /etc/copied; ls /bin/wc || cat /made"
    seen = run("run", *place, "--rm", "--hostname", "other", "changed:1", "sh", "-c", look).stdout
    assert seen == f"0:4711\nsecret\n{box.id[:12]}\n"
    tar = run("export", *place, "changed:1", "-o", str(home / "changed.tar"))
    assert (tar.stdout, tar.stderr) == ("", "")
    assert run("import", *place, str(home / "changed.tar"), "flat:1").stdout.startswith("sha256:")

    run("create", *place, "--name", "longer", "box", "sleep", "60")
    run("start", *place, "longer")
    longer = record.find(store, "longer")
    run("cp", *place, "-q", "longer:/etc/passwd", str(home / "passwd"))
    run("cp", *place, "-q", str(home / "passwd"), "longer:/etc/other")
    assert (longer.upper / "etc/other").read_bytes() == (home / "passwd").read_bytes()
    assert len(json.loads(run("ps", *place, "--json").stdout)) == 1
    run("rm", *place, "-f", "longer", "web")
    assert record.containers(store) == []
    assert os.listdir(store.containers) == []
    for runtime in filter(shutil.which, ("crun", "runc")):
        by_runtime(store, home, runtime)
    print("all done")


def by_runtime(store: Store, home: Path, runtime: str) -> None:
    """--runtime, and the commands that `bundle` prints."""
    place = ["--store", str(store.root)]
    script = "id -u; stat -c %u:%a /etc/shadow; grep NoNewPrivs /proc/self/status; exit 3"
    run("create", *place, "--name", "by", "--runtime", runtime, "box", "sh", "-c", script)
    out = "0\n0:600\nNoNewPrivs:\t1\n"
    assert run("start", *place, "-a", "by", status=3).stdout == out
    printed = run("bundle", *place, "by", str(home / runtime)).stdout
    if runtime != "crun":
        printed = printed.replace("crun ", f"{runtime} ").replace("--cgroup-manager disabled ", "")
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin/pyunionfs").write_text(f'#!/bin/sh\nexec {sys.executable} -m unionfs "$@"\n')
    (home / "bin/pyunionfs").chmod(0o755)
    path = f"{home}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", printed], capture_output=True, text=True, env=environment() | {"PATH": path}
    )
    assert (done.stdout, done.stderr) == (out, ""), done
    run("rm", *place, "by")


if __name__ == "__main__":
    if sys.argv[2:] == ["userns"]:
        unshare = ["unshare", "--map-root-user", "--map-auto", "--mount"]
        module = [sys.executable, "-B", "-m", "tests.container.user_containers", sys.argv[1]]
        os.execvp(unshare[0], [*unshare, *module])
    main(Path(sys.argv[1]))
