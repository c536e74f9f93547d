"""What changes of data and owner take away: setuid, setgid and capabilities, as Linux does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.overlay.rig import ROOT, USER, Stack
from tests.overlay.test_copy_up import ACCESS, CAPABILITY
from tests.overlay.trees import TIME_NS, file, symlink
from unionfs.overlay.cred import CAP_FSETID, CAP_SYS_ADMIN, Caller

CAP = "security.capability"
MODES = {
    # before, after a change by somebody without CAP_FSETID
    0o4755: 0o755,
    0o2755: 0o755,
    0o6755: 0o755,
    0o2745: 0o745,  # without group execute it stays for members of the group only
    0o6711: 0o711,
    0o4600: 0o600,
    0o1644: 0o1644,
    0o644: 0o644,
}


@pytest.mark.parametrize("place", ["lower", "upper"])
@pytest.mark.parametrize("how", ["write", "truncate", "truncate by handle", "open with O_TRUNC"])
@pytest.mark.parametrize("before", MODES, ids=oct)
def test_change_of_data(stack: Stack, before: int, how: str, place: str) -> None:
    tree = {"f": file("data", mode=before, xattrs={CAP: CAPABILITY})}
    stack.layers(tree if place == "lower" else {"pad": ""}, upper=tree if place == "upper" else {})
    with stack.open() as view:
        if how == "write":
            view.write("f", b"D", caller=USER)
        elif how == "truncate":
            view.change("f", size=2, caller=USER)
        elif how == "truncate by handle":
            with view.opened("f", os.O_WRONLY, USER) as handle:
                assert stat.S_IMODE(view.stat("f").st_mode) == before, "an open for writing changes nothing"
                view.change("f", size=2, caller=USER, handle=handle)
        else:
            with view.opened("f", os.O_WRONLY | os.O_TRUNC, USER):
                pass
        assert stat.S_IMODE(view.stat("f").st_mode) == MODES[before]
        if how != "open with O_TRUNC" or place == "upper":
            with pytest.raises(OSError) as failure:
                view.getxattr("f", CAP)
            assert failure.value.errno == errno.ENODATA
    assert stat.S_IMODE((stack.upper / "f").stat().st_mode) == MODES[before]


@pytest.mark.parametrize("how", ["truncate to nothing", "open with O_TRUNC"])
def test_truncating_copy_up_drops_the_capability(stack: Stack, how: str) -> None:
    """The upper file is empty when it is made; the lower's capability must not survive on it."""
    stack.layers({"f": file("data", xattrs={CAP: CAPABILITY}), "empty": file("", xattrs={CAP: CAPABILITY})})
    plain = stack.base / "plain"
    plain.write_text("")
    os.setxattr(plain, CAP, CAPABILITY)
    os.close(os.open(plain, os.O_WRONLY | os.O_TRUNC))
    survives = CAP in os.listxattr(plain)
    with stack.open() as view:
        for name in ("f", "empty"):
            if how == "truncate to nothing":
                view.change(name, size=0)
            else:
                view.union.release(view.open(name, os.O_WRONLY | os.O_TRUNC))
        assert (CAP in view.listxattr("empty")) == survives
        assert CAP not in view.listxattr("f")


@pytest.mark.parametrize("before", MODES, ids=oct)
def test_the_privileged_keep_set_ids(stack: Stack, before: int) -> None:
    stack.layers({"f": file("data", mode=before)})
    with stack.open() as view:
        view.write("f", b"D", caller=ROOT)
        view.change("f", size=2, caller=ROOT)
        assert stat.S_IMODE(view.stat("f").st_mode) == before


def test_setgid_without_group_execute_stays_for_members(stack: Stack) -> None:
    stack.layers({"f": file("data", mode=0o2745, owner=(0, USER.gid))})
    with stack.open() as view:
        view.write("f", b"D", caller=USER)
        assert stat.S_IMODE(view.stat("f").st_mode) == 0o2745


@pytest.mark.parametrize("before", MODES, ids=oct)
def test_chown(stack: Stack, before: int) -> None:
    """As chown(2) by root does on the filesystem itself."""
    stack.layers({"f": file("data", mode=before, xattrs={CAP: CAPABILITY})})
    plain = stack.base / "plain"
    plain.write_text("")
    plain.chmod(before)
    os.setxattr(plain, CAP, CAPABILITY)
    os.chown(plain, 1000, 1001)
    with stack.open() as view:
        st = view.change("f", uid=1000, gid=1001, caller=ROOT)
        assert (st.st_uid, st.st_gid) == (1000, 1001)
        assert stat.S_IMODE(st.st_mode) == stat.S_IMODE(plain.stat().st_mode)
        assert view.listxattr("f") == []


@pytest.mark.parametrize("who, owner, answer", [(ROOT, 0, 0o711), (USER, 1000, 0o711), (USER, 0, None)])
def test_chown_that_leaves_both_ids(stack: Stack, who: Caller, owner: int, answer: int | None) -> None:
    """chown(path, -1, -1): set-id bits go even where root asks, and then for root and the owner only."""
    stack.layers({"f": file("data", mode=0o6711, owner=(owner, 0)), "plain": file("data", mode=0o711)})
    with stack.open() as view:
        assert stat.S_IMODE(view.change("plain", caller=who).st_mode) == 0o711
        if answer is None:
            with pytest.raises(PermissionError):
                view.change("f", caller=who)
            assert os.listdir(stack.upper) == ["plain"]
        else:
            assert stat.S_IMODE(view.change("f", caller=who).st_mode) == answer
            assert sorted(os.listdir(stack.upper)) == ["f", "plain"]


def test_chown_and_mode_in_one_request(stack: Stack) -> None:
    """The kernel sends both when it wants the mode after the chown: the mode wins."""
    stack.layers({"f": file("data", mode=0o4755)})
    with stack.open() as view:
        assert stat.S_IMODE(view.change("f", uid=5, mode=0o4711).st_mode) == 0o4711


def test_setgid_and_acl(stack: Stack) -> None:
    """Setting an access ACL takes setgid from whoever is not in the group (posix_acl_update_mode())."""
    stack.layers(
        {"f": file("data", mode=0o2755, owner=(1000, 555)), "g": file("", mode=0o2755, owner=(1000, 1000))}
    )
    with stack.open() as view:
        view.setxattr("f", "system.posix_acl_access", ACCESS, caller=USER)
        assert not view.stat("f").st_mode & stat.S_ISGID
        view.setxattr("g", "system.posix_acl_access", ACCESS, caller=USER)
        assert view.stat("g").st_mode & stat.S_ISGID


def test_times(stack: Stack) -> None:
    stack.layers({"f": "data", "l": symlink("f"), "d": {}})
    with stack.open() as view:
        for path in ("f", "l", "d"):
            st = view.change(path, atime_ns=1_234_567_891_234_567_891, mtime_ns=987_654_321)
            assert (st.st_atime_ns, st.st_mtime_ns) == (1_234_567_891_234_567_891, 987_654_321)
            st = view.change(path, mtime_ns=5)
            assert (st.st_atime_ns, st.st_mtime_ns) == (1_234_567_891_234_567_891, 5)
            st = view.change(path, atime_ns=TIME_NS)
            assert (st.st_atime_ns, st.st_mtime_ns) == (TIME_NS, 5)
        st = view.change("f", mtime_ns=-5_000_000_001)
        assert st.st_mtime_ns == -5_000_000_001
    assert (stack.upper / "l").lstat().st_mtime_ns == 5


def test_chmod_of_a_symlink(stack: Stack) -> None:
    stack.layers({"l": symlink("f"), "f": "f"})
    with stack.open() as view:
        with pytest.raises(OSError) as failure:
            view.chmod("l", 0o600)
        assert failure.value.errno == errno.EOPNOTSUPP
        assert view.stat("f").st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("size", "wanted"), [(0, b""), (3, b"dat"), (4, b"data"), (6, b"data\0\0")])
@pytest.mark.parametrize("place", ["lower", "upper"])
def test_truncate(stack: Stack, size: int, wanted: bytes, place: str) -> None:
    tree = {"f": "data"}
    stack.layers(tree if place == "lower" else {"pad": ""}, upper=tree if place == "upper" else {})
    with stack.open() as view:
        assert view.change("f", size=size).st_size == size
        assert view.read("f") == wanted
    assert (stack.upper / "f").read_bytes() == wanted


def test_callers_are_told_apart_by_proc(stack: Stack) -> None:
    me = os.getpid()
    assert Caller(0, 0, me, 0).has_capability(CAP_SYS_ADMIN)
    assert Caller(1000, 1000, me, 0).has_capability(CAP_FSETID), "capabilities decide, not the uid"
    assert not Caller(1000, 1000, 0, 0).has_capability(CAP_FSETID)
    assert Caller(0, 0, 0, 0).has_capability(CAP_FSETID)
    assert Caller(5, 6, 0, 0).in_group(6)
    assert not Caller(5, 6, 0, 0).in_group(7)
    groups = os.getgroups()
    assert all(Caller(5, 6, me, 0).in_group(group) for group in groups)
    assert Path("/proc/0").exists() is False
