"""What fusermount3 complains of comes with what to do about it; a script stands in for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unionfs.errors import MountError
from unionfs.transport import fusermount


def test_a_user_without_a_name_is_told_what_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "fusermount3"
    program.write_text("#!/bin/sh\necho 'fusermount3: could not determine username' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MountError) as raised:
        fusermount.mount("/m", [])
    assert str(raised.value) == (
        "cannot mount /m: fusermount3 says: could not determine username;"
        f" user {os.getuid()} needs a line in /etc/passwd"
    )
