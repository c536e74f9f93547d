"""`inspect`: containers, images and mounts by one command, whole or by a template."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from testing.images import directory, file, image
from testing.images.archives import archive
from tests.support import mounts
from tests.support.stores import layers_in
from unionfs.cli import main
from unionfs.container import record
from unionfs.image.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners")

MADE = image(
    [[directory("etc"), file("etc/a")], [file("b")], [file("c")]],
    {"Env": ["A=1"], "Entrypoint": ["/bin/run"], "Cmd": ["x"], "Labels": {"kind": "a"}},
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Store:
    """With the image made:1, and a container `box` of it."""
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    (tmp_path / "archive.tar").write_bytes(archive({"made:1": MADE}, "oci"))
    (tmp_path / "volume").mkdir()
    words = ["--name", "box", "-e", "B=2", "-v", f"{tmp_path}/volume:/data:ro", "--tmpfs", "/run"]
    assert main(["load", str(tmp_path / "archive.tar")]) == 0
    assert main(["create", *words, "made:1", "other", "words"]) == 0
    capsys.readouterr()
    return Store()


def inspected(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["inspect", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_image_has_its_topmost_layer_as_upper(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = inspected(capsys, "made:1")
    bottom, middle, top = (layer.path for layer in layers_in(store, "made:1"))
    data = found["GraphDriver"]["Data"]
    assert data["UpperDir"] == str(top)
    assert data["LowerDir"] == f"{middle}:{bottom}"
    assert {"MergedDir", "WorkDir"} < data.keys()
    assert found["Id"] == MADE.id


def test_a_container(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = record.find(store, "box")
    (found,) = inspected(capsys, box.short)
    assert (found["Id"], found["Name"], found["Image"]) == (box.id, "/box", MADE.id)
    assert (found["Path"], found["Args"]) == ("/bin/run", ["other", "words"])
    assert found["State"] | {"Status": "created", "Running": False, "Pid": 0} == found["State"]
    config = found["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/run"], ["other", "words"])
    assert (config["Env"], config["Labels"], config["Image"]) == (["A=1", "B=2"], {"kind": "a"}, "made:1")
    data = found["GraphDriver"]["Data"]
    assert data["LowerDir"].split(":") == [
        f"{store.containers}/{box.id}/{box.id}-init/diff",
        *(str(layer.path) for layer in reversed(layers_in(store, "made:1"))),
    ]
    assert data["UpperDir"] == f"{store.containers}/{box.id}/diff"
    assert found["HostConfig"]["Binds"] == [f"{tmp_path}/volume:/data:ro"]
    assert [*found["HostConfig"]["Tmpfs"]] == ["/run"]
    assert {mount["Destination"]: mount["RW"] for mount in found["Mounts"]} == {"/data": False, "/run": True}
    assert Path(found["HostsPath"]).is_file()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["-f", "{{.Id}}", "made:1"], f"{MADE.id}\n"),
        (["-f", "{{.Name}}", "box"], "/box\n"),
        (["-f", "{{.Config.Labels.kind}}", "box", "made:1"], "a\na\n"),
        (["-f", "{{range .Config.Env}}{{println .}}{{end}}", "made:1"], "A=1\n\n"),
        (["-f", "{{json .Config.Cmd}}", "made:1"], '["x"]\n'),
        (["--type", "image", "-f", "{{index .RepoTags 0}}", "made:1"], "made:1\n"),
    ],
)
def test_by_a_template(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.usefixtures("store")
def test_what_is_not_found_keeps_no_other_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing", "made:1", "--format", "json"]) == 1
    seen = capsys.readouterr()
    assert seen.err == "pyunionfs: there is no container, image or mount nothing\n"
    assert [each["Id"] for each in json.loads(seen.out)] == [MADE.id]
    assert main(["inspect", "--type", "container", "made:1"]) == 1
    seen = capsys.readouterr()
    assert (json.loads(seen.out), seen.err) == ([], "pyunionfs: there is no container made:1\n")
    assert main(["inspect", "-f", "{{.Nope}}", "made:1"]) == 2
    assert "there is no field 'Nope'" in capsys.readouterr().err


@pytest.mark.one_transport
@pytest.mark.usefixtures("transport")
def test_a_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, upper, work, merged = mounts.make_directories(tmp_path, "one", "two", "upper", "work", "merged")
    with mounts.pyunionfs([one, two], upper, work, merged):
        (found,) = inspected(capsys, str(merged))
        assert found["GraphDriver"] == {
            "Data": {
                "LowerDir": f"{one}:{two}",
                "MergedDir": str(merged),
                "UpperDir": str(upper),
                "WorkDir": str(work),
            },
            "Name": "overlay2",
        }
        assert found["State"]["Running"] is True
    assert main(["inspect", str(merged)]) == 1
