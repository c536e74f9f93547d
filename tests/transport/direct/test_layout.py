"""Structures and numbers of the protocol, against the system's linux/fuse.h and against known sizes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.protocol import InitFlag, Opcode

HEADER = Path("/usr/include/linux/fuse.h")

ATTR = "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize"
ATTR_FIELDS = " ".join(f"attr.{name}" for name in [*ATTR.split(), "flags"])

STRUCTURES: list[tuple[str, Struct, int, str]] = [
    ("in_header", p.IN_HEADER, 40, "len opcode unique nodeid uid gid pid total_extlen padding"),
    ("out_header", p.OUT_HEADER, 16, "len error unique"),
    (
        "init_out",
        p.INIT_OUT,
        64,
        (
            "major minor max_readahead flags max_background congestion_threshold max_write time_gran "
            "max_pages map_alignment flags2"
        ),
    ),
    (
        "entry_out",
        p.ENTRY_OUT,
        128,
        f"nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec {ATTR_FIELDS}",
    ),
    ("attr_out", p.ATTR_OUT, 104, f"attr_valid attr_valid_nsec dummy {ATTR_FIELDS}"),
    ("open_out", p.OPEN_OUT, 16, "fh open_flags"),
    ("getattr_in", p.GETATTR_IN, 16, "getattr_flags dummy fh"),
    (
        "setattr_in",
        p.SETATTR_IN,
        88,
        (
            "valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused4 "
            "uid gid unused5"
        ),
    ),
    ("mknod_in", p.MKNOD_IN, 16, "mode rdev umask padding"),
    ("mkdir_in", p.MKDIR_IN, 8, "mode umask"),
    ("rename_in", p.RENAME_IN, 8, "newdir"),
    ("rename2_in", p.RENAME2_IN, 16, "newdir flags padding"),
    ("link_in", p.LINK_IN, 8, "oldnodeid"),
    ("open_in", p.OPEN_IN, 8, "flags open_flags"),
    ("create_in", p.CREATE_IN, 16, "flags mode umask open_flags"),
    ("release_in", p.RELEASE_IN, 24, "fh flags release_flags lock_owner"),
    ("flush_in", p.FLUSH_IN, 24, "fh unused padding lock_owner"),
    ("read_in", p.READ_IN, 40, "fh offset size read_flags lock_owner flags padding"),
    ("write_in", p.WRITE_IN, 40, "fh offset size write_flags lock_owner flags padding"),
    ("write_out", p.WRITE_OUT, 8, "size padding"),
    (
        "kstatfs",
        p.STATFS_OUT,
        80,
        "blocks bfree bavail files ffree bsize namelen frsize padding spare",
    ),
    ("fsync_in", p.FSYNC_IN, 16, "fh fsync_flags padding"),
    ("setxattr_in", p.SETXATTR_IN, 16, "size flags setxattr_flags padding"),
    ("getxattr_in", p.GETXATTR_IN, 8, "size padding"),
    ("getxattr_out", p.GETXATTR_OUT, 8, "size padding"),
    ("interrupt_in", p.INTERRUPT_IN, 8, "unique"),
    ("forget_in", p.FORGET_IN, 8, "nlookup"),
    ("batch_forget_in", p.BATCH_FORGET_IN, 8, "count dummy"),
    ("forget_one", p.FORGET_ONE, 16, "nodeid nlookup"),
    ("ioctl_in", p.IOCTL_IN, 32, "fh flags cmd arg in_size out_size"),
    ("ioctl_out", p.IOCTL_OUT, 16, "result flags in_iovs out_iovs"),
    ("fallocate_in", p.FALLOCATE_IN, 32, "fh offset length mode padding"),
    ("lseek_in", p.LSEEK_IN, 24, "fh offset whence padding"),
    ("lseek_out", p.LSEEK_OUT, 8, "offset"),
    ("copy_file_range_in", p.COPY_FILE_RANGE_IN, 56, "fh_in off_in nodeid_out fh_out off_out len flags"),
    ("notify_inval_inode_out", p.INVAL_INODE_OUT, 24, "ino off len"),
    ("ext_header", p.EXT_HEADER, 8, "size type"),
    ("secctx_header", p.SECCTX_HEADER, 8, "size nr_secctx"),
    ("secctx", p.SECCTX, 8, "size padding"),
]
"""Name in the header, our layout, its size, and its fields in order."""

SIZES_SINCE: list[tuple[Struct, int]] = [
    (p.SETXATTR_IN_COMPAT, 8),  # FUSE_COMPAT_SETXATTR_IN_SIZE
    (p.STATX_IN, 24),
    (p.STATX_OUT, 288),
    (p.BACKING_MAP, 16),
    (p.SUPP_GROUPS, 4),
    (p.COPY_FILE_RANGE_OUT, 8),
]
"""Sizes of what older headers do not have."""

FLAGS_SINCE = {
    "DIRECT_IO_ALLOW_MMAP": 36,
    "PASSTHROUGH": 37,
    "NO_EXPORT_SUPPORT": 38,
    "HAS_RESEND": 39,
    "ALLOW_IDMAP": 40,
    "OVER_IO_URING": 41,
    "REQUEST_TIMEOUT": 42,
}
OPCODES_SINCE = {"STATX": 52, "COPY_FILE_RANGE_64": 53}


def offsets(layout: Struct, fields: list[str]) -> dict[str, int]:
    """Where each field of a layout begins."""
    places, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        number = int(count or 1)
        repeat, size = (1, number) if code == "x" else (number, Struct("=" + code).size)
        for _ in range(repeat):
            places.append(at)
            at += size
    return dict(zip(fields, places, strict=False))


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip(f"no {HEADER} (linux-libc-dev) on this machine")
    return HEADER.read_text()


@pytest.fixture(scope="module")
def compiled(header: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a C compiler makes of the header: "name" is a size, "name.field" an offset."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler on this machine")
    lines = []
    for name, _, _, fields in STRUCTURES:
        lines.append(f'printf("{name} %zu\\n", sizeof(struct fuse_{name}));')
        lines += [
            f'printf("{name}.{field} %zu\\n", offsetof(struct fuse_{name}, {field}));'
            for field in fields.split()
        ]
    where = tmp_path_factory.mktemp("header")
    source = where / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
        f"int main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    subprocess.run([cc, "-o", where / "layout", source], check=True)
    out = subprocess.run([where / "layout"], check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in map(str.split, out.splitlines())}


@pytest.mark.parametrize(("name", "layout", "size", "fields"), STRUCTURES, ids=[s[0] for s in STRUCTURES])
def test_a_structure_has_its_known_size(name: str, layout: Struct, size: int, fields: str) -> None:
    assert layout.size == size


@pytest.mark.parametrize(("layout", "size"), SIZES_SINCE)
def test_a_newer_structure_has_its_known_size(layout: Struct, size: int) -> None:
    assert layout.size == size


@pytest.mark.parametrize(("name", "layout", "size", "fields"), STRUCTURES, ids=[s[0] for s in STRUCTURES])
def test_a_structure_is_the_header_s(
    name: str, layout: Struct, size: int, fields: str, compiled: dict[str, int]
) -> None:
    theirs = {field: compiled[f"{name}.{field}"] for field in fields.split()}
    assert layout.size == compiled[name]
    assert offsets(layout, fields.split()) == theirs


def test_opcodes_are_the_header_s(header: str) -> None:
    body = header[header.index("enum fuse_opcode") :]
    theirs = dict(re.findall(r"\bFUSE_([A-Z0-9_]+)\s*=\s*(\d+),", body[: body.index("};")]))
    theirs.pop("INIT_BSWAP_RESERVED", None)
    ours = {opcode.name: opcode.value for opcode in Opcode}
    assert {name: int(number) for name, number in theirs.items()}.items() <= ours.items()
    assert set(ours) - set(theirs) <= set(OPCODES_SINCE)


def test_newer_opcodes() -> None:
    assert {name: Opcode[name].value for name in OPCODES_SINCE} == OPCODES_SINCE
    assert max(Opcode) < p.OPCODES


def defined(header: str) -> dict[str, int]:
    """Every `#define FUSE_X (1 << n)` and `#define FATTR_X` of the header, by full name."""
    found = re.findall(r"^#define\s+(\w+)\s+\(1(?:ULL)?\s*<<\s*(\d+)\)", header, re.MULTILINE)
    return {name: 1 << int(bit) for name, bit in found}


def test_init_flags_are_the_header_s(header: str) -> None:
    theirs = defined(header)
    for flag in InitFlag:
        name = f"FUSE_{flag.name}"
        if name in theirs:
            assert flag.value == theirs[name], name
        else:
            assert flag.name in {*FLAGS_SINCE, "CREATE_SUPP_GROUP"}, f"{name} is not in the header"


def test_newer_init_flags() -> None:
    assert {name: InitFlag[name].value.bit_length() - 1 for name in FLAGS_SINCE} == FLAGS_SINCE
    assert InitFlag.CREATE_SUPP_GROUP == 1 << 34


@pytest.mark.parametrize("prefix", ["FATTR_", "FOPEN_"])
def test_flags_of_requests_are_the_header_s(header: str, prefix: str) -> None:
    ours = {name: value for name, value in vars(p).items() if name.startswith(prefix)}
    ours.pop("FOPEN_PASSTHROUGH", None)  # since 7.40
    assert ours
    assert ours.items() <= defined(header).items()
    assert p.FOPEN_PASSTHROUGH == 1 << 7


@pytest.mark.parametrize(
    "name",
    ["OPEN_KILL_SUIDGID", "WRITE_CACHE", "WRITE_KILL_SUIDGID", "GETATTR_FH", "FSYNC_FDATASYNC", "IOCTL_DIR"],
)
def test_further_flags_are_the_header_s(header: str, name: str) -> None:
    assert getattr(p, name) == defined(header)[f"FUSE_{name}"]


def test_ioctls_of_the_device() -> None:
    """_IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)."""
    write = 1 << 30
    assert write | p.BACKING_MAP.size << 16 | 229 << 8 | 1 == p.DEV_IOC_BACKING_OPEN
    assert write | p.U32.size << 16 | 229 << 8 | 2 == p.DEV_IOC_BACKING_CLOSE


def test_places_in_statx_out() -> None:
    """struct fuse_statx_out has at 32 the 256 bytes of a statx, laid out as statx(2) does."""
    names = (
        "attr_valid attr_valid_nsec flags pad mask blksize attributes nlink uid gid mode spare ino size "
        "blocks attributes_mask atime"
    )
    places = offsets(p.STATX_OUT, names.split())
    statx = {"mask": 0, "attributes": 8, "mode": 28, "ino": 32, "attributes_mask": 56, "atime": 64}
    assert {name: places[name] - 32 for name in statx} == statx
