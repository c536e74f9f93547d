"""sqlite: byte-range locks, and in WAL mode a shared memory file that several processes map and change."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest

from tests.programs.conftest import Union
from tests.support.mounts import needs_fuse, needs_root

pytestmark = [needs_root, needs_fuse]

WRITERS = 4
ROWS = 150
LOWER_ROWS = 2000


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def write_rows(path: Path, writer: int) -> None:
    connection = connect(path)
    for number in range(ROWS):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (writer, number) VALUES (?, ?)", (writer, number))
        connection.execute("UPDATE total SET n = n + 1")
        connection.execute("COMMIT")
    connection.close()


def read_rows(path: Path) -> None:
    """In every snapshot the counter and the rows agree; and the snapshots never go back."""
    connection = connect(path)
    last = 0
    while last < LOWER_ROWS + WRITERS * ROWS:
        connection.execute("BEGIN")
        rows = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        total = connection.execute("SELECT n FROM total").fetchone()[0]
        connection.execute("COMMIT")
        if rows != total or rows < last:
            os._exit(3)
        last = rows
    connection.close()


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
def test_several_processes_on_a_lower_database(union: Union, space: Path, journal: str) -> None:
    lower = space / "lower"
    lower.mkdir()
    connection = connect(lower / "data.db")
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, writer INT, number INT)")
    connection.execute("CREATE TABLE total AS SELECT 0 AS n")
    connection.executemany("INSERT INTO t (writer, number) VALUES (-1, ?)", [(n,) for n in range(LOWER_ROWS)])
    connection.execute("UPDATE total SET n = ?", (LOWER_ROWS,))
    connection.close()
    digest = (lower / "data.db").read_bytes()

    with union([lower]) as merged:
        path = merged / "data.db"
        context = multiprocessing.get_context("spawn")  # a fork would share sqlite's view of its locks
        tasks = [context.Process(target=write_rows, args=(path, n)) for n in range(WRITERS)]
        tasks += [context.Process(target=read_rows, args=(path,)) for _ in range(2)]
        for task in tasks:
            task.start()
        for task in tasks:
            task.join(120)
            if task.is_alive():
                task.kill()
        assert [task.exitcode for task in tasks] == [0] * len(tasks), "3: a reader saw half a transaction"
        connection = connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] in (journal, "delete")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT writer, count(*), count(DISTINCT number) FROM t GROUP BY writer"
        wanted = [(-1, LOWER_ROWS, LOWER_ROWS)] + [(n, ROWS, ROWS) for n in range(WRITERS)]
        assert connection.execute(query).fetchall() == wanted
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        connection.close()
        assert sorted(os.listdir(merged)) == ["data.db"]
    with union([lower]) as merged:
        connection = connect(merged / "data.db")
        assert connection.execute("SELECT n FROM total").fetchone()[0] == LOWER_ROWS + WRITERS * ROWS
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    assert (lower / "data.db").read_bytes() == digest
