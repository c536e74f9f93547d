"""Commands that change the store are killed at random moments: it stays whole, and the next one goes on.

`make crash-images` goes on from here with hundreds of kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.crash.store_rig import store_rig
from tests.support.mounts import needs_fuse, needs_root


@needs_root
@needs_fuse
@pytest.mark.parametrize(("seed", "kills"), [(1, 4), (2, 40)])
def test_the_store_stays_whole(tmp_path: Path, seed: int, kills: int) -> None:
    with store_rig(tmp_path, seed) as rig:
        while rig.kills < kills:
            rig.round()
        rig.finish()
    assert rig.problems == []
