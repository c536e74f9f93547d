"""The supervisor, which forks root's daemons, does so for processes alone that may what it may itself.

And a command gives its environment and its files to no supervisor but its own user's.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.test_supervised import Place, socket_of
from tests.support.mounts import environment, needs_fuse, needs_root
from tests.support.transports import one_transport
from tests.support.users import in_thread_of
from unionfs.supervisor import message
from unionfs.supervisor.client import SocketPath

pytestmark = [needs_root, needs_fuse, one_transport]

EVE = 712345

CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.settimeout(30)
print(connection.recv(1).decode())
"""

LESS = {
    "nothing": [],
    "capabilities": ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
    "no_new_privs": ["setpriv", "--no-new-privs"],
    "mounts": ["unshare", "--mount", "--propagation=unchanged"],
    "processes": ["unshare", "--pid", "--fork"],
    "network": ["unshare", "--net"],
    "a user namespace": ["unshare", "--user", "--map-root-user"],
}
"""How a process of root's is started that lacks something, or is elsewhere."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("what", LESS)
def test_a_process_of_root_that_may_less_gets_no_worker(place: Place, what: str, transport: str) -> None:
    """What the request says of it would be its own word: it is not even read."""
    place.mount(place.union())
    words = [*LESS[what], sys.executable, "-c", CONNECT, socket_of(place)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = message.READY_TO_READ if what == "nothing" else message.DECLINED
    assert done.stdout.strip() == expected.decode()


def test_a_command_asks_no_supervisor_of_another_user(tmp_path: Path, transport: str) -> None:
    place = SocketPath(str(tmp_path))
    for user in (EVE, os.geteuid()):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / place.name))
            # The kernel notes whose process calls listen(2).
            in_thread_of(user, [], lambda: listener.listen(1))
            connection = place.connect()
            assert (connection is None) == (user == EVE)
            if connection is not None:
                connection.close()
        (tmp_path / place.name).unlink()
