"""Who has a lower file open sees what happens to it, without an option: data, checksums, locks, tail -f.

Beside kernel overlayfs, by every way that data takes, as root and as an ordinary user. What keeps the lower
file (programs, large files that are neither text nor a database) is here, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.mount.data_rig import Side, errno_of, in_child, side
from tests.mount.old_readers import (
    CHANGES,
    COHERENT,
    FOLLOWED,
    KEPT,
    LOCKS,
    ONE_SET,
    append,
    lock,
    outcomes_of_locks,
    populate,
    sees,
)
from tests.support.kernel_cache import forget_unused
from tests.support.mounts import command, environment, needs_fuse, needs_overlayfs, needs_root
from tests.support.transports import one_transport
from tests.support.users import as_user, open_home, ordinary_user

pytestmark = [needs_fuse, one_transport]


def populate_for_each_change(lower: Path, upper: Path) -> None:
    for change in CHANGES:
        (lower / change).mkdir()
        populate(lower / change, upper)


@needs_root
@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", *COHERENT])
def test_an_old_reader_reads_what_the_name_does(way: str) -> None:
    kept = KEPT if way == "default" else ()
    with side(way, populate_for_each_change) as mounted:
        for change in CHANGES:
            for name in (*FOLLOWED, *KEPT):
                if (name, change) != ("empty", "truncate"):
                    assert sees(mounted.merged / change / name, change) is (name not in kept), (change, name)


@needs_root
def test_with_passthrough_on_every_old_reader_keeps_the_lower_file() -> None:
    with side("passthrough", populate) as mounted:
        assert [name for name in (*FOLLOWED, *KEPT) if sees(mounted.merged / name, "append")] == []


@needs_root
@pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
@pytest.mark.parametrize("options", ["transport=direct", "transport=direct,writeback=0", "transport=pyfuse3"])
def test_an_ordinary_users_old_readers_and_lockers(options: str) -> None:
    with ordinary_user() as user, open_home(user.pw_uid) as home:
        words = as_user(user, "tests.mount.user_old_readers", home, options)
        done = subprocess.run(words, env=environment(), capture_output=True, text=True)
        assert done.stdout == "all done\n", done.stdout + done.stderr


# --- programs that found it ---------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("how", ["-f", "-F"])
@pytest.mark.parametrize("way", COHERENT)
def test_tail_shows_what_is_appended(way: str, how: str) -> None:
    def logs(lower: Path, upper: Path) -> None:
        (lower / "log").write_text("one\n")

    with side(way, logs) as mounted:
        log = mounted.merged / "log"
        with subprocess.Popen(
            ["tail", "-s", "0.1", how, log], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        ) as tail:
            assert tail.stdout is not None
            try:
                assert tail.stdout.readline() == b"one\n"
                append(log, b"two\n")
                # Waits until it comes: a run that stands still is ended by the suite's own limit.
                assert tail.stdout.readline() == b"two\n"
            finally:
                tail.kill()


@needs_root
@pytest.mark.parametrize("way", COHERENT)
def test_a_database_is_read_while_another_process_writes_it(way: str) -> None:
    """The old fault of yum and rpm: a connection from before the copy-up goes on with the lower file."""

    def insert(path: Path, name: str) -> None:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("insert into packages values (?, '')", (name,))
            connection.commit()

    with side(way, populate) as mounted:
        path = mounted.merged / "database"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            names = partial(reader.execute, "select name from packages order by rowid")
            assert names().fetchall() == [("first",)]
            assert in_child(partial(insert, path, "second")) == "ok"
            assert names().fetchall() == [("first",), ("second",)]
            # A reader's shared lock keeps the writer out, whenever it was opened.
            cursor = names()
            cursor.fetchone()
            assert "database is locked" in in_child(partial(insert, path, "third"))
            cursor.fetchall()
            assert in_child(partial(insert, path, "third")) == "ok"
            assert names().fetchall() == [("first",), ("second",), ("third",)]
            assert reader.execute("pragma integrity_check").fetchone() == ("ok",)


# --- locks --------------------------------------------------------------------------------------------


@needs_root
@needs_overlayfs
@pytest.mark.parametrize("way", ["overlayfs", *COHERENT])
def test_locks_from_before_and_after_a_copy_up_are_one_set(way: str) -> None:
    def for_each_kind(lower: Path, upper: Path) -> None:
        for kind in LOCKS:
            (lower / kind).mkdir()
            populate(lower / kind, upper)

    with side(way, for_each_kind) as mounted:
        for kind in LOCKS:
            for name in FOLLOWED:
                assert outcomes_of_locks(mounted.merged / kind / name, kind) == ONE_SET, (kind, name)


@needs_root
def test_flock_1_of_an_old_and_a_new_opener() -> None:
    for way in COHERENT:
        with side(way, populate) as mounted:
            path = mounted.merged / "small"
            with subprocess.Popen(["flock", "-s", path, "cat"], stdin=subprocess.PIPE) as holder:
                try:
                    while in_child(partial(lock, path, "flock", exclusive=True)) == "ok":
                        time.sleep(0.01)
                    append(path)
                    assert subprocess.run(["flock", "-xn", path, "true"], check=False).returncode == 1, way
                finally:
                    holder.communicate()
            assert subprocess.run(["flock", "-xn", path, "true"], check=False).returncode == 0, way


# --- what the kernel asks -----------------------------------------------------------------------------


def requests(mounted: Side) -> dict[str, int]:
    done = subprocess.run(
        command("status", "--json", str(mounted.merged)), capture_output=True, env=environment(), check=True
    )
    answer = json.loads(done.stdout)
    found: dict[str, int] = (answer[0] if isinstance(answer, list) else answer)["requests"]
    return found


@needs_root
def test_a_small_file_takes_no_read_and_no_getattr() -> None:
    def many(lower: Path, upper: Path) -> None:
        for number in range(50):
            (lower / str(number)).write_bytes(b"%d" % number)

    with side("default", many) as mounted:
        paths = [mounted.merged / str(number) for number in range(50)]
        wanted = {"OPEN": 150, "RELEASE": 150}
        # Other tests have the whole machine forget what it has cached, after which names are looked up.
        assert any(grown_by_reading(mounted, paths) == wanted for _ in range(20))


def grown_by_reading(mounted: Side, paths: Sequence[Path]) -> dict[str, int]:
    """The requests of three readings of each of these files, whose attributes are cached."""
    for path in paths:
        path.stat()
    before = requests(mounted)
    for _ in range(3):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            assert os.read(fd, 100) == path.name.encode()
            os.fstat(fd)
            os.close(fd)
            path.stat()
    grown = {name: count - before.get(name, 0) for name, count in requests(mounted).items()}
    return {name: count for name, count in grown.items() if count}


@needs_root
def test_readers_and_writers_while_the_kernel_forgets() -> None:
    """The content that goes with an OPEN meets reads, mappings, writes and truncations of the same files."""

    def many(lower: Path, upper: Path) -> None:
        for number in range(40):
            (lower / str(number)).write_bytes(b"%02d" % number * (100 << number % 10))

    def read(merged: Path, rounds: int) -> None:
        for turn in range(rounds):
            for number in range(40):
                fd = os.open(merged / str(number), os.O_RDONLY)
                size = os.fstat(fd).st_size
                content = os.pread(fd, 1 << 20, 0)
                # Whatever is written, it is two digits by turns, and only its size changes.
                if content.strip(b"%02d" % number) or ((turn + number) % 7 == 0 and size and not content):
                    raise OSError(errno.EILSEQ, f"{number}: {content[:20]!r}")
                if content:
                    # A file that was cut short meanwhile has no page there.
                    with contextlib.suppress(ValueError), mmap.mmap(fd, 1, prot=mmap.PROT_READ):
                        pass
                os.close(fd)

    def write(merged: Path, rounds: int) -> None:
        for turn in range(rounds):
            for number in range(turn % 3, 40, 3):
                with (merged / str(number)).open("ab", buffering=0) as file:
                    file.write(b"%02d" % number * 1000)

    with side("default", many) as mounted:
        children = []
        for action in (read, read, write):
            pid = os.fork()
            if pid == 0:
                os._exit(errno_of(partial(action, mounted.merged, 30)) != "ok")
            children.append(pid)
        while children:
            pid, status = os.waitpid(children[-1], os.WNOHANG)
            if pid:
                assert status == 0
                children.pop()
            forget_unused(mounted.merged)
        for number in range(40):
            size = (100 << number % 10) + len(range(number % 3, 30, 3)) * 1000
            assert (mounted.merged / str(number)).read_bytes() == b"%02d" % number * size
