"""Which image of an index is taken, as containerd chooses."""

from __future__ import annotations

import pytest

from unionfs.errors import ImageError, NotFoundError, OptionError
from unionfs.image import platform
from unionfs.image.model import OCI_MANIFEST, Descriptor, Platform


def descriptor(text: str | None) -> Descriptor:
    if text is None:
        return Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 1)
    os, architecture, *variant = text.split("/")
    found = Platform(architecture, os, variant[0] if variant else None)
    return Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 1, platform=found)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("Linux/ARM/v6", "linux/arm/v6"),
        ("armel", "linux/arm/v5"),
        ("arm/v6", "linux/arm/v6"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_have_one_name(text: str, normal: str) -> None:
    assert str(platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux/", "a/b/c/d", "linux/amd 64", "../x"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(OptionError, match="--platform"):
        platform.parse(text)


ALL = ["unknown/unknown", "linux/386", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/amd64"]


@pytest.mark.parametrize(
    ("machine", "there", "chosen"),
    [
        ("amd64", ALL, "linux/amd64"),
        ("amd64", ["linux/arm64", "linux/386"], "linux/386"),
        ("arm64", ALL, "linux/arm64/v8"),
        ("arm64", ALL[:4], "linux/arm/v7"),
        ("arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("arm/v6", ["linux/arm/v7", "linux/arm/v6"], "linux/arm/v6"),
        ("s390x", [None], None),
        ("s390x", ["linux/amd64", None], None),
    ],
)
def test_the_best_for_a_machine(
    machine: str, there: list[str | None], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, _, variant = machine.partition("/")
    monkeypatch.setattr(platform, "host", lambda: Platform(architecture, "linux", variant or None))
    found = platform.choose([descriptor(each) for each in there], None, "index")
    assert (None if found.platform is None else str(found.platform)) == chosen


def test_one_that_is_asked_for_is_that_or_none() -> None:
    there = [descriptor(each) for each in ALL]
    assert str(platform.choose(there, platform.parse("arm/v6"), "x").platform) == "linux/arm/v6"
    with pytest.raises(
        NotFoundError, match=r"no image for linux/s390x: .* linux/386, linux/amd64, .*--platform"
    ):
        platform.choose(there, platform.parse("s390x"), "x")
    with pytest.raises(NotFoundError):
        platform.choose([descriptor("linux/386")], platform.parse("amd64"), "x")
    with pytest.raises(ImageError, match="no images"):
        platform.choose([], None, "x")


def test_this_machine_is_one() -> None:
    assert platform.host().os == "linux"
    assert platform.parse(str(platform.host())) == platform.host()
