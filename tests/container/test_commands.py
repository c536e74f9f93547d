"""`run` and `exec`, as commands on a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.boxes import Shop
from tests.support.mounts import mount_types, needs_fuse, needs_root
from tests.support.transports import one_transport

pytestmark = [needs_root, needs_fuse, one_transport]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("shop")
    yield Shop(root / "store", Env=["KIND=box"])
    # As seen from here: unions are mounted in namespaces of their own.
    assert "fuse.pyunionfs" not in mount_types(root)


def test_what_a_run_leaves_is_a_container_with_its_changes(shop: Shop) -> None:
    assert shop.do("run", "--name", "first", "box", "sh", "-c", "echo $KIND >made; exit 3", status=3) == ""
    assert shop.do("ps", "-a", "--format", "{{.Names}} {{.State}}") == "first exited\n"
    assert shop.do("diff", "first") == "A /made\n"
    shop.do("rm", "first")


def test_rm_leaves_nothing(shop: Shop) -> None:
    assert shop.do("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; >made") == "out\n"
    assert "executable file not found" in shop.do("run", "--rm", "box", "nosuch", status=127)
    assert shop.names() == []
    assert list(Path(shop.store.containers).iterdir()) == []
    assert list(Path(shop.store.ingest).iterdir()) == []


def test_a_further_process_joins_a_container_that_runs(shop: Shop) -> None:
    identifier = shop.do("run", "-d", "--name", "job", "-e", "GIVEN=1", "box", "sleep", "100").strip()
    try:
        seen = shop.do("exec", "-e", "MORE=2", "job", "sh", "-c", "hostname; echo $KIND $GIVEN $MORE; ps")
        assert seen.startswith(f"{identifier[:12]}\nbox 1 2\n")
        assert "sleep 100" in seen
        assert shop.do("exec", "-i", "-w", "/etc", "-u", "ann", "job", "cat", given="here") == "here"
        assert shop.do("exec", "-w", "/etc", "-u", "ann", "job", "sh", "-c", "pwd; id -un") == "/etc\nann\n"
        assert "not found" in shop.do("exec", "job", "nosuch", status=127)
        name = os.fsdecode(b"caf\xe9")
        script = 'test "$0" = $(printf "caf\\351") && echo same'
        assert shop.do("exec", "job", "sh", "-c", script, name) == "same\n"
    finally:
        shop.do("rm", "-f", "job")
    assert "no container job" in shop.do("exec", "job", "true", status=1)


def test_words_that_a_record_cannot_hold_are_refused(shop: Shop) -> None:
    assert "is not UTF-8" in shop.do("run", "--rm", "box", "echo", os.fsdecode(b"caf\xe9"), status=125)
    assert shop.names() == []
