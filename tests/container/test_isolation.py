"""What keeps a container's process in: as root, on a plain directory, with the most that it can have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.container.boxes import TIMEOUT, Box, make_tree
from tests.support.mounts import REPOSITORY, environment, needs_root
from unionfs.container import capabilities, rootfs

pytestmark = needs_root

DEFAULT_CAPABILITIES = 0xA80425FB
"""What /proc/self/status shows in a container of Docker and podman."""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    tree = tmp_path_factory.mktemp("box") / "tree"
    make_tree(tree)
    (tree / "self").write_text("#!/proc/self/exe\n")
    (tree / "self").chmod(0o755)
    return Box(tree)


def test_namespaces(box: Box) -> None:
    names = ["ipc", "mnt", "pid", "uts", "net", "user"]
    links = " ".join(f"/proc/self/ns/{name}" for name in names)
    inside = box.shell(f"for each in {links}; do readlink $each; done").split()
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    same = [name for name, one, other in zip(names, inside, outside, strict=True) if one == other]
    # Network is the host's; root needs no user namespace.
    assert same == ["net", "user"]


def test_nothing_of_the_host_is_mounted(box: Box) -> None:
    lines = [line.split() for line in box.shell("cat /proc/self/mountinfo").splitlines()]
    places = {line[4]: line for line in lines}
    own = {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert set(places) - own - nodes <= {*rootfs.MASKED, *rootfs.READ_ONLY, "/sys/fs/cgroup"}
    assert len(places) == len(lines)
    assert places["/"][3].endswith(str(box.tree))
    # A mount that leads back to the host would be the parent of the root's.
    assert {line[1] for line in lines} & {line[0] for line in lines} == {
        line[0] for path, line in places.items() if path in ("/", "/proc", "/sys", "/dev")
    }


def test_the_old_root_cannot_be_reached(box: Box) -> None:
    seen = box.run(
        "sh",
        "-c",
        "ls -d ../../bin /proc/1/root/bin /proc/self/root/bin /proc/self/cwd/../../bin 2>/dev/null;"
        "stat -c %i / /.. /proc/self/root/../.. | sort -u | wc -l",
    )
    assert seen.split() == ["../../bin", "/proc/self/cwd/../../bin", "/proc/self/root/bin", "1"]


def test_only_standard_descriptors(box: Box) -> None:
    directory = os.open("/", os.O_RDONLY)
    os.set_inheritable(directory, True)
    try:
        done = subprocess.run(
            # The listing has the one by which it is read.
            box.words("sh", "-c", "ls /proc/self/fd | wc -l; ls -l /proc/self/fd/* | grep -c ' -> /$'"),
            pass_fds=[directory],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    finally:
        os.close(directory)
    assert done.stdout.split() == ["4", "0"]


def sets(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines())
    return {line[0].rstrip(":"): int(line[1], 16) for line in lines}


def test_capabilities_are_dockers_default(box: Box) -> None:
    assert capabilities.MASK == DEFAULT_CAPABILITIES
    ours = sets(Path("/proc/self/status").read_text().partition("CapInh")[2].partition("Seccomp")[0])
    had = ours["CapBnd"]
    script = "grep -e ^Cap -e ^NoNew /proc/self/status"
    expected = DEFAULT_CAPABILITIES & had
    assert sets(box.shell(script)) == {
        "CapInh": 0,
        "CapPrm": expected,
        "CapEff": expected,
        "CapBnd": expected,
        "CapAmb": 0,
        "NoNewPrivs": 1,
    }
    of_ann = sets(box.shell(script, user="ann"))
    assert (of_ann["CapPrm"], of_ann["CapEff"], of_ann["CapBnd"]) == (0, 0, expected)


def test_masked_and_read_only_paths(box: Box) -> None:
    paths = " ".join(rootfs.MASKED)
    script = f"""
        for each in {paths}; do
            if test -d $each; then test -z "$(ls $each)" || echo has $each
            elif test -e $each; then test -z "$(cat $each)" || echo shows $each
            fi
        done
        for each in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity; do
            if test -e $each; then echo x 2>/dev/null >$each && echo writes $each; fi
        done
        chmod 644 /sys/kernel/uevent_seqnum && echo changes sys
        ls /sys/fs/cgroup
        echo 5 >/proc/self/oom_score_adj && echo own
    """
    assert box.run("sh", "-c", script).split() == ["own"]


def test_devices(box: Box) -> None:
    seen = box.shell("ls /dev; stat -c '%F %a' /dev/null /dev/shm; readlink /dev/ptmx; readlink /dev/fd/0")
    assert seen.splitlines() == [
        *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
        *("character special file 666", "directory 1777", "pts/ptmx", "/dev/null"),
    ]


def test_a_device_node_that_the_container_makes_is_of_no_use(box: Box) -> None:
    """Docker has a cgroup for that; CAP_MKNOD stays, for what unpacks archives."""
    script = """
        for place in / /dev /dev/shm /tmpfs /volume; do
            mknod $place/node c 1 3 && echo made && echo >$place/node || echo $place
        done
    """
    volume = box.tree.parent / "volume"
    volume.mkdir()
    mounts = [
        {"kind": "tmpfs", "target": "/tmpfs"},
        {"kind": "bind", "target": "/volume", "source": str(volume)},
    ]
    seen = box.run("sh", "-c", script, mounts=mounts)
    assert seen.split() == [
        "made",
        "/",
        "made",
        "/dev",
        "made",
        "/dev/shm",
        "made",
        "/tmpfs",
        "made",
        "/volume",
    ]


def test_process_1_shows_nothing_of_the_host(box: Box) -> None:
    script = """
        cat /proc/1/cmdline /proc/1/comm
        for each in exe root cwd fd/0 map_files; do readlink /proc/1/$each && echo shows $each; done
        cat /proc/1/environ /proc/1/maps /proc/1/mem
    """
    with box.start("sh", "-c", script) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    assert out.replace("\0", "").split() == ["pyunionfs-initpyunionfs-init"]
    assert str(REPOSITORY) not in out + err


def test_the_interpreter_cannot_be_written_from_a_container(box: Box) -> None:
    """CVE-2019-5736: a script's `#!/proc/self/exe` is the program that execs it."""
    box.run("/self", status=127)  # the host's python, without its libraries
    with box.start("sh", "-c", "echo here; sleep 60", interactive=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            launcher = only_child(process.pid)
            first = only_child(launcher)
            for pid in (launcher, first):
                assert os.readlink(f"/proc/{pid}/exe") != f"{box.tree}/bin/busybox"
                assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
        finally:
            process.kill()


def only_child(pid: int) -> int:
    """The last child of a process that was forked."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])
