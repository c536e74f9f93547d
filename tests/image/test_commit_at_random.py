"""Layers of random uppers: over the lowers they give the tree that the union shows, in every attribute."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from testing.images.trees import differences, tree
from testing.mounts import overlayfs
from tests.offline import random_unions
from tests.support.mounts import needs_overlayfs
from unionfs.image.layer_content import LayerContent
from unionfs.image.layer_form import LayerForm
from unionfs.image.tar_write import TarWriter
from unionfs.image.tree_entries import EntryWriter
from unionfs.image.unpack import unpack
from unionfs.offline.layer_view import open_view

pytestmark = needs_overlayfs

SEEDS = {"some": range(5), "more": range(5, 60)}
NAMES = ("plain", "redirect", "index", "all", "userxattr")

MARKS = ("user.overlay.", "trusted.overlay.")
"""Are no attributes of an image, also where they are a program's own."""

A_SOCKET = "a socket, which only the program that listens there can make: left out"


@pytest.fixture(scope="module")
def maker() -> Iterator[random_unions.Maker]:
    with random_unions.maker() as made:
        yield made


def layer(
    upper: Path, lowers: Sequence[Path], index: Path | None, *, userxattr: bool
) -> tuple[bytes, list[str]]:
    """The tar, and what was remarked."""
    remarks: list[str] = []

    def remark(path: bytes, text: str) -> None:
        remarks.append(f"{path!r}: {text}")

    out = io.BytesIO()
    with open_view(str(upper), list(map(str, lowers)), userxattr=userxattr) as view:
        content = LayerContent(view, remark, index=None if index is None else str(index))
        writer = TarWriter(out.write)
        content.write(EntryWriter(view.fs, writer, remark))
        writer.close()
    return out.getvalue(), remarks


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_over_the_lowers_it_is_the_union(maker: random_unions.Maker, name: str, seeds: str) -> None:
    _, options = random_unions.OPTIONS[name]
    for seed in SEEDS[seeds]:
        with maker.union(name, seed) as stack:
            _check(stack, options, stack.upper.with_name("layer"), f"seed {seed}")


def _check(stack: random_unions.Stack, options: list[str], target: Path, what: str) -> None:
    userxattr = "userxattr" in options
    with overlayfs(stack.lowers, stack.upper, stack.work, stack.merged, options=options):
        union = tree(stack.merged, skip=MARKS)
    index = stack.work / "index" if "index=on" in options else None
    stream, remarks = layer(stack.upper, stack.lowers, index, userxattr=userxattr)
    target.mkdir()
    form = LayerForm(userxattr=userxattr, overrides=False)
    unpack(io.BytesIO(stream), target, lambda: stack.lowers, form, "layer")
    plain = [option for option in options if not option.startswith("index=")]
    with overlayfs([target, *stack.lowers], None, None, stack.merged, options=plain):
        again = tree(stack.merged, skip=MARKS)
    # The mtime of the root, which nothing is told of, and sockets, which cannot be in a layer.
    root = union.pop(b"."), again.pop(b".")
    assert root[0]._replace(mtime_ns=0) == root[1]._replace(mtime_ns=0), what
    left_out = [path for path in union.keys() - again.keys() if stat.S_ISSOCK(union[path].mode)]
    assert sorted(remarks) == sorted(f"{path!r}: {A_SOCKET}" for path in left_out), what
    union = {path: node for path, node in union.items() if path not in left_out}
    assert differences(union, again) == [], what
    if index is None:
        copy = _copied(stack.upper, stack.upper.with_name("copy"))
        assert layer(copy, stack.lowers, None, userxattr=userxattr)[0] == stream, f"{what}, copied"


def _copied(upper: Path, copy: Path) -> Path:
    """The same in other inodes, made in another order."""
    copy.mkdir()
    names = sorted(os.listdir(upper))
    turns = [upper / name for name in (*names[1::2], *names[::2])]
    subprocess.run(["cp", "-a", "-t", copy, "--", *turns], check=True)
    shutil.copystat(upper, copy)
    return copy
