"""`commit` of containers: what a tutorial does, and containers that run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.container.boxes import Shop
from tests.support.mounts import needs_fuse, needs_root
from tests.support.transports import one_transport
from unionfs.image import blobs, find
from unionfs.image.layers import layers_of

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop") / "store", Env=["KIND=box"])


def new_layer(shop: Shop, name: str) -> dict[str, tarfile.TarInfo]:
    """The entries of the topmost layer's tar."""
    manifest = find.manifest_of(shop.store, find.resolve(shop.store, name).manifest)
    content = blobs.path_of(shop.store, manifest.layers[-1].id).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: member for member in tar}


def inspect(shop: Shop, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shop.do("inspect", "--type", "image", name))[0]
    return found


def test_what_every_tutorial_does(shop: Shop) -> None:
    script = "echo new >> /etc/passwd; rm /bin/busybox; cp -a /etc /copied; ls /etc/hosts"
    shop.do("run", "--name", "lesson", "box", "/bin/busybox", "sh", "-c", script)
    identifier = shop.do(
        "commit", "-m", "first change", "-a", "Ann <ann@example.org>", "lesson", "lesson:1"
    ).strip()

    assert shop.do("images", "--format", "{{.Repository}}:{{.Tag}}").split() == ["lesson:1", "box:latest"]
    shown = shop.do("history", "--format", "{{.CreatedBy}}|{{.Comment}}|{{.ID}}", "lesson:1").splitlines()
    assert shown[0] == f"/bin/busybox sh -c echo new >> /etc/passwd; …|first change|{identifier[7:19]}"
    found, base = inspect(shop, "lesson:1"), inspect(shop, "box")
    assert (found["Id"], found["Comment"], found["Author"]) == (
        identifier,
        "first change",
        "Ann <ann@example.org>",
    )
    assert found["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert found["Config"]["Cmd"] == ["/bin/busybox", "sh", "-c", script]
    assert found["Config"]["Env"] == ["KIND=box"]
    assert found["Config"]["Hostname"] == ""

    layer = new_layer(shop, "lesson:1")
    assert {name for name in layer if not name.startswith("copied/")} == {
        "bin", "bin/.wh.busybox", "copied", "etc", "etc/passwd"
    }  # fmt: skip
    # What was deleted is still in the image below; of the init layer there is nothing.
    config = find.config_of(
        shop.store, find.manifest_of(shop.store, find.resolve(shop.store, "lesson:1").manifest)
    )
    assert (layers_of(shop.store, config)[0].path / "bin/busybox").stat().st_size > 100_000
    assert not {"dev", "proc", "sys", ".dockerenv", "etc/hosts", "etc/resolv.conf"} & set(layer)
    # It was copied from where the union shows it.
    assert "copied/hosts" in layer
    shop.do("rm", "lesson")
    shop.do("rmi", "lesson:1")


def test_a_committed_image_runs(shop: Shop) -> None:
    shop.do(
        "run",
        "--name",
        "maker",
        "-w",
        "/srv",
        "-e",
        "A=1",
        "box",
        "sh",
        "-c",
        "echo hello > said; rm /etc/group",
    )
    shop.do("commit", "-c", 'CMD ["cat", "said"]', "-c", "ENV B=$A$KIND", "maker", "made:1")
    assert shop.do("run", "--rm", "made:1") == "hello\n"
    assert (
        shop.do("run", "--rm", "made:1", "sh", "-c", "pwd; echo $B; ls /etc")
        == "/srv\n1box\nhostname\nhosts\nmtab\npasswd\nresolv.conf\n"
    )
    assert shop.do("run", "--name", "next", "made:1", "sh", "-c", "echo more >> said") == ""
    shop.do("commit", "next", "made:2")
    assert shop.do("run", "--rm", "made:2", "cat", "said") == "hello\nmore\n"
    assert len(inspect(shop, "made:2")["RootFS"]["Layers"]) == 3
    shop.do("rm", "maker", "next")
    shop.do("rmi", "made:2", "made:1")


def test_one_that_was_never_started_makes_no_layer(shop: Shop) -> None:
    shop.do("create", "--name", "idle", "box", "other", "command")
    shop.do("commit", "idle", "idle:1")
    found, base = inspect(shop, "idle:1"), inspect(shop, "box")
    assert found["RootFS"] == base["RootFS"]
    assert found["Config"]["Cmd"] == ["other", "command"]
    assert (
        shop.do("history", "-H=false", "--format", "{{.Size}} {{.CreatedBy}}", "idle:1").splitlines()[0]
        == "0 other command"
    )
    shop.do("rm", "idle")
    shop.do("rmi", "idle:1")


def test_one_that_runs_is_committed_as_it_is(shop: Shop) -> None:
    shop.do("run", "-d", "--name", "job", "box", "sh", "-c", "while echo line; do sleep 0.01; done > /log")
    logs = "while ! test -s /log; do sleep 0.01; done"
    try:
        shop.do("exec", "job", "sh", "-c", f"{logs}; echo done > /state; mkdir /d; mv /etc/passwd /d")
        shop.do("commit", "job", "job:1")
        assert shop.do("exec", "job", "cat", "/state") == "done\n"
    finally:
        shop.do("rm", "-f", "job")
    seen = shop.do(
        "run", "--rm", "job:1", "sh", "-c", "cat /state; ls /d; ls /etc/passwd; tail -n 1 /log", status=0
    )
    assert seen.splitlines()[:2] == ["done", "passwd"]
    shop.do("rmi", "job:1")


def test_the_image_may_be_gone(shop: Shop, tmp_path: Path) -> None:
    """A container keeps what it needs of its image, whose name may have gone to another."""
    shop.do("tag", "box", "old:1")
    shop.do("run", "--name", "keeper", "old:1", "sh", "-c", "echo > /made")
    shop.do("rmi", "old:1")
    shop.do("commit", "keeper", "kept:1")
    assert "made" in new_layer(shop, "kept:1")
    shop.do("rm", "keeper")
    shop.do("rmi", "kept:1")


def test_what_is_refused(shop: Shop) -> None:
    assert "there is no container and no directory nobody" in shop.do("commit", "nobody", "x:1", status=1)
    assert "is no instruction that can change" in shop.do("commit", "-c", "RUN x", "/tmp", "x:1", status=2)
    assert "a name with a digest" in shop.do("commit", "/tmp", "x@sha256:" + "0" * 64, status=2)
    shop.do("create", "--name", "some", "box", "true")
    assert "option --base conflicts" in shop.do("commit", "--base", "box", "some", "x:1", status=2)
    shop.do("rm", "some")
