"""Reading /proc/self/mountinfo: octal escapes, optional fields, and which mount is on top."""

from __future__ import annotations

import pytest

from unionfs.linux import mount
from unionfs.linux.mount import mount_at, mount_table, parse_mount, unescape_octal


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("/a", "/a"),
        (r"/a\040b", "/a b"),
        (r"/\011\012\134\043", "/\t\n\\#"),
        (r"/\134040", r"/\040"),
        ("/ä", "/ä"),
        (r"/\303\244", "/ä"),
        ("/\udcff\\040", "/\udcff "),
        (r"/\09", r"/\09"),
    ],
)
def test_escapes(field: str, text: str) -> None:
    assert unescape_octal(field) == text


def test_a_line_with_propagation_and_options() -> None:
    entry = parse_mount(
        r"36 35 98:0 /mnt1 /mnt2\0402 rw,noatime master:1 shared:7 - ext4 /dev/root rw,errors=continue,a=b=c"
        "\n"
    )
    assert (entry.mount_id, entry.parent_id, entry.device) == (36, 35, (98, 0))
    assert (entry.root, entry.path, entry.options) == ("/mnt1", "/mnt2 2", ("rw", "noatime"))
    assert (entry.fstype, entry.source) == ("ext4", "/dev/root")
    assert entry.super_option("errors") == "continue"
    assert entry.super_option("a") == "b=c"
    assert entry.super_option("rw") is None


def test_a_source_may_be_empty() -> None:
    entry = parse_mount("36 35 0:40 / /m rw - tmpfs  rw,size=4k\n")
    assert (entry.fstype, entry.source, entry.super_options) == ("tmpfs", "", ("rw", "size=4k"))


def test_the_last_mount_on_a_path_is_on_top() -> None:
    table = [parse_mount(f"{number} 1 0:{number} / /m rw - tmpfs x rw") for number in (40, 41)]
    on_top = mount_at("/m", table)
    assert on_top is not None
    assert on_top.mount_id == 41
    assert mount_at("/n", table) is None


def test_this_machines_table_has_a_root_and_proc() -> None:
    assert {"/", "/proc"} <= {entry.path for entry in mount_table()}
    proc = mount_at("/proc")
    assert proc is not None
    assert proc.fstype == "proc"


def test_a_failed_call_says_why_and_where() -> None:
    with pytest.raises(OSError) as caught:
        mount.umount("/nowhere at all")
    assert caught.value.filename == "/nowhere at all"
    assert caught.value.errno
