"""docs/python.md is true: its examples run as they stand, and its tables name what there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.api.installed import Installed
from tests.api.rig import run
from tests.support.images import plant
from tests.support.mounts import REPOSITORY, mount_types, needs_fuse, needs_root, scratch
from tests.support.transports import one_transport
from unionfs.image.store import Store
from unionfs.options.table import OPTIONS

pytestmark = [needs_root, needs_fuse, one_transport]

TEXT = (REPOSITORY / "docs/python.md").read_text()
BLOCKS: list[str] = re.findall(r"^```(?:python|ini)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
FILES = {block.partition("\n")[0][2:]: block for block in BLOCKS if block.startswith("# ")}
PROGRAMS = [block for block in BLOCKS if not block.startswith("# ")]
README = (REPOSITORY / "README.md").read_text()
PROGRAMS += re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs(number: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scratch(tmp_path) as where:
        monkeypatch.setenv("PYUNIONFS_STORE", str(where / "store"))
        plant(Store(), "debian:12", [{"etc/motd": b"Debian\n"}])
        for name in ("site/etc", "base/etc", "upper", "work", "merged"):
            (where / name).mkdir(parents=True)
        (where / "base/etc/motd").write_text("welcome\n")
        (where / "base/etc/hosts").write_text("127.0.0.1 localhost\n")
        said = run("import os, sys; os.chdir(sys.argv[1])\n" + PROGRAMS[number], where)
        assert mount_types(where / "merged") == []
        assert os.listdir(where / "merged") == []
        for line in re.findall(r"print\(error\) +# (.+)", PROGRAMS[number]):
            assert re.fullmatch(re.escape(line).replace(r"\.\.\.", ".*") + "\n", said)


def test_all_programs_are_found() -> None:
    assert len(PROGRAMS) == 7
    assert len(FILES) == 4


def test_the_tests_with_pytest(installed: Installed, place: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("tree/config", "holiday", "prepared"):
        (project / name).mkdir(parents=True)
    (project / "tree/stock.csv").write_text("apple,3\n")
    (project / "holiday/closed").touch()
    for name, text in FILES.items():
        (project / name).write_text(text)
    done = installed.pytest(["-W", "error", "--strict-markers"], project)
    assert " 7 passed in " in done.stdout
    assert (project / "tree/stock.csv").read_text() == "apple,3\n"


def test_the_table_of_options_names_options() -> None:
    table = TEXT.partition("## Options")[2].partition("## Other mounts")[0]
    first = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    names = re.findall(r"`(\w+\+?)", " ".join(first))
    assert len(names) > 10
    assert set(names) <= set(OPTIONS)


def test_the_table_of_settings(installed: Installed, tmp_path: Path) -> None:
    rows = re.findall(r"^\| (fixture )?`(union_\w+)` \|", TEXT, re.MULTILINE)
    shown = installed.pytest(["--help"], tmp_path).stdout
    assert sorted(name for kind, name in rows if not kind) == sorted(
        re.findall(r"^  (union_\w+)", shown, re.M)
    )
    fixtures = installed.pytest(["--fixtures", "-p", "no:hypothesispytest"], tmp_path, status=None).stdout
    assert {name for kind, name in rows if kind} <= set(re.findall(r"^(union\w*)", fixtures, re.M))
