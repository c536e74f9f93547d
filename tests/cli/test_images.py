"""`images` and `tag`: rows, ids and filters as Docker has them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testing.images import Image, digest, encode, file, image
from tests.support.stores import put
from unionfs.cli import main
from unionfs.image import blobs, index, names
from unionfs.image.digest import Digest
from unionfs.image.store import Store

REPO_DIGEST = "debian@sha256:" + "d" * 64


def made(number: int, *, labels: dict[str, str] | None = None, base: Image | None = None) -> Image:
    """An image of `number` January 2024, perhaps with the layers of another below."""
    below = list(base.layers) if base is not None else []
    found = image(
        [*below, [file(f"file{number}", b"x" * 1000 * number)]], {"Labels": labels}, compression="none"
    )
    config = msgspec.json.decode(found.config) | {"created": f"2024-01-{number:02}T00:00:00.123456789Z"}
    if base is not None:
        config["history"] = msgspec.json.decode(base.config)["history"] + config["history"][-1:]
    manifest = msgspec.json.decode(found.manifest)
    encoded = encode(config)
    manifest["config"] |= {"digest": digest(encoded), "size": len(encoded)}
    return Image(encoded, found.layers, found.blobs, encode(manifest), found.media_type)


OLD, NEW, OTHER = made(1), made(2, labels={"kind": "a", "more": ""}), made(3, labels={"kind": "b"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """With debian:12, which is also debian:latest, and user/x:1 over it, and a nameless one."""
    monkeypatch.setenv("PYUNIONFS_STORE", str(tmp_path / "store"))
    store = Store()
    put(store, OLD, "debian:12")
    put(store, OLD, "debian", repo_digest=REPO_DIGEST)
    put(store, NEW, "user/x:1")
    put(store, OTHER)
    return store


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main([*words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def short(made: Image) -> str:
    return Digest(made.id).short


@pytest.mark.usefixtures("store")
def test_the_table_is_docker_s(capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = lines(capsys, "images")
    columns = ["REPOSITORY   ", "TAG       ", "IMAGE ID       ", "CREATED", "SIZE"]
    assert re.fullmatch(" *".join(columns[:4]) + r" {3,}SIZE", head)
    assert head.startswith("".join(columns[:4]))
    created, size = head.index("CREATED"), head.index("SIZE")
    assert [(row[:created], row[size:]) for row in rows] == [
        (f"<none>       <none>    {short(OTHER)}   ", "4.61kB"),
        (f"user/x       1         {short(NEW)}   ", "3.58kB"),
        (f"debian       12        {short(OLD)}   ", "2.56kB"),
        (f"debian       latest    {short(OLD)}   ", "2.56kB"),
    ]
    assert {row[created:size].rstrip()[-4:] for row in rows} == {" ago"}


FORM = "{{.Repository}}:{{.Tag}}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-q"], [short(OTHER), short(NEW), short(OLD), short(OLD)]),
        (["-q", "--no-trunc", "user/x"], [NEW.id]),
        (["--format", FORM, "debian"], ["debian:12", "debian:latest"]),
        (["--format", FORM, "debian:12"], ["debian:12"]),
        (["--format", FORM, "deb*:l*"], ["debian:latest"]),
        (["--format", FORM, "*/x"], ["user/x:1"]),
        (["--format", FORM, "*"], ["debian:12", "debian:latest"]),
        (["--format", FORM, "nothing"], []),
        (["--format", FORM, "--filter", "reference=docker.io/user/*"], ["user/x:1"]),
        (["-q", "--filter", "dangling=true"], [short(OTHER)]),
        (["--format", FORM, "-f", "dangling=false", "user/x"], ["user/x:1"]),
        (["-q", "--filter", "label=kind"], [short(OTHER), short(NEW)]),
        (["-q", "--filter", "label=kind=a"], [short(NEW)]),
        (["-q", "--filter", "label=more", "--filter", "label=kind=b"], []),
        (["-q", "--filter", "before=user/x:1"], [short(OLD), short(OLD)]),
        (["-q", "--filter", "since=user/x:1"], [short(OTHER)]),
        (["--digests", "--format", "{{.Tag}} {{.Digest}}", "debian"], [
            f"12 sha256:{'d' * 64}", f"latest sha256:{'d' * 64}",
        ]),
        (["--format", "table {{.Tag}}\\t{{.CreatedAt}}", "user/x"], [
            "TAG       CREATED AT", "1         2024-01-02 00:00:00 +0000 UTC",
        ]),
        (["--format", '{{json .Size}}', "user/x"], ['"3.58kB"']),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("store")
def test_what_is_listed(words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, "images", *words) == expected


@pytest.mark.usefixtures("store")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[dict[str, Any]] = json.loads("\n".join(lines(capsys, "images", "--json", "debian:12")))
    assert found == [
        {
            "Id": OLD.id,
            "RepoTags": ["debian:12"],
            "RepoDigests": [],
            "Created": 1704067200,
            "Size": 2560,
            "Labels": {},
            "Manifest": OLD.digest,
        }
    ]


@pytest.mark.parametrize(
    ("words", "about", "status"),
    [
        (["--filter", "colour=red"], "unknown key 'colour'", 2),
        (["--filter", "dangling=perhaps"], "true or false", 2),
        (["--filter", "before=nothing"], "there is no image nothing", 1),
        (["--format", "{{.Nope}}"], "no field 'Nope'", 2),
        (["--json", "-q"], "conflicts", 2),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_is_refused(
    words: list[str], about: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["images", *words]) == status
    assert about in capsys.readouterr().err


def test_nameless_images_that_others_build_on_are_listed_by_all_only(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, made(4, base=OTHER), "child:1")
    assert short(OTHER) not in lines(capsys, "images", "-q")
    assert short(OTHER) in lines(capsys, "images", "-q", "-a")


def test_an_image_whose_config_is_gone_hides_no_other(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs.path_of(store, Digest(NEW.id)).unlink()
    assert main(["images", "-q"]) == 1
    seen = capsys.readouterr()
    assert seen.out.split() == [short(OTHER), short(OLD), short(OLD)]
    assert NEW.id in seen.err


def test_tag_gives_one_name_more_and_takes_it_from_another(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(capsys, "tag", short(OTHER), "localhost:5000/x") == []
    assert lines(capsys, "tag", "debian", "user/x:1") == []
    tags = {each.manifest.digest: [str(tag) for tag in each.tags] for each in index.images(store)}
    assert tags[OTHER.digest] == ["localhost:5000/x:latest"]
    assert tags[OLD.digest] == [*map(str, map(names.parse, ("debian:12", "debian:latest", "user/x:1")))]
    assert tags[NEW.digest] == []


@pytest.mark.parametrize(
    ("source", "target", "about"),
    [
        ("nothing", "a:1", "there is no image nothing"),
        ("debian", "A:1", "lower case"),
        ("debian", "a@sha256:" + "a" * 64, "a name with a digest"),
    ],
)
def test_a_tag_that_is_refused_changes_nothing(
    store: Store, source: str, target: str, about: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.index.read_bytes()
    assert main(["tag", source, target]) != 0
    assert about in capsys.readouterr().err
    assert store.index.read_bytes() == before
