"""mount(8)'s helpers without a mount: their exit status whatever goes wrong, and what they print."""

from __future__ import annotations

import pytest

from unionfs.cli import mount_helper, umount_helper
from unionfs.cli.helper import status_of
from unionfs.errors import MountError, OptionError, explain

NAME = "mount.fuse.pyunionfs"
NO_MEMORY = OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (OptionError("wrong\nword"), 1, f"{NAME}: wrong\\nword\n"),
        (NO_MEMORY, 2, f"{NAME}: {explain(NO_MEMORY)}\n"),
        (MountError("it cannot be"), 32, f"{NAME}: it cannot be\n"),
        (KeyboardInterrupt(), 8, ""),
    ],
)
def test_every_failure_has_its_status(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(program: str, words: list[str]) -> int:
        raise error

    assert status_of(run, NAME, []) == status
    assert capsys.readouterr().err == says


def test_a_bug_has_its_status_and_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def run(program: str, words: list[str]) -> int:
        return 1 // 0

    assert status_of(run, NAME, []) == 4
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("module", [mount_helper, umount_helper])
def test_help_and_version_under_the_name_it_was_called_by(
    module: object, capsys: pytest.CaptureFixture[str]
) -> None:
    run = module.run  # type: ignore[attr-defined]
    assert status_of(run, "mount.other", ["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: mount.other ")
    assert status_of(run, "mount.other", ["-V"]) == 0
    assert capsys.readouterr().out.startswith("mount.other 0.")


def test_a_complaint_names_the_helper_and_not_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(mount_helper.run, "mount.pyunionfs", ["a", "b", "-z"]) == 1
    assert capsys.readouterr().err == (
        "mount.pyunionfs: unrecognized arguments: -z; see `mount.pyunionfs --help`\n"
    )


def test_umount_needs_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(umount_helper.run, "umount.pyunionfs", ["-n"]) == 1
    assert "missing TARGET" in capsys.readouterr().err
