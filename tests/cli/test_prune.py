"""`prune` and `df`: what they print, as Docker's commands of these names."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from testing.images import directory, file, image
from tests.image.rig import add
from unionfs.cli import listing, main
from unionfs.container import record
from unionfs.container.process import Wishes
from unionfs.image import index
from unionfs.image.digest import Digest
from unionfs.image.layer_record import Layer
from unionfs.image.store import Store

BASE = [directory("base"), file("base/file", b"b" * 1000)]
KEPT = image([BASE, [file("kept", b"k" * 100)]], {"Cmd": ["true"]})
NAMELESS = image([BASE, [file("lost", b"l" * 10)]])
BUSY = image([[file("busy", b"b" * 5000)]], {"Cmd": ["sleep", "1"]})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    return Store()


@pytest.fixture
def layers(store: Store) -> list[Layer]:
    """Of a nameless image; beside kept:1, and busy:1, of which there is a container."""
    add(store, KEPT, "kept:1")
    add(store, BUSY, "busy:1")
    container = record.create(store, "busy:1", Wishes(), name="worker")
    (container.upper / "written").write_bytes(b"w" * 20)
    return add(store, NAMELESS)


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_what_was_removed_is_listed(capsys: pytest.CaptureFixture[str], layers: list[Layer]) -> None:
    freed = 10 + len(NAMELESS.blobs[1]) + len(NAMELESS.config) + len(NAMELESS.manifest)
    assert output(capsys, "prune", "-f") == (
        f"Deleted Images:\ndeleted: {NAMELESS.id}\ndeleted: {layers[1].chain}\n\n"
        f"Total reclaimed space: {listing.size(freed)}\n"
    )
    assert output(capsys, "prune", "--force") == "Total reclaimed space: 0B\n"


@pytest.mark.usefixtures("layers")
def test_all_but_those_of_containers(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    lines = output(capsys, "prune", "-af").splitlines()
    assert lines[:4] == [
        "Deleted Images:",
        "untagged: kept:1",
        f"deleted: {KEPT.id}",
        f"deleted: {NAMELESS.id}",
    ]
    assert len(lines) == 4 + 3 + 2
    assert [each.manifest.digest for each in index.images(store)] == [BUSY.digest]
    assert record.find(store, "worker").layers()


@pytest.mark.usefixtures("layers")
def test_blobs(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    lines = output(capsys, "prune", "-f", "--blobs").splitlines()
    at = lines.index("Freed Blobs:")
    blobs = [Digest(line.removeprefix("deleted: ")).hex for line in lines[at + 1 : -2]]
    assert len(blobs) == 3
    assert not {path.name for path in store.blobs.glob("*/*")} & set(blobs)


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize(("answer", "removes"), [("y\n", True), ("Y", True), ("n\n", False), ("", False)])
def test_it_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, removes: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    status = main(["prune", "-a"])
    printed, error = capsys.readouterr()
    assert "WARNING! This will remove all images without at least one container" in printed
    assert "Are you sure you want to continue? [y/N]" in printed
    assert (status, "cancelled" in error, "untagged: kept:1" in printed) == (
        not removes,
        not removes,
        removes,
    )


@pytest.mark.usefixtures("layers")
def test_df(capsys: pytest.CaptureFixture[str]) -> None:
    blobs = sum(map(len, {*KEPT.blobs, *NAMELESS.blobs, *BUSY.blobs}))
    lines = output(capsys, "df").splitlines()
    assert [line.split() for line in lines] == [
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        ["Images", "3", "1", "6.11kB", "1.11kB", "(18%)"],
        ["Containers", "1", "0", "20B", "20B", "(100%)"],
        ["Local", "Volumes", "0", "0", "0B", "0B"],
        ["Layer", "Blobs", "4", "0", f"{blobs}B", f"{blobs}B", "(100%)"],
        ["Downloads", "0", "0", "0B", "0B"],
    ]


@pytest.mark.usefixtures("layers")
def test_df_tells_shared_from_unique(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "df", "-v").splitlines()
    assert lines[0] == "Images space usage:"
    headers = "REPOSITORY TAG IMAGE ID CREATED SIZE SHARED SIZE UNIQUE SIZE CONTAINERS"
    assert " ".join(lines[2].split()) == headers
    rows = [line.split() for line in lines[3:6]]
    assert [(row[0], row[1], row[2], *row[-4:]) for row in rows] == [
        ("kept", "1", Digest(KEPT.id).short, "1.1kB", "1kB", "100B", "0"),
        ("busy", "1", Digest(BUSY.id).short, "5kB", "0B", "5kB", "1"),
        ("<none>", "<none>", Digest(NAMELESS.id).short, "1.01kB", "1kB", "10B", "0"),
    ]
    assert lines[7] == "Containers space usage:"
    assert "worker" in lines[10]
    assert "20B" in lines[10]


@pytest.mark.usefixtures("layers")
def test_df_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output(capsys, "df", "--json"))
    assert found["LayersSize"] == 6110
    assert [(each["Id"], each["UniqueSize"]) for each in found["Images"]] == [
        (KEPT.id, 100),
        (BUSY.id, 5000),
        (NAMELESS.id, 10),
    ]
    assert [each["SizeRw"] for each in found["Containers"]] == [20]
    assert found["Parts"]["Images"]["Reclaimable"] == 1110
    assert output(capsys, "df", "--format", "{{.Type}}={{.TotalCount}}").splitlines()[0] == "Images=3"
    assert main(["df", "--json", "-v"]) == 2
