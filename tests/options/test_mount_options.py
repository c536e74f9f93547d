"""Options and the layer list, as text: escapes, values, contradictions, and what every complaint says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unionfs.errors import OptionError
from unionfs.options import mount_options
from unionfs.options.lists import join_lowers, split_lowers
from unionfs.options.mount_options import MountOptions
from unionfs.options.table import GROUPS, OPTIONS
from unionfs.overlay.config import OwnersConfig, UnionConfig


def parse(*texts: str, writable: bool = True, **keywords: bool | str) -> MountOptions:
    directories = ["/l", "/u", "/w", "/m"] if writable else ["/l", "/m"]
    return mount_options.parse(directories, texts, privileged=True, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "lowers"),
    [
        ("a", ["a"]),
        ("a:b:c", ["a", "b", "c"]),
        (r"a\:b:c", ["a:b", "c"]),
        (r"a\\:b", ["a\\", "b"]),
        (r"a\\\:b", ["a\\:b"]),
        ("a b,c", ["a b,c"]),
        (r"\a", ["a"]),
    ],
)
def test_lowers_are_split_at_colons_that_no_backslash_precedes(text: str, lowers: list[str]) -> None:
    assert split_lowers(text) == (lowers, [])


@pytest.mark.parametrize("lowers", [["/a"], ["/a:b", "/c"], ["/a\\", "/b"], ["/\\:", "/:\\", "/,"]])
def test_joined_lowers_split_to_the_same(lowers: list[str]) -> None:
    assert split_lowers(join_lowers(lowers)) == (lowers, [])


@pytest.mark.parametrize("text", ["a:::b", ":a", "a:", ":", "a::", ""])
def test_an_empty_lower_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="empty entry"):
        split_lowers(text)


@pytest.mark.parametrize(
    ("text", "lowers", "data"),
    [
        ("a::d", ["a"], ["d"]),
        ("a:b::d::e", ["a", "b"], ["d", "e"]),
        (r"a\:b::d\:e", ["a:b"], ["d:e"]),
    ],
)
def test_two_colons_begin_a_data_only_layer(text: str, lowers: list[str], data: list[str]) -> None:
    assert split_lowers(text) == (lowers, data)
    assert split_lowers(join_lowers(lowers, data)) == (lowers, data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:::d", "empty entry"),
        ("::d", "empty entry"),
        ("a::d:", "empty entry"),
        ("a::d:e", "follows a data-only"),
    ],
)
def test_data_only_layers_come_last(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        split_lowers(text)


def layers(*texts: str) -> UnionConfig:
    return mount_options.parse(["/m"], texts, privileged=True).config


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["lowerdir=/a:/b"], (("/a", "/b"), None, None, ())),
        (["lowerdir=/a,upperdir=/u,workdir=/w"], (("/a",), "/u", "/w", ())),
        (["workdir=/w", "lowerdir=/a", "upperdir=/u"], (("/a",), "/u", "/w", ())),
        ([r"lowerdir=/a\:b:/c\,d"], (("/a:b", "/c,d"), None, None, ())),
        (['lowerdir="/a,b:/c"'], (("/a,b", "/c"), None, None, ())),
        ([r"lowerdir=/a,upperdir=/u\:u\\,workdir=/w\,"], (("/a",), "/u:u\\", "/w,", ())),
        (["lowerdir+=/a,lowerdir+=/b:c,datadir+=/d"], (("/a", "/b:c"), None, None, ("/d",))),
        (["lowerdir=/a::/d,datadir+=/e"], (("/a",), None, None, ("/d", "/e"))),
        (["lowerdir=/a", "lowerdir=/b"], (("/b",), None, None, ())),
    ],
)
def test_layers_among_the_options(
    texts: list[str], expected: tuple[tuple[str, ...], str | None, str | None, tuple[str, ...]]
) -> None:
    config = layers(*texts)
    assert (config.lowers, config.upper, config.work, config.data_lowers) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("upperdir=/u,workdir=/w", "upperdir requires lowerdir"),
        ("lowerdir=/a,upperdir=/u", "upperdir requires workdir"),
        ("lowerdir=/a,workdir=/w", "workdir requires upperdir"),
        ("lowerdir=/a::/d,lowerdir+=/b", r"lowerdir\+ conflicts with data-only layers"),
        ("lowerdir=", "needs a value"),
        ("lowerdir=/a,upperdir=,workdir=/w", "needs a value"),
    ],
)
def test_layers_among_the_options_must_be_whole(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        layers(text)


def test_unknown_options_may_be_ignored() -> None:
    met: list[str] = []
    given = mount_options.parse(
        ["/l", "/m"], ["colour=blue,ro", "shape"], privileged=True, on_unknown=met.append
    )
    assert met == ["colour", "shape"]
    assert given.fuse.read_only


def test_a_backslash_at_the_end_is_refused() -> None:
    with pytest.raises(OptionError, match="backslash at the end"):
        split_lowers("a:b\\")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("redirect_dir=off", "redirect_dir", "off"),
        ("redirect_dir=follow", "redirect_dir", "follow"),
        ("redirect_dir=nofollow", "redirect_dir", "nofollow"),
        ("index=on", "index", True),
        ("index=on,index=off", "index", False),
        ("metacopy=on", "metacopy", True),
        ("userxattr", "userxattr", True),
        ("volatile", "volatile", True),
        ("timeout=1.5", "timeout", 1.5),
        ("timeout=0", "timeout", 0.0),
        ("xino=off", "xino", "off"),
        ("uuid=null", "uuid", "null"),
        ("fsync=0", "fsync", False),
        ("fsync=1", "fsync", True),
        ("noacl", "acl", False),
        ("noxattrs", "xattrs", False),
        ("noxattrs=1", "xattrs", False),
        ("noxattrs=0", "xattrs", True),
        ("static_nlink", "static_nlink", True),
        ("ino32_t", "ino32", True),
        ("ino32_t=0", "ino32", False),
        ("fast_ino=1,threaded=0,threaded", "ino32", False),
        ("whiteouts=aufs", "whiteouts", "aufs"),
        ("uidmapping=0:1000:1", "owners", OwnersConfig(uid_map=((0, 1000, 1),))),
        ("gidmapping=:0:1000:1:1:5:9", "owners", OwnersConfig(gid_map=((0, 1000, 1), (1, 5, 9)))),
        ("gidmapping=0:1000:1:1:5:9", "owners", OwnersConfig(gid_map=((0, 1000, 1), (1, 5, 9)))),
        ("squash_to_root", "owners", OwnersConfig(squash_uid=0, squash_gid=0)),
        ("squash_to_uid=7,squash_to_root", "owners", OwnersConfig(squash_uid=7, squash_gid=0)),
        ("squash_to_gid=7", "owners", OwnersConfig(squash_gid=7)),
        ("xattr_permissions=2", "owners", OwnersConfig(xattr_permissions=2)),
    ],
)
def test_options_of_the_union(text: str, field: str, value: object) -> None:
    config = parse(text).config
    assert getattr(config, field) == value
    assert getattr(config, field) is not None


def test_defaults() -> None:
    given = parse()
    config = given.config
    assert (config.redirect_dir, config.index, config.metacopy, config.volatile) == (
        "on",
        False,
        False,
        False,
    )
    assert (config.userxattr, config.timeout) == (False, None)
    assert given.fuse.flag_names() == []
    assert given.fuse.fsname == "pyunionfs"
    assert given.fuse.allow_other == (os.geteuid() == 0)
    assert given.transport == "auto"


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["ro"], ["ro"]),
        (["ro", "rw"], []),
        (["nodev,nosuid,noexec,noatime"], ["nosuid", "nodev", "noexec", "noatime"]),
        (["noexec,exec", "noatime,atime"], []),
        (["defaultx"], None),
        (["default_permissions"], []),
        (["ro,,nodev,"], ["ro", "nodev"]),
    ],
)
def test_flags_of_the_mount_and_the_last_one_counts(texts: list[str], names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(OptionError, match="unknown mount option 'defaultx'"):
            parse(*texts)
    else:
        assert parse(*texts).fuse.flag_names() == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour=blue", "unknown mount option 'colour'"),
        ("volatil", "did you mean volatile"),
        ("=on", "unknown mount option ''"),
        ("redirect_dir", "needs a value: write redirect_dir=on|off|follow|nofollow"),
        ("redirect_dir=", "needs a value"),
        (
            "redirect_dir=yes",
            "invalid value 'yes' of mount option redirect_dir: write redirect_dir=on|off|follow|nofollow",
        ),
        ("index=1", "index=on|off"),
        ("metacopy", "metacopy=on|off"),
        ("volatile=on", "takes no value"),
        ("timeout=soon", "give a number of seconds"),
        ("timeout=-1", "0 or more"),
        ("timeout=nan", "0 or more"),
        ("timeout=inf", "0 or more"),
        ("fsname=", "needs a value"),
        ("fsname=a\nb", "control characters"),
        ("transport=pigeon", "auto|direct|pyfuse3"),
        ("lowerdir=/a", "give one argument, MERGED"),
        ("br=/a", "give the layers by lowerdir="),
        ("fsync=2", "fsync=0|1"),
        ("threaded=", "needs a value"),
        ("xattr_permissions=3", "xattr_permissions=0|1|2"),
        ("squash_to_uid=root", "give a numeric ID"),
        ("squash_to_uid=4294967295", "0 to 4294967294"),
        ("uidmapping=0:1000", "STORED:SHOWN:LENGTH"),
        ("uidmapping=0:1000:x", "STORED:SHOWN:LENGTH"),
        ("uidmapping=::", "STORED:SHOWN:LENGTH"),
        ("uidmapping=0:-1:1", "STORED:SHOWN:LENGTH"),
        ("gidmapping=0:1000:0", "is empty"),
        ("gidmapping=0:4294967294:2", "ends above"),
        ("uidmapping=0:1000:2:1:5000:1", "container ID 1 is in two ranges"),
        ("uidmapping=0:1000:2:7:1001:1", "host ID 1001 is in two ranges"),
        ("nfs_export=on", "unsupported mount option nfs_export=on"),
        ("ro\\", "backslash at the end"),
        ("whiteouts=aufs,redirect_dir=on", "mount options whiteouts=aufs and redirect_dir=on conflict"),
        ("whiteouts=aufs,metacopy=on", "whiteouts=aufs and metacopy=on conflict"),
        ("verity=on", "unsupported mount option 'verity'"),
        ("verity=require", "unsupported mount option 'verity'"),
        ("metacopy=on,redirect_dir=off", "metacopy=on and redirect_dir=off conflict"),
        ("metacopy=on,redirect_dir=nofollow", "metacopy=on and redirect_dir=nofollow conflict"),
    ],
)
def test_complaints_are_one_line_that_names_the_fault(text: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("volatile", "volatile"),
        ("index=on", "index"),
        ("metacopy=on", None),
        ("redirect_dir=follow,metacopy=on", None),
        ("redirect_dir=off,metacopy=on", None),
        ("redirect_dir=on", None),
    ],
)
def test_options_about_upper_do_not_stop_a_read_only_union(
    text: str, warns: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """As kernel overlayfs, which tells of those it ignores."""
    given = parse(text, writable=False)
    assert (given.config.volatile, given.config.index) == (False, False)
    assert [record.args for record in caplog.records] == ([(warns,)] if warns else [])


def test_a_read_only_union_needs_redirects_for_metacopies() -> None:
    with pytest.raises(OptionError, match="metacopy=on and redirect_dir=nofollow conflict"):
        parse("redirect_dir=nofollow,metacopy=on", writable=False)


@pytest.mark.parametrize(
    ("text", "path"), [("a\\:b", "a\\:b"), ("a\\,b", "a,b"), ('a\\"b', 'a"b'), ("a\\\\b", "a\\b")]
)
@pytest.mark.parametrize("name", ["lowerdir+", "datadir+"])
def test_a_layer_by_itself_is_taken_literally(name: str, text: str, path: str) -> None:
    config = mount_options.parse(["/m"], [f"lowerdir+=/top,{name}=/{text}"], privileged=True).config
    assert (*config.lowers, *config.data_lowers) == ("/top", f"/{path}")


@pytest.mark.parametrize(
    ("directories", "says"),
    [
        ([], "0 directories were given"),
        (["/l"], "one directory was given, /l, and no layers: write `pyunionfs mount LOWER"),
        (["/l", "/u", "/m"], "three directories were given"),
        (["/l", "/u", "/w", "/m", "/x"], "5 directories were given"),
        (["", "/m"], "LOWER is empty"),
        (["/l", "", "/w", "/m"], "UPPER is empty"),
        (["/l", "/u", "/w", ""], "MERGED is empty"),
        (["/l\0", "/m"], "NUL"),
    ],
)
def test_two_or_four_directories(directories: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        mount_options.parse(directories)


def test_a_comma_in_a_name_is_escaped() -> None:
    assert parse(r"fsname=a\,b,ro").fuse.fsname == "a,b"
    assert parse(r"fsname=a\,b,ro").fuse.read_only


def test_without_privilege_marks_are_user_attributes() -> None:
    assert mount_options.parse(["/l", "/m"], privileged=False).config.userxattr


def test_paths_become_absolute_and_free_of_symlinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("real", "u", "w", "m"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "u")
    given = mount_options.parse(["../link:../missing", ".", "../w", "../m/"], privileged=True)
    base = os.path.realpath(tmp_path)
    assert given.config.lowers == (f"{base}/real", f"{base}/missing")
    assert (given.config.upper, given.config.work) == (f"{base}/u", f"{base}/w")
    assert given.mountpoint == f"{base}/m"


@pytest.mark.parametrize("path", [".", "./", "x/..", "../m", "../m//"])
def test_every_way_to_write_a_mountpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "m" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m")
    assert mount_options.resolve_mountpoint(path) == os.path.realpath(tmp_path / "m")


def test_the_root_directory_is_a_mountpoint() -> None:
    assert mount_options.resolve_mountpoint("/") == "/"
    assert mount_options.resolve_mountpoint("//") == "/"


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["ro", "noatime", "timeout=2.5", "redirect_dir=off", "index=on"],
        ["metacopy=on", "volatile", r"fsname=a\,b\\c", "transport=pyfuse3"],
        ["debug", r"log_file=/tmp/a\,b"],
        ["userxattr"],
        ["userxattr", "redirect_dir=off", "index=on"],
        ["userxattr", "redirect_dir=on"],
        ["userxattr", "redirect_dir=nofollow"],
        ["redirect_dir=off", "rename_copy_bytes=5"],
        ["uidmapping=0:1000:1:1:5:9,gidmapping=3:4:5", "xattr_permissions=1", "squash_to_root"],
        ["squash_to_gid=9", "noacl,noxattrs,static_nlink,fsync=0,ino32_t,writeback=0"],
        ["xino=off,uuid=null,whiteouts=aufs"],
    ],
)
def test_printed_options_parse_to_the_same(texts: list[str]) -> None:
    given = parse(*texts)
    assert parse(*given.words()) == given


@pytest.mark.parametrize("user", [0, 1000])
def test_allow_other_is_printed_where_it_is_no_default(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    given = parse("allow_other")
    assert given.fuse.allow_other
    assert ("allow_other" in given.words()) == (user != 0)
    assert parse(*given.words()) == given
    assert parse().words() == []


def test_a_redirect_dir_by_name_copies_no_directories() -> None:
    assert parse("userxattr").config.rename_copy_bytes == 1 << 30
    assert parse("whiteouts=aufs").config.rename_copy_bytes == 1 << 30
    for word in ("off", "follow", "nofollow"):
        assert parse(f"redirect_dir={word}").config.rename_copy_bytes == 0
        assert parse(f"userxattr,redirect_dir={word}").config.rename_copy_bytes == 0
        assert parse(f"rename_copy_bytes=7,redirect_dir={word}").config.rename_copy_bytes == 7


def test_userxattr_writes_and_follows_no_redirects_unless_asked_to() -> None:
    assert parse("userxattr").config.redirect_dir == "nofollow"
    assert mount_options.parse(["/l", "/u", "/w", "/m"], privileged=False).config.redirect_dir == "nofollow"
    assert parse("userxattr", "redirect_dir=on").config.redirect_dir == "on"
    with pytest.raises(OptionError, match="metacopy=on conflicts with userxattr"):
        parse("userxattr", "metacopy=on")


def test_every_option_is_written_by_its_name_and_has_a_help_text() -> None:
    for name, option in OPTIONS.items():
        assert option.name == name
        assert option.syntax.partition("=")[0].removesuffix("[") == name
        assert option.help
    assert {option.group for option in OPTIONS.values()} == set(GROUPS)


@pytest.mark.parametrize("text", ["dev", "suid"])
def test_an_ordinary_user_is_told_that_dev_and_suid_are_roots(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(OptionError, match="permitted for root only"):
        parse(text)
