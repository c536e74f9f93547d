"""The processes of a database job: a writer, readers, and a look after a kill.

    python -m testing.soak.database make|write|read|check DATABASE [NUMBER]

`make` makes it. `write` prints a line after each transaction. `read` ends when it sees so many rows, and with
status 3 when a snapshot contradicts itself or goes back. `check` prints how many rows there are. Must begin
anew in each process: a fork would share sqlite's view of its locks.
"""

from __future__ import annotations

import sqlite3
import sys
import time

READ_TIMEOUT = 120.0


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=90, isolation_level=None)
    # With FULL a transaction that was answered is on disk: a daemon that is killed takes what is only in
    # the kernel's cache of its mount along.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def make(path: str) -> int:
    """Alone: sqlite does not wait for others when it changes the mode."""
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("CREATE TABLE IF NOT EXISTS total (n INTEGER)")
    connection.execute("INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total)")
    connection.execute("COMMIT")
    connection.close()
    return 0


def counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """Rows, and how many there should be, in one snapshot."""
    connection.execute("BEGIN")
    rows = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    total = connection.execute("SELECT n FROM total").fetchone()[0]
    connection.execute("COMMIT")
    return rows, total


def write(path: str, rows: int) -> int:
    connection = connect(path)
    for number in range(rows):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (text) VALUES (?)", (f"row {number} " * 20,))
        connection.execute("UPDATE total SET n = n + 1")
        connection.execute("COMMIT")
        print(f"committed {number + 1}", flush=True)
    connection.close()
    return 0


def read(path: str, target: int) -> int:
    connection = connect(path)
    last = 0
    deadline = time.monotonic() + READ_TIMEOUT
    while last < target:
        rows, total = counts(connection)
        if rows != total or rows < last:
            print(f"{rows} rows, {total} counted, {last} seen before")
            return 3
        last = rows
        if time.monotonic() > deadline:
            print(f"{rows} rows of {target} after {READ_TIMEOUT} s")
            return 4
    connection.close()
    return 0


def check(path: str) -> int:
    connection = connect(path)
    answers = connection.execute("PRAGMA integrity_check").fetchall()
    rows, total = counts(connection)
    connection.close()
    if answers != [("ok",)] or rows != total:
        print(f"{answers}, {rows} rows, {total} counted")
        return 3
    print(rows)
    return 0


def main(words: list[str]) -> int:
    command, path, *rest = words
    if command in ("make", "check"):
        return {"make": make, "check": check}[command](path)
    return {"write": write, "read": read}[command](path, int(rest[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
