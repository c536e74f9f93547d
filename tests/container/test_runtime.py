"""Containers that crun and runc start: by `--runtime`, and from the bundle that is written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.container.boxes import eventually, make_tree
from tests.support.images import plant
from tests.support.mounts import command, environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.container import record
from unionfs.container.bundle import Ids, document
from unionfs.container.end import kill
from unionfs.container.process import Wishes
from unionfs.container.record import Container
from unionfs.container.spec import Mount, ProcessSpec
from unionfs.image.lowers import is_mounted
from unionfs.image.store import Store
from unionfs.linux.user_namespace import IdMaps

WITH_CGROUPS = """
[ "$(stat -fc %t /sys/fs/cgroup)" = 63677270 ] || mount -t cgroup2 none /sys/fs/cgroup
exec "$@"
"""
"""crun refuses machines that have cgroups of both versions."""

engine = [needs_root, needs_fuse, one_transport]


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    return name


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    made = Store()
    plant(
        made, "box", [make_tree, {"etc/motd": b"image's\n"}], Cmd=["sh", "-c", "id -u; hostname"], User="ann"
    )
    yield made
    assert not any(is_mounted(tree / "diff") for tree in made.trees.iterdir())


def run(*words: str, status: int = 0, given: str = "", pass_fds: Sequence[int] = ()) -> str:
    """What a command prints where runtimes work."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITH_CGROUPS, "sh", *words],
        input=given,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        pass_fds=pass_fds,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def create(store: Store, runtime: str, *args: str, **wishes: object) -> Container:
    wanted = Wishes(command=args, user="0", **wishes)  # type: ignore[arg-type]
    return record.create(store, "box", wanted, name="web", runtime=runtime)


SCRIPT = """
cat /etc/motd; cat; hostname; grep ' / ' /proc/mounts | cut -d' ' -f3; echo mine > /etc/motd
echo changed > /etc/hostname; grep NoNewPrivs /proc/self/status; cat /proc/1/comm; touch /given/new; exit 7
"""


@pytest.mark.usefixtures("transport")
class TestStarted:
    pytestmark = engine

    def test_its_process(self, store: Store, runtime: str, tmp_path: Path) -> None:
        volume = Mount("bind", "/given", str(tmp_path / "made"))
        box = create(store, runtime, "sh", "-c", SCRIPT, interactive=True, mounts=[volume])
        out = run(*command("start", "-ai", "web"), status=7, given="given\n")
        assert out == f"image's\ngiven\n{box.short}\nfuse.pyunionfs\nNoNewPrivs:\t1\nsh\n"
        assert (tmp_path / "made/new").exists()
        assert (box.state().status, box.state().exit_code) == ("exited", 7)
        assert (box.upper / "etc/motd").read_text() == "mine\n"
        assert sorted(os.listdir(box.upper / "etc")) == ["motd"]
        assert not (box.path / "bundle").exists()

    def test_run_by_it(self, store: Store, runtime: str) -> None:
        words = command("run", "--rm", "--runtime", runtime, "-u", "0", "-w", "/new/dir", "box", "pwd")
        assert run(*words) == "/new/dir\n"
        assert record.containers(store) == []

    def test_only_standard_descriptors(self, store: Store, runtime: str, tmp_path: Path) -> None:
        directory = os.open(tmp_path, os.O_RDONLY)
        try:
            words = command("run", "--rm", "--runtime", runtime, "box", "ls", "/proc/self/fd")
            # The listing has one of its own.
            assert run(*words, pass_fds=[directory]).split() == ["0", "1", "2", "3"]
        finally:
            os.close(directory)

    def test_volumes(self, store: Store, runtime: str, tmp_path: Path) -> None:
        mounts = [Mount("volume", "/etc/mine", "named"), Mount("volume", "/new", anonymous=True)]
        script = "cat /etc/mine/file; echo new >/new/file; touch /etc/mine/$0"
        box = create(store, runtime, "sh", "-c", script, "run", mounts=mounts)
        data = [store.volumes / mount.source / "_data" for mount in box.record.process.mounts]
        (new, named) = data
        (named / "file").write_text("kept\n")
        assert run(*command("start", "-a", "web")) == "kept\n"
        assert (new / "file").read_text() == "new\n"
        printed = run(*command("bundle", "web", str(tmp_path / "bundle")))
        config = json.loads((tmp_path / "bundle/config.json").read_text())
        assert [each["source"] for each in config["mounts"][-2:]] == [str(new), str(named)]
        (named / "run").unlink()
        lines = printed.replace("crun ", f"{runtime} ").splitlines()
        assert (
            run("sh", "-c", f'pyunionfs() {{ {" ".join(command())} "$@"; }}\n' + "\n".join(lines)) == "kept\n"
        )
        assert (named / "run").exists()
        run(*command("rm", "-v", "web"))
        assert os.listdir(store.volumes) == ["named"]

    def test_a_program_that_cannot_be_started(self, store: Store, runtime: str) -> None:
        box = create(store, runtime, "/nothing")
        assert "/nothing" in run(*command("start", "-a", "web"), status=127)
        assert (box.state().status, box.state().exit_code) == ("created", 127)

    def test_signals_and_the_end_from_outside(self, store: Store, runtime: str) -> None:
        script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
        box = create(store, runtime, "sh", "-c", script)
        words = ["unshare", "--mount", "sh", "-c", WITH_CGROUPS, "sh", *command("start", "-a", "web")]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as start:
            try:
                assert start.stdout is not None
                assert start.stdout.readline() == "ready\n"
                eventually(lambda: box.state().running)
                start.send_signal(signal.SIGTERM)
                assert start.stdout.read() == "got\n"
            finally:
                kill(box)
        assert start.returncode == 5
        run(*command("start", "web"))
        assert box.state().running
        run(*command("rm", "-f", "web"))
        assert record.containers(store) == []
        eventually(lambda: not any(is_mounted(tree / "diff") for tree in store.trees.iterdir()))

    @pytest.mark.parametrize("what", ["container", "image"])
    def test_a_bundle_and_the_commands_that_are_printed(
        self, store: Store, runtime: str, tmp_path: Path, what: str
    ) -> None:
        place = tmp_path / "bundle"
        box = create(store, "", "sh", "-c", "cat /etc/motd; echo mine >/etc/motd; exit 3")
        name = "web" if what == "container" else "box"
        printed = run(*command("bundle", name, str(place)))
        assert sorted(os.listdir(place / "rootfs")) == []
        lines = printed.replace("crun ", f"{runtime} ").splitlines()
        assert [line.split()[0] for line in lines] == ["pyunionfs", runtime, "pyunionfs"]
        script = "\n".join(
            [f'pyunionfs() {{ {" ".join(command())} "$@"; }}', *lines[:2], "echo status $?", lines[2]]
        )
        out = run("sh", "-c", script)
        if what == "image":
            assert out == "1000\nbundle\nstatus 0\n"
            return
        assert out == "image's\nstatus 3\n"
        assert (box.upper / "etc/motd").read_text() == "mine\n"
        record.remove(box)


def test_the_document() -> None:
    mounts = (Mount("bind", "/x", "/a", True), Mount("tmpfs", "/y", options=("size=1m",)))
    process = ProcessSpec(("sh",), ("A=1",), "/srv", "ann", "h", True, mounts=mounts, read_only=True)
    made = document(process, Ids(1, 2, (3,), "/h"), "root", {"/etc/hosts": "/s/hosts"}, None, "/c")
    assert made["ociVersion"] == "1.0.2"
    assert made["process"]["user"] == {"uid": 1, "gid": 2, "additionalGids": [3]}
    assert made["process"]["env"][-2:] == ["A=1", "HOME=/h"]
    assert made["root"] == {"path": "root", "readonly": True}
    assert made["mounts"][-3:] == [
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": "/s/hosts",
            "options": ["rbind", "rprivate"],
        },
        {"destination": "/x", "type": "bind", "source": "/a", "options": ["rbind", "rprivate", "ro"]},
        {
            "destination": "/y",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "size=1m"],
        },
    ]
    linux = made["linux"]
    assert [each["type"] for each in linux["namespaces"]] == ["mount", "uts", "ipc", "pid"]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["cgroupsPath"] == "/c"
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert "CAP_MKNOD" in made["process"]["capabilities"]["bounding"]
    assert "CAP_SYS_ADMIN" not in json.dumps(made)


def test_without_a_cgroup_that_decides_about_devices_none_can_be_made() -> None:
    process = ProcessSpec(("sh",))
    one = IdMaps(((0, 1000, 1),), ((0, 1000, 1),))
    by_root = document(process, Ids(), "root", {}, None, "/c", limits_devices=False)
    by_user = document(process, Ids(), "root", {}, one, "/c")
    for made in (by_root, by_user):
        assert "resources" not in made["linux"]
        assert "CAP_MKNOD" not in json.dumps(made["process"])
    options = {each["destination"]: each["options"] for each in by_user["mounts"]}
    assert "gid=5" not in options["/dev/pts"]
    assert options["/sys"][0] == "rbind"
