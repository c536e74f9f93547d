"""The life of an image under one mount program, run by `start.py`: `tests.containers.life DIRECTORY PROGRAM`.

Prints what came of it as JSON; who compares that with another program's knows nothing of engines.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from tests.containers import tree
from tests.containers.engines import Engine, count_ids
from tests.support.mounts import mount_types

APPLETS = (
    "sh",
    "ls",
    "rm",
    "cat",
    "echo",
    "mkdir",
    "mv",
    "chmod",
    "chown",
    "touch",
    "ln",
    "head",
    "mkfifo",
    "grep",
)

CHOWN = "chown" if count_ids() > 1 else "true"
"""In a user namespace with a single id nobody else can own anything."""

MASKED = "force_mask" in "".join(sys.argv[3:4])
"""Whether real modes are all alike and the true ones are kept in attributes."""

MKFIFO = "true" if MASKED else "mkfifo"
"""The engine itself cannot unpack one there: it would set a user.* attribute of it."""

ISOLATION = "chroot" if os.geteuid() == 0 else "rootless"

CONTAINERFILE = """\
FROM localhost/base
RUN echo built > /data/built && rm /data/two && rm -r /gone && chmod 600 /data/one && {chown} 3:4 /data/kept
COPY file /data/copied
RUN mv /data/tree /data/moved && echo linked > /data/new && ln /data/new /data/link && chmod 4755 /data/link
"""

CHANGES = """\
set -e
echo changed >> /data/built
rm /data/copied
rm -r /data/moved/sub
mkdir "/data/new dir"
echo content > "/data/new dir/file"
ln -s /data/one /data/symlink
{mkfifo} /data/fifo
mv /data/kept /data/renamed
{chown} 7:8 /data/one
touch /data/.wh.one 2>/dev/null || echo refused
ls -a /data
grep ' / ' /proc/mounts
"""

SECOND_LOOK = """\
cat /data/built '/data/new dir/file'
ls -ln /data/link /data/renamed /others | cut -c1-30
ls -a /data /data/moved
"""

REMADE = """\
mkdir /data/.wh.dir 2>/dev/null || echo refused
ls /full /data/moved
rm -r /data/moved /full
mkdir /data/moved /full
echo only > /data/moved/this
"""


def make_root(root: Path) -> None:
    """A root filesystem of busybox."""
    for name in ("bin", "etc", "run", "proc", "sys", "dev", "tmp", "data/tree/sub", "gone", "full/of"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    for name in ("one", "two", "kept", "tree/leaf", "tree/sub/leaf"):
        (root / "data" / name).write_text(f"{name}\n")
    for name in ("gone/file", "full/of/files", "full/file"):
        (root / name).write_text(f"{name}\n")
    os.chmod(root / "data/two", 0o4755)


def make_base(engine: Engine) -> None:
    root = engine.root / "files/root"
    make_root(root)
    archive = engine.root / "files/root.tar"
    engine.run("tar", "--create", "--owner=0", "--group=0", "--file", archive, "--directory", root, ".")
    (engine.root / "files/others").write_text("others\n")
    others = ["--owner=3", "--group=4", "--mode=4755", "--directory", f"{engine.root}/files", "others"]
    engine.run("tar", "--append", "--file", archive, *others)
    engine.podman("import", archive, "localhost/base")


def build(engine: Engine) -> None:
    context = engine.root / "files/context"
    context.mkdir()
    (context / "file").write_text("copied\n")
    (context / "Containerfile").write_text(CONTAINERFILE.format(chown=CHOWN))
    engine.buildah(
        "bud", "--isolation", ISOLATION, "--runtime", "crun", "--layers", "--tag", "localhost/built", context
    )


def compared(engine: Engine) -> dict[str, object]:
    """What must be the same under every mount program."""
    run = engine.podman(
        "run", "--name", "one", "localhost/built", "sh", "-c", CHANGES.format(chown=CHOWN, mkfifo=MKFIFO)
    )
    *listing, mounted = run.splitlines()
    diff = sorted(engine.podman("diff", "one").splitlines())
    engine.podman("commit", "--quiet", "one", "localhost/result")
    again = engine.podman(
        *("run", "--rm", "localhost/result", "sh", "-c"),
        SECOND_LOOK,
    )
    archive = engine.root / "files/result.tar"
    engine.podman("save", "--quiet", "--output", archive, "localhost/result")
    return {
        "filesystem": mounted.split()[2],
        "listing": listing,
        "diff": diff,
        "again": again.splitlines(),
        "image": tree.of_image(archive),
    }


def container_restarts(engine: Engine) -> list[str]:
    """A container that is started again sees what it changed, and a directory that was remade stays empty."""
    engine.podman("create", "--name", "two", "localhost/built", "sh", "-c", REMADE)
    said = [engine.podman("start", "--attach", "two") for _ in range(2)]
    engine.podman("commit", "--quiet", "two", "localhost/remade")
    said.append(engine.podman("run", "--rm", "localhost/remade", "ls", "/full", "/data/moved"))
    return said


def upper_mounted_by_hand(engine: Engine, program: str, commands: str) -> list[object]:
    """The tree as the engine mounts a container, and as these commands mount that of NAME at /mnt."""
    merged = engine.root / "files/merged"
    merged.mkdir()
    python = f"{sys.executable} -m tests.containers.tree"
    options = "-o xattr_permissions=2" if MASKED else ""
    commands = commands.replace("NAME", "one").replace("/mnt", str(merged))
    commands = commands.replace("pyunionfs mount", f"{program} mount {options}")
    script = f"""
        set -e
        export PYTHONPATH={os.environ["PYTHONPATH"]}
        {python} "$(podman mount one)" > files/by-engine
        podman umount one > files/umount
        {commands}
        {python} {merged} > files/by-hand
        {program} umount {merged}
    """
    inside = [] if os.geteuid() == 0 else ["podman", "unshare"]
    engine.run(*inside, "sh", "-c", script)
    return [json.loads((engine.root / "files" / name).read_text()) for name in ("by-engine", "by-hand")]


def left_over(engine: Engine) -> dict[str, list[str]]:
    """Mounts of unions and processes that should be gone."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    inside = [] if os.geteuid() == 0 else ["podman", "unshare"]
    if inside:
        lines += engine.run(*inside, "cat", "/proc/self/mountinfo").splitlines()
    processes = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
            continue
        # A zombie has none: nobody in here waits for processes that outlive their parents.
        if "lowerdir=" in words:
            processes.append(words)
    mounts = [line for line in lines if " - fuse." in line and str(engine.root) in line]
    layers = [path.name for path in (engine.root / "store/overlay").iterdir() if len(path.name) == 64]
    return {"mounts": mounts, "processes": processes, "layers": layers}


def main(directory: Path, program: str, options: str = "", by_hand: str = "") -> None:
    engine = Engine(directory, program, options)
    outcome: dict[str, object] = {}
    try:
        make_base(engine)
        build(engine)
        outcome |= compared(engine)
        if "fuse-overlayfs" not in program:
            outcome["version"] = engine.podman("info", "--format", "{{json .Store.GraphOptions}}")
            outcome["restarts"] = container_restarts(engine)
            outcome["by hand"] = upper_mounted_by_hand(engine, program, by_hand)
        engine.clear_away()
        outcome["left"] = left_over(engine)
    finally:
        engine.remove()
        assert mount_types(directory / "files/merged") == []
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
