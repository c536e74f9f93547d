"""Taking a mount away at the end of its daemon, whose number may be another mount's by then."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from tests.mount.rig import eventually, gone, mount, run
from tests.support.mounts import mount_types, needs_fuse, needs_root, umount
from tests.support.transports import one_transport
from unionfs.linux.mount import mount_at
from unionfs.transport.detach import detach
from unionfs.transport.mount import FuseMountOptions, open_fuse

pytestmark = [needs_root, needs_fuse]


def test_what_is_served_is_left_alone(base: Path) -> None:
    pid = mount(base)
    entry = mount_at(str(base / "merged"))
    assert entry is not None
    detach(entry.device, only_dead=True)
    assert (base / "merged/file").read_text() == "lower\n"
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: gone(pid))
    detach(entry.device, only_dead=True)
    assert mount_types(base / "merged") == []


@one_transport
def test_a_number_that_is_anothers_by_now(base: Path) -> None:
    """The kernel gives numbers again at once: a daemon that ends must not take the next one's mount away."""
    (base / "ended").mkdir()
    (base / "alive").mkdir()
    ended = open_fuse(str(base / "ended"), FuseMountOptions())
    alive = open_fuse(str(base / "alive"), FuseMountOptions())
    umount(base / "ended")
    mount(base)
    entry = mount_at(str(base / "merged"))
    assert entry is not None
    try:
        replace(ended, device=entry.device).detach()
        assert (base / "merged/file").read_text() == "lower\n"
        alive.detach()
        assert mount_types(base / "alive") == []
    finally:
        os.close(ended.fd)
        os.close(alive.fd)
        run("umount", base / "merged")
