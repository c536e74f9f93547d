"""fuse-overlayfs's command line without a mount: what its words ask for, and what is said of wrong ones."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from unionfs.cli import fuse_overlayfs, main
from unionfs.options.mount_options import MountOptions
from unionfs.options.table import OPTIONS

LAYERS = "lowerdir=a:b,upperdir=up,workdir=wk"

OPTIONS_THERE = [
    "lowerdir=a",
    "upperdir=up",
    "workdir=wk",
    "uidmapping=0:1000:1",
    "gidmapping=0:1000:1",
    "squash_to_root",
    "squash_to_uid=5",
    "squash_to_gid=6",
    "xattr_permissions=0",
    "xattr_permissions=1",
    "xattr_permissions=2",
    "static_nlink",
    "noacl",
    "fsync=0",
    "fsync=1",
    "volatile",
    "timeout=3.5",
    "threaded=0",
    "threaded=1",
    "writeback=0",
    "writeback=1",
    "fast_ino=0",
    "fast_ino=1",
    "ino32_t=1",
    "xino=on",
    "redirect_dir=off",
    "context=a_t",
    "noxattrs=0",
    "noxattrs=1",
    "allow_other",
    "default_permissions",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "ro",
    "rw",
    "atime",
    "noatime",
]
"""What issue trackers and the sources of its callers say they give to fuse-overlayfs."""

LIBFUSE = (
    "max_idle_threads=10,clone_fd,max_threads=4,kernel_cache,splice_read,max_write=131072,auto_unmount,debug"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[MountOptions]:
    """What reaches the daemon; the caller's directory is one with layers."""
    for name in ("a", "b", "up", "wk", "target"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", raising=False)
    found: list[MountOptions] = []

    def mount(given: MountOptions) -> int:
        found.append(given)
        return 0

    monkeypatch.setattr("unionfs.daemon.lifecycle.mount", mount)
    return found


def one(asked: list[MountOptions], *words: str) -> MountOptions:
    assert main(list(words)) == 0
    (given,) = asked
    asked.clear()
    return given


@pytest.mark.parametrize(
    "words",
    [
        ["-o", LAYERS, "target"],
        ["target", "-o", LAYERS],
        ["overlay", "target", "-o", LAYERS],
        [f"-o{LAYERS}", "overlay", "target"],
        ["-o", "lowerdir=a:b", "target", "-oupperdir=up", "-o", "workdir=wk"],
        ["-o", f",,{LAYERS},,", "target"],
        ["-s", "-o", LAYERS, "--", "target"],
    ],
)
def test_layers_and_the_target(words: list[str], asked: list[MountOptions], tmp_path: Path) -> None:
    given = one(asked, *words)
    assert given.config.lowers == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert (given.config.upper, given.config.work) == (str(tmp_path / "up"), str(tmp_path / "wk"))
    assert given.mountpoint == str(tmp_path / "target")
    assert not given.foreground
    assert given.fuse.fsname == ("overlay" if "overlay" in words else "pyunionfs")


def test_without_an_upper_it_is_read_only(asked: list[MountOptions]) -> None:
    given = one(asked, "-o", "lowerdir=a:b", "target")
    assert given.config.upper is None
    assert given.fuse.read_only


def test_commas_and_colons_in_names(asked: list[MountOptions], tmp_path: Path) -> None:
    for name in ("x,y", "p:q"):
        (tmp_path / name).mkdir()
    quoted = one(asked, "-o", 'lowerdir="x,y:a",ro', "target")
    escaped = one(asked, "-o", "lowerdir=x\\,y:p\\:q", "target")
    assert quoted.config.lowers == (str(tmp_path / "x,y"), str(tmp_path / "a"))
    assert escaped.config.lowers == (str(tmp_path / "x,y"), str(tmp_path / "p:q"))
    source = one(asked, 'my "so,urce\\', "target", "-o", "lowerdir=a")
    assert source.fuse.fsname == 'my "so,urce\\'


def test_a_lower_may_be_a_symlink(asked: list[MountOptions], tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to("b")
    assert one(asked, "-o", "lowerdir=l", "target").config.lowers == (str(tmp_path / "b"),)


def test_foreground_and_debug(asked: list[MountOptions]) -> None:
    plain = one(asked, "-f", "-o", LAYERS, "target")
    assert (plain.foreground, plain.debug) == (True, False)
    for words in (["-d"], ["--debug"], ["-o", "debug"]):
        debug = one(asked, "-o", LAYERS, "target", *words)
        assert (debug.foreground, debug.debug) == (True, True)


@pytest.mark.parametrize("word", OPTIONS_THERE)
def test_every_option_there_is_understood(
    word: str, asked: list[MountOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0 and word in ("suid", "dev"):
        pytest.skip("the kernel allows it to root only")
    assert word.partition("=")[0] in OPTIONS
    one(asked, "-o", LAYERS, "-o", word, "target")
    assert capsys.readouterr().err == ""


def test_what_libfuse_takes_is_accepted(
    asked: list[MountOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    given = one(asked, "-s", "-o", LAYERS, "-o", LIBFUSE, "target")
    assert given.fuse.auto_unmount
    assert capsys.readouterr().err == ""


def test_an_unknown_option_is_ignored_with_a_warning(
    asked: list[MountOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    given = one(asked, "-x", "-o", LAYERS, "-o", "metacopy=on,index=on,frob\x1b=1,x-y", "target")
    assert not given.config.metacopy
    assert not given.config.index
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("'")[1] for line in lines] == ["-x", "metacopy=on", "index=on", "frob\\x1b", "x-y"]
    assert all(line.startswith("pyunionfs: ") and "ignored" in line for line in lines)


def test_defaults_are_those_of_fuse_overlayfs(asked: list[MountOptions]) -> None:
    given = one(asked, "-o", LAYERS, "target")
    assert given.config.redirect_dir == ("nofollow" if given.config.userxattr else "off")
    assert given.fuse.access_times == "noatime"
    assert given.fuse.nodev
    assert not given.fuse.nosuid
    assert given.fuse.allow_other == (os.geteuid() == 0)
    assert given.config.whiteouts == "auto"
    assert given.config.any_work
    assert given.config.foreign_marks
    assert given.lock_patience > 20
    other = one(asked, "-o", LAYERS, "-o", "redirect_dir=on,atime", "target")
    assert (other.config.redirect_dir, other.config.whiteouts) == ("on", "overlay")
    assert other.fuse.access_times == ""


def test_mount_itself_has_other_defaults(asked: list[MountOptions]) -> None:
    given = one(asked, "mount", "-o", LAYERS, "target")
    assert not given.config.any_work
    assert not given.config.foreign_marks
    assert given.lock_patience < 20
    assert not given.fuse.nodev


def test_the_environment_asks_for_aufs_whiteouts(
    asked: list[MountOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    # getenv(3) is all that is asked there: it may be empty.
    monkeypatch.setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "")
    assert one(asked, "-o", LAYERS, "target").config.whiteouts == "aufs"
    assert one(asked, "mount", "-o", LAYERS, "target").config.whiteouts == "overlay"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", LAYERS], "missing TARGET"),
        (["-f"], "missing TARGET"),
        (["-f", "target"], "missing mount option lowerdir"),
        (["./target", "-o", "upperdir=up"], "missing mount option lowerdir"),
        (["target", "-o", "lowerdir"], "lowerdir needs a value"),
        (["target", "-o", "lowerdir=a", "-o"], "option -o needs a value"),
        (["target", "-o", "lowerdir=a,upperdir=up"], "upperdir requires workdir"),
        (["target", "-o", "lowerdir=a,xattr_permissions=3"], "'3' of mount option xattr_permissions"),
        (["target", "-o", "lowerdir=a,uidmapping=0:1"], "'0:1' of mount option uidmapping"),
        (["target", "-o", 'lowerdir="a'], "unterminated quotation mark"),
        (["target", "-o", "lowerdir=no\nwhere"], "does not exist"),
    ],
)
def test_refusals_are_one_line_and_status_1(
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "up", "target"):
        (tmp_path / name).mkdir()
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyunionfs: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("words", [["mont", "a", "m"], ["-x"], ["--hlep"], ["a", "-o", "ro", "m"]])
def test_what_is_neither_a_command_nor_this_form(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert f"unknown command {words[0]!r}" in capsys.readouterr().err


def test_under_the_name_fuse_overlayfs_no_word_is_a_command(
    asked: list[MountOptions],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/bin/fuse-overlayfs"])
    (tmp_path / "status").mkdir()
    assert one(asked, "status", "-o", LAYERS).mountpoint == str(tmp_path / "status")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pyunionfs ")
    assert main(["--help"]) == 0
    assert "SOURCE" in capsys.readouterr().out
    assert main([]) == 1
    assert "missing TARGET" in capsys.readouterr().err


def test_its_help(asked: list[MountOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = fuse_overlayfs.parser()
    lines = parser.format_help().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("usage: pyunionfs [-f] [-d] [SOURCE] TARGET -o lowerdir=")
    assert all(any(name in line for line in lines) for name in OPTIONS)
    for name in ("site", "base", "upper", "work", "merged"):
        Path(name).mkdir()
    for line, _ in parser.examples:
        assert one(asked, *shlex.split(line)[1:]).mountpoint == str(Path("merged").absolute())


def test_what_only_mount_takes_is_told_and_ignored(
    asked: list[MountOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-o", f"{LAYERS},index=on,blue", "target"]) == 0
    assert not asked[0].config.index
    err = capsys.readouterr().err
    assert "'index=on': ignored, as by fuse-overlayfs; use `pyunionfs mount` for it\n" in err
    assert "'blue': unknown option or value, ignored\n" in err


def test_three_words_are_refused(asked: list[MountOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", LAYERS, "a", "b", "target"]) == 1
    assert (
        "three arguments were given (a, b, target): give SOURCE and TARGET, or TARGET"
        in capsys.readouterr().err
    )
    assert asked == []


IGNORED_THERE = [
    *(
        f"{flag}={value}"
        for flag in ("sync", "dirsync", "async", "ro", "rw")
        for value in ("0", "1", "yes", "")
    ),
    *(f"{flag}=1" for flag in ("noatime", "atime", "nodiratime", "relatime", "strictatime", "lazytime")),
    *(f"{flag}=0" for flag in ("dev", "nodev", "suid", "nosuid", "exec", "noexec", "nosymfollow")),
    *("allow_other=1", "default_permissions=1", "auto_unmount=0", "static_nlink=1", "noacl=0", "volatile=0"),
    *(
        "squash_to_root=0",
        "squash_to_uid",
        "xattr_permissions",
        "ino32_t=x",
        "userxattr=1",
        "xino=x",
        "uuid=x",
    ),
    *("fsname", "subtype", "max_read=5", "max_read=x", "timeout=x", "timeout=", "context", "redirect_dir"),
]
"""fuse-overlayfs 1.10 mounts with each of these, most often with "unknown argument ignored"."""


@pytest.mark.parametrize("word", IGNORED_THERE)
def test_what_is_ignored_there_stops_nothing_here(
    word: str, asked: list[MountOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = one(asked, "-o", LAYERS, "target")
    assert one(asked, "-o", LAYERS, "-o", word, "target") == plain
    assert f"'{word}': unknown option or value, ignored\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word",
    [
        "writeback=x",
        "fsync=",
        "threaded=x",
        "noxattrs=x",
        "squash_to_uid=x",
        "uidmapping=x",
        "redirect_dir=x",
    ],
)
def test_what_ends_it_there_ends_it_here(word: str, asked: list[MountOptions]) -> None:
    assert main(["-o", f"{LAYERS},{word}", "target"]) == 1
    for ours in ("transport", "rename_copy_bytes", "rename_copy_files"):
        assert main(["-o", f"{LAYERS},{ours}=x", "target"]) == 1, "nothing that its callers could mean"
    assert asked == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("p\\:q", ["p:q"]),
        ("p\\\\:q", ["p:q"]),
        ("p\\\\\\:q", ["p:q"]),
        ("a:p\\\\:q:b", ["a", "p:q", "b"]),
        ("s\\\\\\\\:a", ["s\\", "a"]),
        (":a:b", ["a", "b"]),
        ("a:b::", ["a", "b"]),
        ("a:z\\:", ["a", "z:"]),
    ],
)
def test_lowers_as_libfuse_hands_them_on(
    text: str, names: list[str], asked: list[MountOptions], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
    given = one(asked, "-o", f"lowerdir={text},upperdir=up,workdir=wk", "target")
    assert given.config.lowers == tuple(str(tmp_path / name) for name in names)
    assert given.config.data_lowers == ()
