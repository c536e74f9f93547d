"""`create`, `ps` and `rm`, as Docker has them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import plant
from unionfs.cli import main, run_options
from unionfs.container import record
from unionfs.container.spec import Mount
from unionfs.container.state import Run, identity, now
from unionfs.errors import OptionError
from unionfs.image.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    made = Store()
    plant(made, "debian:12", [{"etc/passwd": b""}], Cmd=["bash"])
    plant(made, "web", [{"etc/passwd": b""}, {"srv/index": b""}], Cmd=["serve"])
    return made


Say = pytest.CaptureFixture[str]


@pytest.fixture
def running() -> Iterator[Run]:
    """The record of a start whose process lives as long as the test."""
    with subprocess.Popen(["sleep", "60"]) as process:
        born = identity(process.pid)
        assert born is not None
        yield Run(process.pid, born, now())
        process.kill()


def said(capsys: Say, *words: str, status: int = 0) -> str:
    assert main(words) == status
    out, err = capsys.readouterr()
    return out + err


def test_create_prints_the_id(store: Store, capsys: Say) -> None:
    words = ["create", "--rm", "--name", "web", "-it", "-e", "A=b c", "-w", "/srv", "-u", "1:2", "--runtime"]
    made = said(capsys, *words, "crun", "-v", "/tmp:/x:ro", "debian:12", "sh", "-c", "ls -l", "--help")
    (container,) = record.containers(store)
    assert made == container.id + "\n"
    process = container.record.process
    assert process.args == ("sh", "-c", "ls -l", "--help")
    assert (process.tty, process.interactive, process.env, process.cwd) == (True, True, ("A=b c",), "/srv")
    assert process.user == "1:2"
    assert process.mounts == (Mount("bind", "/x", "/tmp", True),)
    assert (container.name, container.record.runtime, container.record.auto_remove) == ("web", "crun", True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "a/b", "debian:12"], "not a name of a container"),
        (["--pull", "never", "debian:13"], "there is no image debian:13"),
        (["127.0.0.1:1/x"], "image 127.0.0.1:1/x is not in the store and cannot be pulled: "),
        (["-e", "=x", "debian:12"], "invalid environment variable '=x'"),
        (["-w", "srv", "debian:12"], "invalid value 'srv' of --workdir"),
        (["-v", "d:/x", "debian:12"], "d is no name of a volume"),
        (["-v", "a b:/x", "debian:12"], "for a directory write ./a b:/x"),
        (["-v", ":/x", "debian:12"], "write SRC:DST"),
        (["-v", "/x:ro", "debian:12"], "invalid target 'ro' of --volume"),
        (["-v", "/", "debian:12"], "invalid target '/' of --volume"),
        (["-v", "data:/x:ro,rw", "debian:12"], "invalid mode 'ro,rw'"),
        (["-v", "/tmp:/x:nocopy", "debian:12"], "invalid mode 'nocopy'"),
        (["-v", "data:/x", "-v", "/tmp:/x", "debian:12"], "duplicate mount point /x"),
        (["-v", "/x:/", "debian:12"], "invalid target '/'"),
        (["-v", "/x:y", "debian:12"], "invalid target 'y'"),
        (["-v", "/x:/y:shared", "debian:12"], "invalid mode 'shared'"),
        (["-v", "/x:/y", "--tmpfs", "/y/", "debian:12"], "duplicate mount point /y"),
        (["--env-file", "/nowhere", "debian:12"], "cannot read --env-file /nowhere"),
        (["--runtime", "kata", "debian:12"], "invalid choice: 'kata'"),
        ([], "required: IMAGE"),
    ],
)
def test_what_create_refuses(store: Store, capsys: Say, words: list[str], says: str) -> None:
    assert main(["create", *words]) in (1, 2)
    assert says in capsys.readouterr().err
    assert record.containers(store) == []


def test_variables_of_files_and_of_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "env"
    path.write_text("# comment\n\nA=1\n  B=x y\nHERE\nGONE\nC=\n")
    monkeypatch.setenv("HERE", "here")
    monkeypatch.delenv("GONE", raising=False)
    found = run_options.environment(["A=2", "HERE"], [str(path)])
    assert found == ["A=1", "B=x y", "HERE=here", "C=", "A=2", "HERE=here"]
    path.write_text("A B=1\n")
    with pytest.raises(OptionError, match="has no blank"):
        run_options.environment([], [str(path)])


def test_mounts_come_outer_first() -> None:
    found = run_options.mounts(["/a:/x/y", "./b:/x"], ["/x/y/z:size=1m,mode=700"])
    assert [each.target for each in found] == ["/x", "/x/y", "/x/y/z"]
    assert found[0].source == str(Path("b").absolute())
    assert found[2].options == ("size=1m", "mode=700")


def test_volumes_by_name_and_without() -> None:
    found = run_options.mounts(["data:/a:ro,nocopy", "/b", "/b/", "./c:/b"], [])
    assert found == [
        Mount("volume", "/a", "data", read_only=True, options=("nocopy",)),
        Mount("volume", "/b", anonymous=True),
        Mount("volume", "/b", anonymous=True),
        Mount("bind", "/b", str(Path("c").absolute())),
    ]


def test_ps(store: Store, capsys: Say, running: Run) -> None:
    for words in (
        ["--name", "one", "debian:12"],
        ["--name", "two", "debian:12", "a long command", "with words"],
    ):
        said(capsys, "create", *words)
    said(capsys, "create", "--name", "three", "web")
    one, two, three = record.containers(store)
    two.note(Run(1, "gone", now(), now(), 3))
    three.note(running)
    lines = said(capsys, "ps").splitlines()
    assert re.split(" {2,}", lines[0]) == [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]
    assert re.fullmatch(rf'{three.short}   web +"serve" +Less than a second ago +Up .* +three', lines[1])
    lines = said(capsys, "ps", "-a").splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["three", "two", "one"]
    assert re.search(r"\"'a long command' 'w…\" .* Exited \(3\) Less than a second ago", lines[1])
    assert " Created " in lines[2]
    assert said(capsys, "ps", "-aq") == f"{three.short}\n{two.short}\n{one.short}\n"
    assert said(capsys, "ps", "-q", "--no-trunc") == three.id + "\n"
    form = "{{.Names}} {{.State}} {{.Image}}"
    plant(store, "debian:12", [{"new": b""}], Cmd=["bash"])  # the name goes to another image
    short = one.record.image_id.partition(":")[2][:12]
    assert said(capsys, "ps", "-a", "--format", form).splitlines()[2] == f"one created {short}"
    document = json.loads(said(capsys, "ps", "--json"))
    assert [(each["Names"], each["State"], each["Pid"]) for each in document] == [
        (["three"], "running", running.pid)
    ]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["status=exited"], "two"),
        (["exited=3"], "two"),
        (["exited=0"], ""),
        (["status=exited", "status=created"], "two one"),
        (["status=created", "name=^o"], "one"),
        (["name=^o"], ""),
        (["ancestor=web", "status=running"], "three"),
        (["ancestor=debian:12", "status=running"], "three"),
        (["before=two", "status=created"], "one"),
        (["since=one"], "three"),
    ],
)
def test_filters(store: Store, capsys: Say, running: Run, filters: list[str], names: str) -> None:
    for name, image in (("one", "debian:12"), ("two", "debian:12"), ("three", "web")):
        said(capsys, "create", "--name", name, image)
    _, two, three = record.containers(store)
    two.note(Run(1, "gone", now(), now(), 3))
    three.note(running)
    words = [word for each in filters for word in ("--filter", each)]
    assert said(capsys, "ps", *words, "--format", "{{.Names}}").split() == names.split()
    for wrong in ("x=1", "name", "status=paused", "exited=x", "name=("):
        assert main(["ps", "--filter", wrong]) == 2
    assert main(["ps", "--filter", "before=nothing"]) == 1


def test_rm(store: Store, capsys: Say, running: Run) -> None:
    for name in ("one", "two", "three"):
        said(capsys, "create", "--name", name, "debian:12")
    three = record.find(store, "three")
    three.note(running)
    out = said(capsys, "rm", "one", "nothing", "three", status=1)
    assert out.startswith("one\n")
    assert "there is no container nothing" in out
    assert "cannot remove container three: it is running; end it, or use `rm -f`" in out
    out = said(capsys, "rm", "-f", "nothing", "three", "two")
    assert out.startswith("three\ntwo\n")
    assert "no container nothing" in out
    assert identity(running.pid) is None
    assert record.containers(store) == []


def test_diff(store: Store, capsys: Say) -> None:
    """The names of the init layer are not shown, nor that its directories are there."""
    said(capsys, "create", "--name", "one", "web")
    one = record.find(store, "one")
    assert said(capsys, "diff", "one") == ""
    (one.upper / "etc").mkdir()
    (one.upper / "etc/new").write_text("new")
    (one.upper / "srv").mkdir()
    os.mknod(one.upper / "srv/index", stat.S_IFCHR, 0)
    assert said(capsys, "diff", one.short) == "C /etc\nA /etc/new\nC /srv\nD /srv/index\n"
    (one.upper / "etc/hosts").write_text("mine")
    changes = json.loads(said(capsys, "diff", "--json", "one"))["changes"]
    assert [(each["kind"], each["path"]) for each in changes][:3] == [
        ("C", "/etc"),
        ("C", "/etc/hosts"),
        ("A", "/etc/new"),
    ]
    assert "there is no container two" in said(capsys, "diff", "two", status=1)
