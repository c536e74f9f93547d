"""Tar streams that are written: the same bytes each time, and what every program reads as it is meant."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from testing.images.trees import tree
from unionfs.errors import ImageError
from unionfs.image.tar_read import Entry, Kind, entries
from unionfs.image.tar_write import TarWriter, headers

LONG = b"d" * 90 + b"/" + b"e" * 140 + b"/" + b"f" * 120
TIME = 1_600_000_000_000_000_000
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def entry(name: bytes, kind: Kind = "file", mode: int = 0o644, **rest: Any) -> Entry:
    return Entry(name, kind, mode, **{"uid": 0, "gid": 0, "mtime_ns": TIME, **rest})


ENTRIES: dict[str, tuple[Entry, int]] = {
    # An entry, and how many blocks its headers take: 1, or 3 with a PAX header.
    "file": (entry(b"file", size=3), 1),
    "directory": (entry(b"dir", "dir", 0o2755), 1),
    "the root": (entry(b".", "dir", 0o700), 1),
    "symlink": (entry(b"link", "symlink", 0o777, linkname=b"../to"), 1),
    "hard link": (entry(b"second", "link", linkname=b"file"), 1),
    "fifo": (entry(b"fifo", "fifo"), 1),
    "devices": (entry(b"null", "char", 0o666, device=(1, 3)), 1),
    "the largest device": (entry(b"disk", "block", device=(4095, (1 << 20) - 1)), 1),
    "a name of 100 bytes": (entry(b"n" * 100), 1),
    "a name that is parted": (entry(b"p" * 155 + b"/" + b"n" * 100), 1),
    "a directory that is parted": (entry(b"p" * 60 + b"/" + b"n" * 99, "dir"), 1),
    "a name that cannot be parted": (entry(b"n" * 101), 3),
    "a directory of 100 bytes": (entry(b"n" * 100, "dir"), 3),
    "a long name": (entry(LONG), 3),
    "a long symlink": (entry(b"link", "symlink", linkname=b"t" * 101), 3),
    "a long hard link": (entry(b"link", "link", linkname=LONG), 3),
    "a name that is no UTF-8": (entry(b"\xff\xfe"), 1),
    "a long name that is no UTF-8": (entry(b"\xff" * 200), 3),
    "a name of 4,095 bytes": (entry(b"/".join([b"n" * 255] * 16)), 11),
    "a newline and an equals sign in a name": (entry(b"a\n=" * 50), 3),
    "large ids": (entry(b"f", uid=0o7777777, gid=0o7777777), 1),
    "larger ids": (entry(b"f", uid=0o10000000, gid=4_294_967_294), 3),
    "nanoseconds": (entry(b"f", mtime_ns=TIME + 123_456_780), 3),
    "before 1970": (entry(b"f", mtime_ns=-5_000_000_001), 3),
    "far away": (entry(b"f", mtime_ns=(1 << 33) * 1_000_000_000), 3),
    "attributes": (
        entry(b"f", xattrs={b"user.x": b"\n=\0\xff", b"security.capability": CAPABILITY, b"user.empty": b""}),
        3,
    ),
    "an equals sign in an attribute": (entry(b"f", xattrs={b"user.a=b%": b"value"}), 3),
}


def write(each: Iterable[tuple[Entry, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for made, data in each:
        writer.add(made, [data])
    writer.close()
    return out.getvalue()


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_written_is_read_again(name: str) -> None:
    made, blocks = ENTRIES[name]
    stream = write([(made, b"abc")])
    assert len(stream) == (blocks + (made.size > 0) + 2) * 512
    reader = entries(io.BytesIO(stream), "layer")
    (found,) = list(reader)
    found.name = found.name.removesuffix(b"/") if made.kind == "dir" else found.name
    assert found == made


def test_the_bytes_are_those_of_pax() -> None:
    """Known bytes: a change of them changes the DiffID of every layer that is made from then on."""
    stream = write([(made, b"abc") for made, _ in ENTRIES.values()])
    assert hashlib.sha256(stream).hexdigest() == DIGEST


DIGEST = "f15b65e958fa5866d2eb4393f298ee7a1597169068da38323a61e34a069247a4"


def test_a_file_of_more_than_8_gib_has_its_size_in_a_record() -> None:
    header = headers(entry(b"large", size=1 << 33))
    assert b" size=8589934592\n" in header
    info = tarfile.TarInfo.frombuf(header[1024:], "utf-8", "surrogateescape")
    assert info.size == 0


def test_data_is_cut_or_filled_up_to_the_size() -> None:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    assert writer.add(entry(b"grown", size=5), [b"123", b"4567", b"89"]) == 5
    assert writer.add(entry(b"shrunk", size=5_000_000), [b"123"]) == 3
    assert writer.add(entry(b"exact", size=5), iter([b"12345"])) == 5
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        contents = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    assert contents["grown"] == contents["exact"] == b"12345"
    assert contents["shrunk"] == b"123" + bytes(4_999_997)


def test_attributes_that_no_reader_takes_are_refused() -> None:
    large = {b"user.%d" % number: bytes(65_536) for number in range(17)}
    with pytest.raises(ImageError, match="extended attributes take 11"):
        write([(entry(b"f", xattrs=large), b"")])


_NOT_BY_TAR = ("the root", "a name of 4,095 bytes", "an equals sign in an attribute")
"""The second makes paths that are too long for a test to look at, the third is in libarchive's form."""


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_programs_unpack_it(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to have owners")
    names = [name for name in ENTRIES if name not in _NOT_BY_TAR]
    made = {ENTRIES[name][0].name: ENTRIES[name][0] for name in names}
    links = [each for each in made.values() if each.kind == "link"]
    stream = write([(each, b"abc") for each in [*(e for e in made.values() if e.kind != "link"), *links]])
    archive, target = tmp_path / "layer.tar", tmp_path / "target"
    archive.write_bytes(stream)
    target.mkdir()
    words = ["--xattrs", "--xattrs-include=*"] if program == "tar" else []
    done = subprocess.run(
        [program, "-xpf", archive, "-C", target, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = tree(target)
    for name, each in made.items():
        node = found[name]
        if each.kind == "link":
            assert sorted([each.linkname, name]) == list(node.links)
            continue
        assert (node.mode & 0o7777, node.uid, node.gid) == (each.mode, each.uid, each.gid), name
        assert node.mtime_ns == each.mtime_ns, name
        assert {key.encode(): value for key, value in node.xattrs.items()} == each.xattrs
        assert os.fsencode(node.content) == each.linkname if each.kind == "symlink" else True
