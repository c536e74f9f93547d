"""docs/containers.md is true: its configuration is what the tests of the engines use, its command runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.containers.engines import Engine
from tests.support import programs
from tests.support.mounts import REPOSITORY, needs_root
from tests.support.pages import ShellBlock
from tests.support.transports import one_transport
from tests.support.users import open_home

pytestmark = one_transport

TEXT = (REPOSITORY / "docs/containers.md").read_text()
INSTALLED = "/usr/local/bin/pyunionfs"


def block(name: str) -> str:
    [found] = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```\n<!-- end of {name} -->", TEXT, re.DOTALL)
    return str(found)


def test_storage_conf_is_the_one_of_the_tests(tmp_path: Path) -> None:
    Engine(tmp_path, INSTALLED)
    written = (tmp_path / "storage.conf").read_text().splitlines()
    assert [line for line in written if "root" not in line and line] == block("storage.conf").splitlines()


@needs_root
@pytest.mark.usefixtures("engines")
@pytest.mark.shell_block("docs/containers.md", "podman and buildah")
def test_the_command_for_podman(shell_block: ShellBlock) -> None:
    with open_home() as home:
        programs.write(home / "pyunionfs")
        engine = Engine(home, "")
        store = [f"--root={home}/store", f"--runroot={home}/run"]
        podman, *words = shlex.split(shell_block.script.replace(INSTALLED, f"{home}/pyunionfs"))
        unshare = ["unshare", "--mount", podman, *store, *words]
        shown = json.loads(engine.run(*unshare, "--format", "{{json .Store.GraphOptions}}"))
        assert shown["overlay.mount_program"]["Executable"] == f"{home}/pyunionfs"
        assert shown["overlay.mount_program"]["Version"].startswith("pyunionfs ")


@pytest.mark.shell_block("docs/containers.md", "Docker, containerd, apptainer")
def test_the_name_of_another(shell_block: ShellBlock, tmp_path: Path) -> None:
    programs.write(tmp_path / "pyunionfs")
    script = shell_block.script.replace("/usr/local/bin", str(tmp_path))
    subprocess.run(["sh", "-e", "-c", script], check=True)
    said = subprocess.check_output([tmp_path / "fuse-overlayfs", "--version"], text=True, timeout=30)
    assert said.startswith("pyunionfs ")


def test_the_form_is_the_one_of_the_help(tmp_path: Path) -> None:
    programs.write(tmp_path / "pyunionfs")
    form = re.search(r"```\n(pyunionfs .*)\n```", TEXT)
    assert form is not None
    said = subprocess.check_output([tmp_path / "pyunionfs", "-f", "--help"], text=True, timeout=30)
    assert form[1].partition("-o ")[0] in said


def test_the_readme_says_the_same() -> None:
    line = block("storage.conf").splitlines()[-1]
    assert f"[storage.options.overlay]\n{line}\n" in (REPOSITORY / "README.md").read_text()
