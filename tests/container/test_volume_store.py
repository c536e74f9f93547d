"""Volumes, of images and by `-v`: made, filled, kept and removed as Docker does it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container.boxes import Shop, make_tree
from tests.support.images import plant
from tests.support.mounts import mount_types, needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.cli import main
from unionfs.container import life, record, volumes
from unionfs.container.process import Wishes
from unionfs.container.spec import Mount
from unionfs.errors import ContainerError

pytestmark = [needs_root, needs_fuse, one_transport]

PATHS = ("/data", "/link/sub", "none/here/")
"""The image's volumes: one with content, one by way of a symlink, one that is not there, as VOLUME has it."""
TARGETS = ("/data", "/link/sub", "/none/here")


def make_data(tree: Path) -> None:
    (tree / "data").mkdir()
    (tree / "data/file").write_text("image's\n")
    os.chown(tree / "data/file", 12, 34)
    (tree / "data/file").chmod(0o4640)
    os.setxattr(tree / "data/file", "user.mark", b"value")
    os.utime(tree / "data/file", ns=(10**18, 10**18 + 5))
    os.link(tree / "data/file", tree / "data/hard")
    os.chown(tree / "data", 1000, 1001)
    (tree / "data").chmod(0o1770)
    (tree / "srv/sub").mkdir(parents=True)
    (tree / "srv/sub/deep").write_text("deep\n")
    (tree / "link").symlink_to("/srv")


class Near(Shop):
    """Its commands run in forked processes, without the start of an interpreter."""

    def do(self, command: str, *words: str, status: int = 0, given: str = "") -> str:
        files = [tempfile.TemporaryFile() for _ in range(3)]
        files[0].write(given.encode())
        files[0].seek(0)
        child = os.fork()
        if child == 0:
            for number, file in enumerate(files):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
            found = 99
            try:
                found = main([command, "--store", str(self.store.root), *words])
                sys.stderr.flush()
            finally:
                os._exit(found)
        _, code = os.waitpid(child, 0)
        texts = []
        for file in files:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        assert os.waitstatus_to_exitcode(code) == status, texts
        return texts[1] if status == 0 else texts[1] + texts[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """With the images `box`, without volumes, and `vol`; no test leaves anything else."""
    root = tmp_path_factory.mktemp("shop")
    made = Near(root / "store")
    plant(made.store, "vol", [make_tree, make_data], Cmd=["sh"], Volumes={path: {} for path in PATHS})
    yield made
    assert "fuse.pyunionfs" not in mount_types(root)


@pytest.fixture(autouse=True)
def nothing_is_left(shop: Shop) -> Iterator[None]:
    yield
    for container in record.containers(shop.store):
        record.remove(container, with_volumes=True)
    for name in names(shop):
        assert volumes.remove(shop.store, name, set)
    assert os.listdir(shop.store.ingest) == []


def names(shop: Shop) -> list[str]:
    return [volume.name for volume in volumes.volumes(shop.store)]


def data(shop: Shop, name: str) -> Path:
    return shop.store.volumes / name / "_data"


def inspected(shop: Shop, name: str) -> Any:
    (found,) = json.loads(shop.do("inspect", name))
    return found


def create(shop: Shop, name: str, *mounts: Mount, image: str = "vol", **fields: Any) -> record.Container:
    return record.create(shop.store, image, Wishes(command=["sh"], mounts=mounts), name=name, **fields)


def volume(name: str, target: str = "/data", **fields: Any) -> Mount:
    return Mount("volume", target, name, **fields)


def test_volumes_of_an_image(shop: Shop) -> None:
    script = """
        cat /data/file /srv/sub/deep; ls /data | grep hard
        stat -c '%u %g %a %Y' /data/file; stat -c '%u %g %a' /data; stat -c '%u %a' /none/here
        echo mine >/data/new; echo mine >/none/here/new
    """
    seen = shop.do("run", "--name", "one", "vol", "sh", "-euc", script)
    assert seen == "image's\ndeep\nhard\n12 34 4640 1000000000\n1000 1001 1770\n0 755\n"
    mounts = inspected(shop, "one")["Mounts"]
    assert [each["Destination"] for each in mounts] == [*TARGETS]
    assert sorted(each["Name"] for each in mounts) == names(shop)
    place = Path(mounts[0]["Source"])
    assert place == data(shop, mounts[0]["Name"])
    assert (place / "file").samefile(place / "hard")
    assert os.getxattr(place / "file", "user.mark") == b"value"
    assert (place / "file").stat().st_mtime_ns == 10**18 + 5
    assert {key: mounts[0][key] for key in ("Type", "Driver", "Mode", "RW", "Propagation")} == {
        "Type": "volume",
        "Driver": "local",
        "Mode": "",
        "RW": True,
        "Propagation": "",
    }
    assert shop.do("diff", "one") == "A /none\nA /none/here\n"
    assert shop.do("start", "-a", "one") == seen  # with what is there, and not filled again
    assert (place / "new").read_text() == "mine\n"


def test_each_container_has_its_own_and_rm_removes_them_if_asked(shop: Shop) -> None:
    for name in ("one", "two"):
        shop.do("create", "--name", name, "vol")
    every = names(shop)
    assert len(every) == 6
    own = {each["Name"] for each in inspected(shop, "one")["Mounts"]}
    shop.do("rm", "-v", "one")
    assert {*names(shop)} == {*every} - own
    shop.do("rm", "two")
    assert {*names(shop)} == {*every} - own
    assert shop.do("run", "--rm", "vol", "cat", "/data/file") == "image's\n"
    assert shop.do("run", "--rm", "vol", "nosuch", status=127)
    assert {*names(shop)} == {*every} - own


def test_what_is_mounted_by_v_and_tmpfs_goes_before_the_image(shop: Shop, tmp_path: Path) -> None:
    words = ["-v", f"{tmp_path}:/data", "--tmpfs", "/link/sub", "-v", "named:/none/here", "-v", "/more"]
    shop.do("run", "--name", "one", *words, "vol", "sh", "-c", "echo >/data/x; echo >/none/here/y; >/more/z")
    found = inspected(shop, "one")
    (anonymous,) = {*names(shop)} - {"named"}
    assert os.listdir(tmp_path) == ["x"]
    assert os.listdir(data(shop, "named")) == ["y"]
    assert os.listdir(data(shop, anonymous)) == ["z"]
    assert sorted(found["HostConfig"]["Binds"]) == [f"{tmp_path}:/data", "named:/none/here"]
    assert sorted(found["Config"]["Volumes"]) == ["/data", "/link/sub", "/more", "none/here/"]
    assert [*found["HostConfig"]["Tmpfs"]] == ["/link/sub"]


def test_a_named_volume_is_filled_once_and_stays(shop: Shop) -> None:
    words = ["-v", "named:/data", "-v", "plain:/data:nocopy"]
    shop.do(
        "run", "--name", "one", "-v", "named:/data", "vol", "sh", "-c", "rm /data/hard; echo 2 >/data/file"
    )
    st = data(shop, "named").stat()
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (1000, 1001, 0o1770)
    script = "cat /data/file; ls /data; touch /data/x 2>/dev/null || echo refused"
    seen = shop.do("run", "--rm", "-v", "named:/data:ro", "vol", "sh", "-c", script)
    assert seen == "2\nfile\nrefused\n"
    shop.do("run", "--rm", *words[2:], "vol", "sh", "-c", "test -z $(ls /data)")
    shop.do("rm", "-fv", "one")
    assert names(shop) == ["named", "plain"]
    # One that was made before, and is empty: the first container whose image has something there fills it.
    shop.do("run", "--rm", "-v", "plain:/data", "box", "true")
    assert os.listdir(data(shop, "plain")) == []
    shop.do("run", "--rm", "-v", "plain:/data", "-v", "plain:/twice", "vol", "ls", "/twice")
    assert sorted(os.listdir(data(shop, "plain"))) == ["file", "hard"]
    assert data(shop, "plain").stat().st_uid == 1000


def test_filling_an_empty_volume_keeps_the_directory_that_a_container_has(shop: Shop) -> None:
    create(shop, "one", volume("named"), image="box")
    fd = os.open(data(shop, "named"), os.O_RDONLY)
    try:
        create(shop, "two", volume("named"))
        assert sorted(os.listdir(fd)) == ["file", "hard"]
        assert os.fstat(fd).st_uid == 1000
    finally:
        os.close(fd)
    assert sorted(os.listdir(shop.store.volumes / "named")) == ["_data", "volume.json"]


def test_what_another_container_has_stays(shop: Shop) -> None:
    """An anonymous volume by its name, in a second container."""
    one = create(shop, "one")
    (name,) = [mount.source for mount in one.record.process.mounts if mount.target == "/data"]
    create(shop, "two", volume(name, "/other"), image="box")
    record.remove(one, with_volumes=True)
    assert names(shop) == [name]
    shop.do("rm", "-v", "two")  # there it was named
    assert names(shop) == [name]
    assert shop.do("prune", "-f", "--volumes").startswith(f"Deleted Volumes:\n{name}\n\n")


def test_prune_removes_volumes_if_asked(shop: Shop) -> None:
    one, two = create(shop, "one", volume("lost")), create(shop, "two", volume("named"))
    record.remove(one)
    kept = {mount.source for mount in two.record.process.mounts}
    gone = {*names(shop)} - kept - {"lost"}
    assert len(gone) == 2
    shop.do("prune", "-f")
    assert {*names(shop)} == kept | gone | {"lost"}
    said = shop.do("prune", "--volumes", given="n\n", status=1)
    assert "Anonymous volumes that no container has go, too" in said
    said = shop.do("prune", "-f", "--volumes")
    assert {*names(shop)} == kept | {"lost"}
    assert [*said.splitlines()[:-2]] == ["Deleted Volumes:", *sorted(gone)]
    assert shop.do("prune", "-f", "--volumes=all") == "Deleted Volumes:\nlost\n\nTotal reclaimed space: 8B\n"
    assert {*names(shop)} == kept


def test_df_lists_volumes(shop: Shop) -> None:
    create(shop, "one", volume("named"))
    record.remove(create(shop, "two", volume("lost", "/none/here", options=("nocopy",)), volume("other")))
    volumes_of = {each.name: each for each in volumes.volumes(shop.store)}
    for name in sorted({*volumes_of} - {"named", "lost", "other"}):
        if name not in record.volumes_in_use(shop.store):
            volumes.remove(shop.store, name, set)
    row = shop.do("df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}")
    assert "Local Volumes|5|3|21B|8B (38%)\n" in row
    lines = [line.split() for line in shop.do("df", "-v").splitlines()]
    at = lines.index(["VOLUME", "NAME", "LINKS", "SIZE"])
    assert ["named", "1", "8B"] in lines[at:]
    assert ["lost", "0", "0B"] in lines[at:]
    (named,) = [each for each in json.loads(shop.do("df", "--json"))["Volumes"] if each["Name"] == "named"]
    assert named["UsageData"] == {"RefCount": 1, "Size": 8}
    assert named["Mountpoint"] == str(data(shop, "named"))


REFUSED: dict[str, tuple[str, tuple[Mount, ...], str]] = {
    "a file of the image": ("box", (volume("new", "/etc/passwd"),), "cannot mount a volume at /etc/passwd"),
    "below a file": ("box", (volume("new", "/etc/passwd/x"),), "cannot mount a volume at /etc/passwd/x"),
    "the second one": ("vol", (volume("new"), volume("bad", "/etc/group")), "a volume at /etc/group"),
    "its root": ("root", (), "the image has a volume at /"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_made_leaves_no_volume(shop: Shop, what: str) -> None:
    image, mounts, says = REFUSED[what]
    plant(shop.store, "root", [make_tree], Cmd=["sh"], Volumes={"/": {}})
    with pytest.raises(ContainerError, match=says):
        create(shop, "one", *mounts, image=image)
    assert (names(shop), shop.names(), os.listdir(shop.store.ingest)) == ([], [], [])


def test_a_name_that_is_taken_leaves_no_volume(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    create(shop, "one", image="box")
    monkeypatch.setattr("unionfs.container.record._refuse_taken", _once_free(record._refuse_taken))
    with pytest.raises(ContainerError, match="the name one is taken"):
        create(shop, "one", volume("new"))
    assert names(shop) == []


def _once_free(refuse: Callable[..., None]) -> Callable[..., None]:
    """As if the name were taken meanwhile."""
    calls: list[str] = []

    def refuse_later(store: Any, name: str) -> None:
        calls.append(name)
        if len(calls) > 1:
            refuse(store, name)

    return refuse_later


def test_a_volume_that_is_gone_is_named(shop: Shop) -> None:
    create(shop, "one", volume("named"), image="box")
    volumes.remove(shop.store, "named", set)
    said = shop.do("start", "-a", "one", status=1)
    assert "volume named, to be mounted at /data, is not in the store any more" in said


@pytest.mark.parametrize("source", ["named", "/proc/nothing/here"])
def test_a_container_that_is_removed_at_its_end_goes_if_a_source_is_missing(shop: Shop, source: str) -> None:
    shop.do("create", "--rm", "--name", "one", "-v", f"{source}:/x", "vol")
    volumes.remove(shop.store, os.path.basename(source), set)
    assert source in shop.do("start", "-a", "one", status=1)
    assert (names(shop), shop.names()) == ([], [])


def killed(shop: Shop, monkeypatch: pytest.MonkeyPatch, call: str, at: int, *mounts: Mount) -> None:
    """Make a container, in a process that ends at a call of one of os's functions."""
    child = os.fork()
    if child == 0:
        real, calls = getattr(os, call), []

        def ending(*args: Any, **words: Any) -> Any:
            if str(shop.store.root) in str(args[0]) and ("volume" in str(args[0]) or "fill" in str(args[0])):
                calls.append(args)
                if len(calls) == at:
                    os._exit(0)
            return real(*args, **words)

        setattr(os, call, ending)
        try:
            create(shop, "killed", *mounts)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, "it did not come so far"


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_volumes_appear(shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """What is there is whole, and goes by prune; nothing is in its way."""
    killed(shop, monkeypatch, "rename", at, volume("named"))
    for each in volumes.volumes(shop.store):
        assert sorted(os.listdir(each.data)) in (["file", "hard"], ["deep"], [])
        assert each.record.created
    assert len(names(shop)) == at - 1
    assert shop.names() == []
    create(shop, "next", volume("named"))
    assert sorted(os.listdir(data(shop, "named"))) == ["file", "hard"]
    shop.do("prune", "-f", "--volumes")
    assert len(names(shop)) == 3
    assert os.listdir(shop.store.ingest) == []


@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_while_a_volume_is_filled_in_place(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The rename of the whole is what counts: before it the volume is empty, after it all of it comes."""
    create(shop, "one", volume("named"), image="box")
    killed(
        shop,
        monkeypatch,
        "rename",
        at,
        volume("named"),
        *(Mount("tmpfs", target) for target in TARGETS[1:]),
    )
    assert len(os.listdir(data(shop, "named"))) == max(at - 2, 0)
    (data(shop, "named") / "own").touch() if at == 2 else None
    container = record.find(shop.store, "one")
    assert life.process_of(container).mounts == (Mount("bind", "/data", str(data(shop, "named"))),)
    expected = [] if at == 1 else ["file", "hard"] + (["own"] if at == 2 else [])
    assert sorted(os.listdir(data(shop, "named"))) == expected
    assert sorted(os.listdir(shop.store.volumes / "named")) == ["_data", "volume.json"]
    shop.store.sweep()


def test_cp_of_a_stopped_container_sees_what_is_mounted(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/mine").write_text("host's")
    (tmp_path / "new").write_text("new")
    words = ["-v", "named:/link/sub", "-v", f"{tmp_path}/host:/host:ro", "--read-only"]
    shop.do("create", "--name", "one", *words, "vol")
    (anonymous,) = [
        mount.source
        for mount in record.find(shop.store, "one").record.process.mounts
        if mount.target == "/data"
    ]
    shop.do("cp", "-q", str(tmp_path / "new"), "one:/data/")
    shop.do("cp", "-q", str(tmp_path / "new"), "one:/link/sub/newer")
    assert (data(shop, anonymous) / "new").read_text() == "new"
    assert (data(shop, "named") / "newer").read_text() == "new"
    assert shop.do("run", "--rm", "-v", "named:/x", "box", "cat", "/x/newer") == "new"
    shop.do("cp", "-q", "one:/data", str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["file", "hard", "new"]
    shop.do("cp", "-q", "one:/host/mine", str(tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "host's"
    said = shop.do("cp", str(tmp_path / "new"), "one:/host", status=1)
    assert "cannot copy into container one: what is mounted at /host is read-only" in said
    said = shop.do("cp", str(tmp_path / "new"), "one:/etc", status=1)
    assert "cannot copy into container one: its root is read-only" in said
    assert os.listdir(tmp_path / "host") == ["mine"]
    assert shop.do("diff", "one") == "A /host\nA /none\nA /none/here\n"


def test_a_commit_has_the_volumes_and_nothing_of_what_is_in_them(shop: Shop) -> None:
    shop.do(
        "run",
        "--name",
        "one",
        "-v",
        "/more",
        "-v",
        "named:/named",
        "vol",
        "sh",
        "-c",
        "echo >/data/new; >/more/x",
    )
    shop.do("commit", "one", "made:1")
    (found,) = json.loads(shop.do("inspect", "made:1"))
    assert sorted(found["Config"]["Volumes"]) == ["/data", "/link/sub", "/more", "none/here/"]
    script = "ls /data /more /named"
    seen = shop.do("run", "--rm", "made:1", "sh", "-c", script).split()
    assert seen == ["/data:", "file", "hard", "/more:", "/named:"]


def test_containers_that_are_made_at_once_share_a_volume(shop: Shop) -> None:
    create(shop, "first", volume("named"), image="box")
    failures: list[BaseException] = []

    def make(name: str) -> None:
        try:
            create(shop, name, volume("named"), volume("other", "/link/sub"))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=make, args=(f"box{number}",)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    assert sorted(os.listdir(data(shop, "named"))) == ["file", "hard"]
    assert os.listdir(data(shop, "other")) == ["deep"]
    assert len(names(shop)) == 2 + 4
