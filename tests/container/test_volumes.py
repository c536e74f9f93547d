"""What is mounted in a container beside its root: directories and files of the host, tmpfs, files of /etc."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.container.boxes import Box, Shop, make_tree
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = needs_root


@pytest.fixture
def box(tmp_path: Path) -> Box:
    tree = tmp_path / "tree"
    make_tree(tree)
    return Box(tree)


def bind(source: Path, target: str, *, read_only: bool = False) -> dict[str, object]:
    return {"kind": "bind", "source": str(source), "target": target, "read_only": read_only}


def test_a_directory_and_a_file_of_the_host(box: Box, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("old\n")
    mounts = [bind(tmp_path / "data", "/new/place"), bind(tmp_path / "file", "/etc/conf/file")]
    box.shell("echo made >/new/place/made; cat /etc/conf/file; echo new >/etc/conf/file", mounts=mounts)
    assert (tmp_path / "data/made").read_text() == "made\n"
    assert (tmp_path / "file").read_text() == "new\n"


def test_read_only_means_all_of_it(box: Box, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = "touch /data/x 2>/dev/null || echo refused; mount | grep -c ' /data .*(ro,'"
    mounts = [bind(tmp_path / "data", "/data", read_only=True)]
    assert box.run("sh", "-c", script, mounts=mounts) == "refused\n1\n"
    assert list((tmp_path / "data").iterdir()) == []


def test_a_read_only_root_with_places_to_write(box: Box, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mounts = [bind(tmp_path / "data", "/data"), {"kind": "tmpfs", "target": "/run"}]
    script = """
        for each in / /etc /data /run /dev/shm /proc/self /sys; do
            touch $each/x 2>/dev/null && echo $each
        done
        ls /proc/self >/dev/null
    """
    assert box.run("sh", "-c", script, mounts=mounts, read_only=True).split() == ["/data", "/run", "/dev/shm"]


TMPFS = {
    (): ("rw,nosuid,nodev,noexec", "1777 0"),
    ("ro",): ("ro,nosuid,nodev,noexec", "1777 0"),
    ("exec", "suid", "size=64k", "mode=700", "uid=1000"): ("rw,nodev", "700 1000"),
}


@pytest.mark.parametrize("options", TMPFS)
def test_a_tmpfs(options: tuple[str, ...], box: Box) -> None:
    script = "mount | grep ' /scratch '; stat -c '%a %u' /scratch"
    shown, mode = box.shell(
        script, mounts=[{"kind": "tmpfs", "target": "/scratch", "options": options}]
    ).splitlines()
    flags, root = TMPFS[options]
    assert shown.partition("(")[2].startswith(flags)
    assert ("size=64k" in shown) == ("size=64k" in options)
    assert mode == root


FAILURES: dict[str, tuple[dict[str, object], str]] = {
    "no source": (bind(Path("/nosuch"), "/data"), "/nosuch: No such file or directory"),
    "a file in the way": (bind(Path("/etc"), "/etc/passwd/x"), "/etc/passwd"),
    "a directory on a file": (bind(Path("/etc"), "/etc/passwd"), "/etc/passwd: in the container it is no"),
    "a file on a directory": (bind(Path("/etc/passwd"), "/etc"), "/etc: in the container it is a"),
    "an unknown option": ({"kind": "tmpfs", "target": "/x", "options": ("nosuch=1",)}, "nosuch"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_names_the_step_and_the_path(what: str, box: Box) -> None:
    mount, message = FAILURES[what]
    said = box.run("true", mounts=[mount], status=125)
    assert said.startswith(("cannot take up what is mounted in", "cannot make the root of"))
    assert message in said


@needs_fuse
@one_transport
def test_files_of_the_init_layer_are_in_no_layer_of_the_image(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "store")
    script = """
        grep -c web /etc/hosts; cat /etc/hostname
        echo 1.2.3.4 other >>/etc/hosts && tail -n 1 /etc/hosts
        mv /etc/hosts /etc/moved 2>/dev/null || echo busy
    """
    seen = shop.do("run", "--name", "one", "--hostname", "web", "box", "sh", "-c", script)
    assert seen == "1\nweb\n1.2.3.4 other\nbusy\n"
    assert shop.do("diff", "one") == ""
