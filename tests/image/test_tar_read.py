"""Tar streams of every dialect are read as the programs that wrote them mean it, malformed ones refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.tar_made import END, entry, gnu_long, number, pax, record
from unionfs.errors import ImageError
from unionfs.image.tar_read import Entry, TarReader, entries

LONG = b"d" * 90 + b"/" + b"e" * 140 + b"/" + b"f" * 120


def read(stream: bytes, *, block: int = 1 << 30) -> list[tuple[Entry, bytes]]:
    class Small(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(block, size or 0))

    source = Small(stream)
    reader = entries(source, "layer x")
    found = [(each, data_of(reader)) for each in reader]
    assert source.tell() == len(stream), "the digest of a stream is known only when all of it was read"
    return found


def data_of(reader: TarReader) -> bytes:
    return b"".join(iter(lambda: reader.read(700), b""))


def content(each: Entry, data: bytes) -> bytes:
    """The file's, holes filled up."""
    if each.extents is None:
        return data
    whole, at = bytearray(each.size), 0
    for offset, length in each.extents:
        whole[offset : offset + length] = data[at : at + length]
        at += length
    return bytes(whole)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tar program finds hard."""
    top = tmp_path_factory.mktemp("tree")
    (top / "dir").mkdir(mode=0o2750)
    (top / "file").write_bytes(b"content\n" * 100)
    os.utime(top / "file", ns=(0, 1_600_000_000_123_456_789))
    (top / "empty").touch()
    os.utime(top / "empty", ns=(0, -5_000_000_000))
    os.link(top / "file", top / "link")
    os.symlink("t" * 300, top / "symlink")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"no-utf8-\xff\xfe")).write_bytes(b"x")
    long = Path(os.fsdecode(bytes(top) + b"/" + LONG))
    long.parent.mkdir(parents=True)
    long.write_bytes(b"long")
    with (top / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        for at in range(0, 3 << 20, 1 << 17):
            file.seek(at)
            file.write(b"%7d" % at)
    with (top / "hole").open("wb") as file:
        file.truncate(1 << 20)
    if os.geteuid() == 0:
        os.chown(top / "empty", 3_000_000, 4_000_000_000)
        os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    return top


GNU_TAR = {
    "ustar": ("--format=ustar", "--exclude=[sn]*", "--exclude=d[0-9a-z]*d/*", "--exclude=empty"),
    "gnu": ("--format=gnu",),
    "gnu sparse": ("--format=gnu", "--sparse"),
    "pax": ("--format=pax", "--xattrs"),
    "pax sparse 0.0": ("--format=pax", "--sparse", "--sparse-version=0.0"),
    "pax sparse 0.1": ("--format=pax", "--sparse", "--sparse-version=0.1"),
    "pax sparse 1.0": ("--format=pax", "--sparse", "--sparse-version=1.0"),
}


@pytest.mark.parametrize("block", [1 << 20, 300])
@pytest.mark.parametrize("how", GNU_TAR)
def test_what_gnu_tar_writes_is_the_tree(tree: Path, how: str, block: int) -> None:
    done = subprocess.run(
        ["tar", *GNU_TAR[how], "--numeric-owner", "-C", tree, "-cf", "-", "."],
        capture_output=True,
        check=False,
    )
    found = read(done.stdout, block=block)
    assert len(found) > 5
    for each, data in found:
        path = os.path.join(bytes(tree), each.name)
        st = os.lstat(path)
        exact = st.st_mtime_ns if "pax" in how else st.st_mtime_ns // 10**9 * 10**9
        assert (each.mode, each.uid, each.gid) == (st.st_mode & 0o7777, st.st_uid, st.st_gid), each.name
        assert each.mtime_ns == exact, each.name
        if each.kind == "file":
            with open(path, "rb") as file:
                assert content(each, data) == file.read(), each.name
        elif each.kind == "symlink":
            assert each.linkname == os.readlink(path)
        elif each.kind == "link":
            assert os.path.samefile(path, os.path.join(bytes(tree), each.linkname))
        elif each.kind == "char":
            assert each.device == (1, 3)
        if how.startswith(("gnu sparse", "pax sparse")) and each.name in (b"./sparse", b"./hole"):
            assert len(data) < each.size / 2
            assert each.extents is not None
    names = {each.name.removeprefix(b"./") for each, _ in found}
    if how != "ustar":
        assert {LONG, b"no-utf8-\xff\xfe", b"empty", b"symlink", b"hole"} <= names


def test_what_tarfile_writes_is_read_alike() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("umläut")
        info.size, info.mtime, info.uid = 3, 1.5, 5_000_000
        info.pax_headers = {"SCHILY.xattr.user.a": "value"}
        archive.addfile(info, io.BytesIO(b"abc"))
    ((each, data),) = read(stream.getvalue())
    assert (each.name, data, each.mtime_ns, each.uid) == ("umläut".encode(), b"abc", 1_500_000_000, 5_000_000)
    assert each.xattrs == {b"user.a": b"value"}


def names_of(stream: bytes) -> list[bytes]:
    return [each.name for each, _ in read(stream)]


def checksummed(header: bytes) -> bytes:
    total = sum(header[:148]) + sum(header[156:]) + 8 * 32
    return header[:148] + b"%06o\0 " % total + header[156:]


LEGAL: dict[str, tuple[bytes, list[bytes]]] = {
    "nothing at all": (b"", []),
    "no entry": (END, []),
    "no end": (entry(b"a"), [b"a"]),
    "one block of zeros": (entry(b"a") + bytes(512), [b"a"]),
    "records of zeros": (entry(b"a") + bytes(10240), [b"a"]),
    "a prefix": (entry(b"b", prefix=b"a") + END, [b"a/b"]),
    "a prefix, without ustar's version": (
        checksummed(entry(b"b", prefix=b"a")[:512].replace(b"ustar\x0000", b"ustar\0  ")),
        [b"a/b"],
    ),
    "a prefix of star": (
        checksummed(entry(b"b", prefix=b"a" * 131 + b"%011o\0" % 7 * 2)[:508] + b"tar\0"),
        [b"a" * 131 + b"/b"],
    ),
    "a V7 directory": (entry(b"a/", kind=b"\0") + END, [b"a/"]),
    "a contiguous file": (entry(b"a", kind=b"7", data=b"x") + END, [b"a"]),
    "a long name of GNU": (gnu_long(b"L", b"n" * 4000) + entry(b"n") + END, [b"n" * 4000]),
    "PAX over GNU": (pax({b"path": b"p"}) + entry(b"n") + entry(b"m") + END, [b"p", b"m"]),
    "a global header": (pax({b"comment": b"c"}, kind=b"g") + entry(b"a") + END, [b"a"]),
    "an empty record means the header": (pax({b"path": b""}) + entry(b"a") + END, [b"a"]),
    "a link with a size": (entry(b"a", kind=b"1", linkname=b"b", size=100) + entry(b"c") + END, [b"a", b"c"]),
    "signed checksums": (entry(b"\xff\xfe", signed=True) + END, [b"\xff\xfe"]),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal_and_seldom(name: str) -> None:
    stream, wanted = LEGAL[name]
    assert names_of(stream) == wanted


def test_global_records_hold_until_they_are_given_anew() -> None:
    stream = (
        pax({b"uid": b"7", b"SCHILY.xattr.user.g": b"1"}, kind=b"g")
        + entry(b"a")
        + pax({b"uid": b"8"})
        + entry(b"b")
        + pax({b"uid": b"9"}, kind=b"g")
        + entry(b"c")
        + END
    )
    found = [each for each, _ in read(stream)]
    assert [each.uid for each in found] == [7, 8, 9]
    assert all(each.xattrs == {b"user.g": b"1"} for each in found)


def test_values_are_bytes() -> None:
    value = bytes(range(256)) + b"\n=\0"
    records = {
        b"SCHILY.xattr.user.b": value,
        b"LIBARCHIVE.xattr.user.%25": b"AAE",
        b"SCHILY.xattr.user.none": b"",
    }
    ((each, _),) = read(pax(records) + entry(b"a") + END)
    assert each.xattrs == {b"user.b": value, b"user.%": b"\0\1", b"user.none": b""}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"0.0000000019", 1),
        (b"-0.0000000001", -1),
        (b"7", 7 * 10**9),
    ],
)
def test_times(text: bytes, wanted: int) -> None:
    ((each, _),) = read(pax({b"mtime": text}) + entry(b"a") + END)
    assert each.mtime_ns == wanted


MALFORMED: dict[str, tuple[bytes, str]] = {
    "cut in a header": (entry(b"a")[:300], "truncated"),
    "cut in data": (entry(b"a", data=b"x" * 1000)[:1000], "truncated"),
    "cut in padding": (entry(b"a", data=b"x" * 10)[:600], "truncated"),
    "cut in a long name": (gnu_long(b"L", b"n" * 600)[:700], "truncated"),
    "data after the end": (END + b"x" * 512, "follows its end"),
    "an entry after the end": (entry(b"a") + END + entry(b"b"), "follows its end"),
    "a lone block of zeros": (entry(b"a") + bytes(512) + entry(b"b") + END, "empty block"),
    "a wrong checksum": (entry(b"a", checksum=b"0000001\0") + END, "checksum"),
    "garbage": (b"garbage " * 128, "checksum"),
    "a negative size": (entry(b"a", raw_size=b"\xff" * 12) + END, "negative size"),
    "a size with letters": (entry(b"a", raw_size=b"12x\0".ljust(12, b"\0")) + END, "no number"),
    "a size with a sign": (entry(b"a", raw_size=b"+1\0".ljust(12, b"\0")) + END, "no number"),
    "a size of 9 EiB": (pax({b"size": b"%d" % (1 << 63)}) + entry(b"a") + END, "size"),
    "a size of 2^80": (entry(b"a", raw_size=number(1 << 80, 12)) + END, "size"),
    "a size that is not there": (pax({b"size": b"%d" % (1 << 62)}) + entry(b"a") + END, "truncated"),
    "an unknown type": (entry(b"a", kind=b"V") + END, "unknown type"),
    "a uid of 2^32": (pax({b"uid": b"4294967296"}) + entry(b"a") + END, "uid"),
    "a negative uid": (pax({b"uid": b"-1"}) + entry(b"a") + END, "uid"),
    "a time that is none": (pax({b"mtime": b"now"}) + entry(b"a") + END, "time"),
    "a time of ages": (pax({b"mtime": b"99999999999"}) + entry(b"a") + END, "time"),
    "a name with a zero": (pax({b"path": b"a\0b"}) + entry(b"a") + END, "name"),
    "a name of 5,000": (pax({b"path": b"a" * 5000}) + entry(b"a") + END, "name"),
    "a header without its entry": (entry(b"a") + pax({b"path": b"b"}) + END, "missing"),
    "a PAX header of gigabytes": (entry(b"p", kind=b"x", raw_size=number(1 << 31, 12)), "at most 1048576"),
    "a PAX record without a length": (pax(b"path=a\n") + entry(b"a") + END, "PAX record"),
    "a PAX record that is too long": (pax(b"99 path=a\n") + entry(b"a") + END, "PAX record"),
    "a PAX record of no length": (pax(b"0 path=a\n") + entry(b"a") + END, "PAX record"),
    "a PAX record without a keyword": (pax(b"6 =ab\n") + entry(b"a") + END, "PAX record"),
    "an attribute without a name": (pax({b"SCHILY.xattr.": b"x"}) + entry(b"a") + END, "attribute"),
    "an attribute of no base64": (pax({b"LIBARCHIVE.xattr.a": b"!"}) + entry(b"a") + END, "base64"),
    "a sparse map in disorder": (
        pax({b"GNU.sparse.size": b"100", b"GNU.sparse.map": b"50,1,0,1"}) + entry(b"a", data=b"xy") + END,
        "disorder",
    ),
    "a sparse map that leads outside": (
        pax({b"GNU.sparse.size": b"10", b"GNU.sparse.map": b"9,2"}) + entry(b"a", data=b"xy") + END,
        "outside",
    ),
    "a sparse map that does not fit": (
        pax({b"GNU.sparse.size": b"10", b"GNU.sparse.map": b"0,1"}) + entry(b"a", data=b"xy") + END,
        "does not fit",
    ),
    "a sparse map that lacks a length": (
        pax({b"GNU.sparse.size": b"10", b"GNU.sparse.map": b"0"}) + entry(b"a", data=b"xy") + END,
        "lacks a length",
    ),
    "half a sparse pair": (
        pax(record(b"GNU.sparse.size", b"9") + record(b"GNU.sparse.offset", b"0")) + entry(b"a") + END,
        "disorder",
    ),
    "a sparse map without end": (
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}) + entry(b"a", data=b"9" * 2048) + END,
        "no numbers|without its map|too long",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    stream, about = MALFORMED[name]
    with pytest.raises(ImageError, match=f"layer x: malformed tar.*({about})"):
        read(stream)


@pytest.mark.parametrize("make", [bytes, lambda size: b"\xff" * size])
def test_a_stream_without_end_is_read_a_block_at_a_time(make: Callable[[int], bytes]) -> None:
    class Endless:
        given = 0

        def read(self, size: int, /) -> bytes:
            self.given += size
            if self.given > 100 << 20:
                raise AssertionError("reads on and on")
            return make(size)

    source = Endless()
    with pytest.raises((ImageError, AssertionError)):
        for _ in entries(source, "layer x"):
            pass
