"""`history`: rows, ids and forms as Docker has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import Image, digest, encode, file, image
from tests.support.stores import put
from unionfs.cli import main
from unionfs.image.digest import Digest
from unionfs.image.store import Store

LONG = "/bin/sh -c #(nop)\tADD file:0123456789 in / and more words"
BELOW: list[dict[str, Any]] = [
    {"created": "2024-01-01T00:00:00Z", "created_by": LONG},
    {"created": "2024-01-02T00:00:00Z", "created_by": 'CMD ["sh"]', "empty_layer": True},
]
STEP: dict[str, Any] = {"created": "2024-01-03T10:20:30Z", "created_by": "sh", "comment": "the fix"}


def made(layers: int, history: list[dict[str, Any]] | None) -> Image:
    """An image of *layers* layers of 1000, 2000 ... bytes."""
    found = image(
        [[file(f"file{number}", b"x" * 1000 * number)] for number in range(1, layers + 1)], compression="none"
    )
    config = msgspec.json.decode(found.config) | {"history": history}
    manifest = msgspec.json.decode(found.manifest)
    for number, layer in enumerate(manifest["layers"], 1):
        layer["size"] = 1000 * number  # of what is not unpacked the blob counts
    encoded = encode(config)
    manifest["config"] |= {"digest": digest(encoded), "size": len(encoded)}
    return Image(encoded, found.layers, found.blobs, encode(manifest), found.media_type)


BASE, NEW = made(1, BELOW), made(2, [*BELOW, STEP])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TZ", "UTC")
    store = Store()
    put(store, BASE, "base:1")
    put(store, NEW, "new:1")
    return store


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["history", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def short(made: Image) -> str:
    return Digest(made.id).short


@pytest.mark.usefixtures("store")
def test_the_steps_with_their_layers_and_images(capsys: pytest.CaptureFixture[str]) -> None:
    # Columns of 12 and 20 characters, and of the 45 of the longest command, with three blanks behind each.
    wide = "{:<15}{:<23}{:<48}{:<10}{}".format
    assert lines(capsys, "--human=false", "new:1") == [
        wide("IMAGE", "CREATED AT", "CREATED BY", "SIZE", "COMMENT"),
        wide(short(NEW), "2024-01-03T10:20:30Z", "sh", "2000", "the fix"),
        wide(short(BASE), "2024-01-02T00:00:00Z", 'CMD ["sh"]', "0", ""),
        wide(
            "<missing>", "2024-01-01T00:00:00Z", "/bin/sh -c #(nop) ADD file:0123456789 in / a…", "1000", ""
        ),
    ]


@pytest.mark.usefixtures("store")
def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(capsys, "new:1")
    assert shown[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert shown == lines(capsys, "-H", "new:1") == lines(capsys, "--human", "new:1")
    assert shown[1].split("   ")[1].endswith(" ago")
    assert [shown[1:][step].split()[-1] for step in (1, 2)] == ["0B", "1kB"]
    assert shown[1].endswith("2kB       the fix")


@pytest.mark.usefixtures("store")
def test_other_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, "-q", "new:1") == [short(NEW), short(BASE), "<missing>"]
    assert lines(capsys, "-q", "--no-trunc", "new:1") == [NEW.id, BASE.id, "<missing>"]
    assert lines(capsys, "--no-trunc", "--format", "{{.CreatedBy}}", "base:1")[-1] == LONG.replace("\t", " ")
    assert lines(capsys, "--format", "{{.Size}} {{.Comment}}", "new:1") == ["2kB the fix", "0B ", "1kB "]
    assert json.loads(lines(capsys, "--format", "json", "new:1")[0])["CreatedAt"] == "2024-01-03T10:20:30Z"
    assert json.loads("".join(lines(capsys, "--json", "new:1"))) == [
        {
            "Id": NEW.id,
            "Created": 1704277230,
            "CreatedBy": "sh",
            "Tags": ["new:1"],
            "Size": 2000,
            "Comment": "the fix",
        },
        {
            "Id": BASE.id,
            "Created": 1704153600,
            "CreatedBy": 'CMD ["sh"]',
            "Tags": None,
            "Size": 0,
            "Comment": "",
        },
        {
            "Id": "<missing>",
            "Created": 1704067200,
            "CreatedBy": LONG,
            "Tags": None,
            "Size": 1000,
            "Comment": "",
        },
    ]


@pytest.mark.parametrize(
    ("history", "sizes"),
    [
        (None, ["2000", "1000"]),
        ([STEP], ["2000", "1000"]),
        ([{**STEP, "empty_layer": True}], ["0", "2000", "1000"]),
    ],
)
def test_layers_of_which_the_history_says_nothing_are_the_first_steps(
    store: Store, capsys: pytest.CaptureFixture[str], history: list[dict[str, Any]] | None, sizes: list[str]
) -> None:
    put(store, made(2, history), "odd:1")
    assert lines(capsys, "-H=false", "--format", "{{.Size}}", "odd:1") == sizes


@pytest.mark.usefixtures("store")
def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "none:1"]) == 1
    assert main(["history", "--json", "-q", "new:1"]) == 2
    assert "there is no image none:1" in capsys.readouterr().err
