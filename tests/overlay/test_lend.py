"""Modes that an ordinary user's daemon lends itself come back, whenever it is killed."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import command, environment, needs_root
from tests.support.users import as_user, open_home, ordinary_user
from unionfs.overlay.closed import open_union
from unionfs.overlay.config import UnionConfig

pytestmark = needs_root


def test_lent_modes_come_back_after_a_crash() -> None:
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        done = subprocess.run(
            as_user(user, "tests.overlay.lent_modes", home),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("by", ["mount", "check"])
def test_a_note_gives_back_only_what_was_lent(tmp_path: Path, by: str) -> None:
    """Root's mount and `check --repair` heed a user's notes; an object that is another one by now stays."""
    lower, upper, work = (tmp_path / name for name in ("lower", "upper", "work"))
    for path in (lower, upper / "deep/lent", upper / "other", upper / "changed", work / "work"):
        path.mkdir(parents=True)
    notes = {}
    for name, mode in (("deep/lent", 0o300), ("other", 0o700), ("changed", 0o755)):
        (upper / name).chmod(mode)
        notes[name] = f"0 {0o300 if name != 'other' else 0o700:o} {(upper / name).stat().st_ino}"
    notes["other"] = f"0 700 {(upper / 'other').stat().st_ino + 10_000_000}"
    for at, (name, said) in enumerate(notes.items()):
        os.symlink(f"{said} gone//{name}", work / f"work/#{at}~lent")
    os.symlink("nonsense", work / "work/#9~lent")
    if by == "mount":
        open_union(UnionConfig((str(lower),), upper=str(upper), work=str(work))).close()
    else:
        words = command("check", "--repair", *map(str, (lower, upper, work)))
        subprocess.run(words, env=environment(), check=True, capture_output=True)
    found = {name: stat.S_IMODE((upper / name).stat().st_mode) for name in notes}
    assert found == {"deep/lent": 0, "other": 0o700, "changed": 0o755}
    assert os.listdir(work / "work") == []
