"""The commands of docs/images.md, docs/run.md and of the README's section on images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.container.boxes import make_tree
from tests.mount.rig import run
from tests.support.mounts import mount_types, needs_fuse, needs_root, scratch
from tests.support.pages import ShellBlock
from tests.support.registries import needs_registry, serving
from tests.support.transports import one_transport
from unionfs.container.record import containers
from unionfs.container.volumes import volumes
from unionfs.image.store import Store

pytestmark = [needs_root, needs_fuse, one_transport]

IMAGES, RUN = "docs/images.md", "docs/run.md"
DEBIAN = "debian:12"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for Debian: a root filesystem with a shell."""
    made = tmp_path_factory.mktemp("images") / "root"
    make_tree(made)
    (made / "etc/motd").write_text("welcome\n")
    return made


@pytest.fixture
def space(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory, and a store that has debian:12."""
    with scratch() as where:
        (where / "here").mkdir()
        monkeypatch.setenv("PYUNIONFS_STORE", str(where / "store"))
        monkeypatch.setenv("HOME", str(where))
        run("import", "-c", 'CMD ["sh"]', root, DEBIAN)
        yield where / "here"
        assert containers(Store(where / "store")) == []
        assert volumes(Store(where / "store")) == []
        assert mount_types(where / "here/tree") == []


def pull_to_push(block: ShellBlock, space: Path, commands: Path) -> None:
    """The image comes from and goes to a registry of this machine."""
    with serving(space.parent / "registry") as registry:
        debian = f"{registry.name}/library/{DEBIAN}"
        run("push", DEBIAN, debian)
        shutil.rmtree(space.parent / "store")
        script = block.script.replace(DEBIAN, debian).replace("localhost:5000", registry.name)
        said = replace(block, script=script).run(space, commands)
        assert "\nC /etc\nD /etc/group\nC /etc/motd\n" in said
        assert "say hello" in said
        hello = f"{registry.name}/hello:1"
        assert f"Untagged: {hello}\n" in said
        assert run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout == f"{debian}\n"
        run("pull", hello)
        assert run("run", "--rm", hello, "cat", "/etc/motd").stdout == "hello\n"
        assert run("run", "--rm", hello, "test", "-e", "/etc/group", status=None).returncode == 1


@needs_registry
@pytest.mark.shell_block(IMAGES, "From pull to push in ten lines")
def test_from_pull_to_push(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    pull_to_push(shell_block, space, tmp_path)
    assert len(shell_block.script.splitlines()) == 10


@needs_registry
@pytest.mark.shell_block("README.md", "Images and containers")
def test_from_pull_to_push_in_the_readme(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    pull_to_push(shell_block, space, tmp_path)
    assert len(shell_block.script.splitlines()) == 10


@pytest.mark.shell_block(IMAGES, "Mounting an image")
def test_an_image_is_mounted(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path, after="pyunionfs export trimmed:1 | tar t")
    assert said.startswith("root:x:0:0:")
    assert "patched\n" in said
    assert os.listdir(space / "upper/etc") == ["group"]
    committed = said.splitlines()
    assert {"etc/motd", "etc/issue"} < set(committed)
    assert "etc/group" not in committed


@pytest.mark.shell_block(IMAGES, "Archives and root filesystems")
def test_archives_and_root_filesystems(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path)
    assert f"Loaded image: {DEBIAN}\n" in said
    assert (space / "layout/index.json").exists()
    assert (space / "rootfs/etc/motd").read_text() == "welcome\n"
    assert run("run", "--rm", "flat:1", "cat", "/etc/motd").stdout == "welcome\n"


@pytest.mark.shell_block(RUN, "One command")
def test_one_command(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    (space / "seen").touch()
    said = shell_block.run(space, tmp_path)
    assert said.startswith("root:x:0:0:")
    assert said.endswith("LETTERS\nseen\n")


@pytest.mark.shell_block(RUN, "One that stays")
def test_one_that_stays(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path)
    assert "welcome\none more\n" in said
    assert "welcome\none more\none more\n" in said
    assert "C /etc\nC /etc/motd\n" in said
    assert "exited 0\n" in said
    assert (space / "motd").read_text() == "welcome\none more\none more\n"


@pytest.mark.shell_block(RUN, "Volumes")
def test_volumes(shell_block: ShellBlock, space: Path, tmp_path: Path) -> None:
    said = shell_block.run(space, tmp_path)
    assert "row\n" in said
    assert "\n1\n2\n" in said
    assert "/cache: /" in said
    assert "Deleted Volumes:\nstate\n" in said
    assert (space / "pages").read_text() == "page\npage\n"
