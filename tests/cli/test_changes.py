"""`pyunionfs changes`: what is printed, for people and for programs, and what is refused."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_terminal import in_terminal
from tests.overlay.conftest import _process_as_it_was  # noqa: F401  (for all tests here)
from tests.overlay.rig import Stack
from tests.overlay.trees import USER, WHITEOUT, Tree, build, directory, file
from tests.support.mounts import mounted, needs_overlayfs, needs_root, overlayfs, scratch
from unionfs.cli import main

pytestmark = needs_root

LOWER: Tree = {
    "etc": {"passwd": "x" * 100, "motd": "m", "same": "s"},
    "old": {"f": "12345"},
    "big": file(size=3 << 20),
}
UPPER: Tree = {
    "etc": directory(
        {"passwd": file("y" * 3000, origin=""), "motd": WHITEOUT, "same": file("s", origin=""), "new": "n"},
        origin="",
    ),
    "etc-x": "",
    "moved": directory({}, redirect="old", origin=""),
    "old": WHITEOUT,
    "big": file(size=3 << 20, mode=0o600, metacopy="", origin=""),
}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with scratch(tmp_path) as where:
        yield Stack(where).layers(LOWER, upper=UPPER)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `pyunionfs changes`: exit status, output, errors."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        status = main(["changes", *map(str, words)])
        return status, *capsys.readouterr()

    return run


Say = Callable[..., tuple[int, str, str]]


def test_lines(stack: Stack, say: Say) -> None:
    status, out, err = say(stack.upper, "--lowers", stack.lowers[0])
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "C /big",
        "C /etc",
        "A /etc-x",  # sorted by path, whatever lies below what
        "D /etc/motd",
        "A /etc/new",
        "C /etc/passwd",
        "A /moved",
        "A /moved/f",
        "D /old",
    ]


def test_upper_alone(stack: Stack, say: Say) -> None:
    """Nothing else is looked at: there is nothing else."""
    stack.lowers[0].rename(stack.base / "away")
    status, out, err = say(stack.upper)
    assert (status, err) == (0, "")
    lines = ["C /big", "C /etc", "A /etc-x", "D /etc/motd", "A /etc/new", "C /etc/passwd", "C /etc/same"]
    assert out.splitlines() == [*lines, "A /moved", "D /old"]


def test_a_directory_that_shows_no_sign_of_a_union_is_remarked(say: Say, tmp_path: Path) -> None:
    remark = (
        f"pyunionfs: {tmp_path} is not a mountpoint: taken for an upper layer, in which nothing has an"
        " overlay xattr or a whiteout\n"
    )
    assert say(tmp_path) == (0, "", remark)
    (tmp_path / "new").touch()
    assert say(tmp_path) == (0, "A /new\n", remark)
    os.mknod(tmp_path / "gone", 0o20000, 0)
    assert say(tmp_path) == (0, "D /gone\nA /new\n", "")


def test_relative_paths(stack: Stack, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stack.base)
    by_name = say("--lowers", f"../{stack.base.name}/lower0", "./upper/")
    assert by_name == say("--lowers", stack.lowers[0], stack.upper)
    assert by_name[0] == 0


def test_stat(stack: Stack, say: Say) -> None:
    status, out, err = say("--stat", "--lowers", stack.lowers[0], stack.upper)
    assert (status, err) == (0, "")
    *lines, totals = out.splitlines()
    assert lines == [
        "C    3.0 MiB /big",
        "C            /etc",
        "A        0 B /etc-x",
        "D            /etc/motd",
        "A        1 B /etc/new",
        "C    2.9 KiB /etc/passwd",
        "A            /moved",
        "A        5 B /moved/f",
        "D            /old",
    ]
    # A metacopy is as long as it is, but upper holds no data of it.
    disk = json.loads(say("--json", "--lowers", stack.lowers[0], stack.upper)[1])["totals"]["disk"]
    assert disk < 1 << 20
    assert totals.startswith("4 added (6 B), 3 changed (3.0 MiB), 2 deleted; ")
    assert totals.endswith(" in upper")


def test_json(stack: Stack, say: Say) -> None:
    status, out, err = say("--json", "--lowers", stack.lowers[0], stack.upper)
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert {key: value for key, value in document.items() if key not in ("changes", "totals")} == {
        "merged": None,
        "upper": str(stack.upper),
        "lowers": [str(stack.lowers[0])],
        "data_lowers": [],
        "userxattr": False,
        "problems": [],
    }
    listed = {change.pop("path"): change for change in document["changes"]}
    assert list(listed) == sorted(listed)
    disk = {path: change.pop("disk") for path, change in listed.items() if change["kind"] != "D"}
    assert listed == {
        "/big": {
            "kind": "C",
            "type": "file",
            "size": 3 << 20,
            "old_size": 3 << 20,
            "data": False,
            "differs": ["mode"],
        },
        "/etc": {"kind": "C", "type": "directory", "differs": []},
        "/etc-x": {"kind": "A", "type": "file", "size": 0, "data": True},
        "/etc/motd": {"kind": "D", "type": "file", "old_size": 1},
        "/etc/new": {"kind": "A", "type": "file", "size": 1, "data": True},
        "/etc/passwd": {
            "kind": "C",
            "type": "file",
            "size": 3000,
            "old_size": 100,
            "data": True,
            "differs": ["size"],
        },
        "/moved": {"kind": "A", "type": "directory", "from": "/old"},
        "/moved/f": {"kind": "A", "type": "file", "size": 5, "data": False, "from": "/old/f"},
        "/old": {"kind": "D", "type": "directory"},
    }
    assert disk["/etc/passwd"] == (stack.upper / "etc/passwd").stat().st_blocks * 512
    assert disk["/moved/f"] == 0
    assert document["totals"] == {
        "added": 4,
        "added_size": 6,
        "changed": 3,
        "changed_size": (3 << 20) + 3000,
        "deleted": 2,
        "disk": sum(disk.values()),
    }


def test_json_of_upper_alone(stack: Stack, say: Say) -> None:
    document = json.loads(say("--json", stack.upper)[1])
    assert document["lowers"] is None
    listed = {change["path"]: change for change in document["changes"]}
    assert all("differs" not in change and "old_size" not in change for change in listed.values())
    assert listed["/moved"]["from"] == "/old"
    assert listed["/old"] == {"kind": "D", "path": "/old"}


def test_any_name(stack: Stack, say: Say) -> None:
    evil = b"\x1b]0;owned\x07\n\x80"
    (stack.upper / os.fsdecode(evil)).write_text("")
    (stack.upper / "ü").write_text("")
    status, out, _ = say(stack.upper)
    assert status == 0
    assert all(line.isprintable() for line in out.splitlines())
    assert r"A /\x1b]0;owned\x07\n\udc80" in out.splitlines()
    assert "A /ü" in out.splitlines()
    changes: list[dict[str, Any]] = json.loads(say("--json", stack.upper)[1])["changes"]
    # As os.fsencode wants it, and for those who know nothing of that exactly.
    assert [os.fsencode(each["path"]) for each in changes if "path_base64" in each] == [b"/" + evil]
    assert [base64.b64decode(each["path_base64"]) for each in changes if "path_base64" in each] == [
        b"/" + evil
    ]
    assert "/ü" in [each["path"] for each in changes]


def test_what_cannot_be_read_is_said_and_the_rest_is_listed(stack: Stack, say: Say) -> None:
    os.setxattr(stack.upper / "moved", "trusted.overlay.redirect", b"a/b")
    for words in ([stack.upper], ["--lowers", stack.lowers[0], stack.upper]):
        status, out, err = say(*words)
        assert status == 1
        assert err.startswith("pyunionfs: cannot read /moved: malformed redirect; `pyunionfs check ")
        assert err.count("\n") == 1
        assert "A /etc/new" in out.splitlines()
        document = json.loads(say("--json", *words)[1])
        assert document["problems"] == [{"path": "/moved", "error": "malformed redirect"}]


def test_further_names_are_remarked(stack: Stack, say: Say) -> None:
    """With an index upper holds the name by which a file was changed, and not its others."""
    lower = stack.lowers[0]
    for name in ("a", "b"):
        os.link(lower / "old/f", lower / name)
    with stack.open(index=True, metacopy=True) as view:
        view.write("a", b"new")
        assert view.read("moved/f") == b"new45"
    status, out, err = say("--lowers", lower, stack.upper)
    assert status == 0
    assert "C /a" in out.splitlines()
    assert "C /b" not in out.splitlines()
    assert err == "pyunionfs: /a: 2 more hard links of this file have names that upper does not hold\n"
    document = json.loads(say("--json", "--lowers", lower, stack.upper)[1])
    assert [each["unlisted_links"] for each in document["changes"] if each["path"] == "/a"] == [2]


def test_user_marks(stack: Stack, say: Say, tmp_path: Path) -> None:
    upper = build(stack.base / "users", {"etc": directory({}, opaque="y")}, prefix=USER)
    expected = ["C /etc", "D /etc/motd", "D /etc/passwd", "D /etc/same"]
    for words in ([], ["--userxattr"]):
        assert say(*words, "--lowers", stack.lowers[0], upper)[1].splitlines() == expected
    assert json.loads(say("--json", upper)[1])["userxattr"] is True


def test_several_lowers(stack: Stack, say: Say) -> None:
    second = build(stack.base / "a:b", {"etc-x": "below", "gone": "g"})
    build(stack.upper, {"gone": WHITEOUT})
    escaped = str(second).replace(":", "\\:")
    lines = say("--lowers", f"{stack.lowers[0]}:{escaped}", stack.upper)[1].splitlines()
    assert {"C /etc-x", "D /gone"} <= set(lines)


def test_data_only_lowers(stack: Stack, say: Say) -> None:
    data = build(stack.base / "data", {"d": "123"})
    lower = build(stack.base / "top", {"f": file(size=3, metacopy="", redirect="/d")})
    bottom = build(stack.base / "bottom", {})
    upper = build(stack.base / "changed", {"f": file("123", origin="")})
    words = ["--lowers", f"{lower}:{bottom}::{data}", upper]
    assert say(*words) == (0, "", "")
    (upper / "f").write_text("124")
    os.utime(upper / "f", ns=((lower / "f").stat().st_atime_ns, (lower / "f").stat().st_mtime_ns))
    assert say(*words) == (0, "C /f\n", "")
    assert json.loads(say("--json", *words)[1])["data_lowers"] == [str(data)]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "UPPER|MERGED"),
        (["a", "b"], 2, "unrecognized arguments: b"),
        (["{base}/none"], 1, "upper {base}/none does not exist"),
        (["{base}/upper/etc-x"], 1, "upper {base}/upper/etc-x is not a directory"),
        (["--lowers", "{base}/none", "{base}/upper"], 1, "lower {base}/none does not exist"),
        (["--lowers", "", "{base}/upper"], 2, "empty entry"),
    ],
)
def test_refusals(stack: Stack, say: Say, words: list[str], status: int, says: str) -> None:
    code, out, err = say(*(word.format(base=stack.base) for word in words))
    assert (code, out) == (status, "")
    assert err.startswith("pyunionfs: ")
    assert err.count("\n") == 1
    assert says.format(base=stack.base) in err


@needs_overlayfs
def test_a_mount_of_kernel_overlayfs(stack: Stack, say: Say) -> None:
    lower = stack.base / "a:b,c"
    lower.mkdir()
    build(lower, {"f": "f", "g": "g"})
    options = ["redirect_dir=on", "metacopy=on"]
    with overlayfs([stack.lowers[0], lower], stack.upper, stack.work, stack.merged, options=options):
        (stack.merged / "f").unlink()
        by_mount = say(stack.merged)
        assert by_mount[0] == 0
        assert "D /f" in by_mount[1].splitlines()
        assert "A /moved/f" in by_mount[1].splitlines()
        document = json.loads(say("--json", stack.merged)[1])
        assert document["merged"] == str(stack.merged)
        assert document["lowers"] == [str(stack.lowers[0]), str(lower)]
        status, _, err = say("--lowers", lower, stack.merged)
        assert status == 2
        assert "leave --lowers out" in err
        status, out, err = say(stack.merged / "etc")
        assert (status, out) == (1, "")
        assert f"is inside the union mounted at {stack.merged}: give that" in err
    escaped = str(lower).replace(":", "\\:")
    assert say("--lowers", f"{stack.lowers[0]}:{escaped}", stack.upper) == by_mount


@needs_overlayfs
def test_a_mount_without_an_upper(stack: Stack, say: Say) -> None:
    other = build(stack.base / "other", {})
    with overlayfs([stack.lowers[0], other], None, None, stack.merged):
        status, out, err = say(stack.merged)
    assert (status, out) == (1, "")
    assert f"{stack.merged} is mounted without an upper layer" in err


def test_an_upper_that_is_a_mountpoint(stack: Stack, say: Say) -> None:
    """Of a filesystem of its own, as containers have it."""
    where = stack.base / "own"
    where.mkdir()
    with mounted("tmpfs", where):
        build(where, {"new": "n"})
        assert say(where)[1] == "A /new\n"


def test_colours_on_a_terminal(stack: Stack) -> None:
    program = "import sys; from unionfs.cli import main; sys.exit(main(['changes', *sys.argv[1:]]))"
    coloured, _ = in_terminal(program, str(stack.upper))
    assert "\x1b[32mA\x1b[0m /etc/new" in coloured
    assert "\x1b[31mD\x1b[0m /old" in coloured
    plain, _ = in_terminal(program, str(stack.upper), environment={"NO_COLOR": "1"})
    assert "\x1b" not in plain
    assert "A /etc/new" in plain.split("\r\n")


def test_an_ordinary_user_is_told_what_he_may_not_see(say: Say) -> None:
    with scratch() as where:
        for path in (where, *where.parents):
            if path.name.startswith("pyunionfs-"):
                path.chmod(0o755)
        upper = where / "upper"
        build(upper, {"d": directory({"x": "x"}), "closed": directory({"y": "y"}, mode=0o700)}, prefix=USER)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            result = say(upper)
            os.write(write, json.dumps(result).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        with open(read, "rb") as answer:
            status, out, err = json.loads(answer.read())
    assert status == 1
    assert out.splitlines() == ["A /closed", "A /d", "A /d/x"]
    reason = "Permission denied; run this as root, or as the owner of the layer"
    assert err == f"pyunionfs: cannot read /closed: {reason}\n"
