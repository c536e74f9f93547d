"""`pull`, `push`, `login` and `logout` by the command line: what they print and answer is Docker's."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.images import digest, directory, file, image
from tests.support import users as users_of_machine
from tests.support.flaky import Act, Flaky
from tests.support.registries import Running, needs_registry, serving
from tests.support.stores import put
from unionfs.cli import main
from unionfs.image import blobs, index, names
from unionfs.image.digest import Digest
from unionfs.image.store import Store
from unionfs.registry import credentials
from unionfs.registry.pull import Puller

pytestmark = [
    needs_registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers of these tests have owners"),
]

BASE = [directory("etc"), file("etc/a", b"a" * 3000, uid=1)]
ONE = image([BASE, [file("etc/b", b"b")]], {"Cmd": ["one"]})
TWO = image([BASE, [file("etc/c", b"c")]], {"Cmd": ["two"]})
SHORT = [digest(each)[7:19] for each in ONE.blobs]
DIFF_IDS = [digest(each)[7:19] for each in ONE.layers]

Said = tuple[int, list[str], str]


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    """Runs a command on `store`: exit status, lines of standard output, standard error."""
    monkeypatch.setenv("PYUNIONFS_STORE", str(store.root))

    def run(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = main(list(words))
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return run


class Run:
    """The type of `run`."""

    def __call__(self, *words: str, stdin: str = "") -> Said:
        raise NotImplementedError


def sorted_layers(lines: list[str]) -> list[str]:
    """Layers finish in any order."""
    layers = sorted(line for line in lines if re.match("[0-9a-f]{12}: ", line))
    at = next((number for number, line in enumerate(lines) if line in layers), 0)
    rest = [line for line in lines if line not in layers]
    return [*rest[:at], *layers, *rest[at:]]


def test_push_and_pull_print_what_docker_prints(run: Run, store: Store, empty: Store, plain: Running) -> None:
    name = f"{plain.name}/commands/one"
    put(store, ONE, "one:1")
    status, lines, _ = run("push", "one:1", name)
    assert (status, sorted_layers(lines)) == (
        0,
        [
            f"The push refers to repository [{name}]",
            *sorted(f"{each}: Pushed" for each in DIFF_IDS),
            f"latest: digest: {ONE.digest} size: {len(ONE.manifest)}",
        ],
    )
    _, lines, _ = run("push", "one:1", name)
    assert sorted_layers(lines)[1:-1] == sorted(f"{each}: Layer already exists" for each in DIFF_IDS)
    _, lines, _ = run("push", "one:1", f"{plain.name}/commands/two")
    assert sorted_layers(lines)[1:-1] == sorted(f"{each}: Mounted from commands/one" for each in DIFF_IDS)
    end = [f"Digest: {ONE.digest}", f"Status: Downloaded newer image for {name}:latest", f"{name}:latest"]
    begin = ["Using default tag: latest", "latest: Pulling from commands/one"]
    status, lines, _ = run("pull", "--store", str(empty.root), name)
    assert status == 0
    assert sorted_layers(lines) == [*begin, *sorted(f"{each}: Pull complete" for each in SHORT), *end]
    _, lines, _ = run("pull", "--store", str(empty.root), name)
    end[1] = f"Status: Image is up to date for {name}:latest"
    assert lines == [*begin, *end]
    assert run("pull", "--store", str(empty.root), "-q", name) == (0, [f"{name}:latest"], "")
    assert run("push", "-q", "one:1", f"{name}:2") == (0, [f"{name}:2"], "")
    _, lines, _ = run("pull", "--store", str(empty.root), f"{name}@{ONE.digest}")
    assert lines[0] == f"{name}@{ONE.digest}: Pulling from commands/one"
    assert lines[-1] == f"{name}@{ONE.digest}"


def test_a_layer_that_is_there_already_exists(run: Run, store: Store, empty: Store, plain: Running) -> None:
    name = f"{plain.name}/commands/based"
    for each, tag in ((ONE, "1"), (TWO, "2")):
        put(store, each, f"{name}:{tag}")
        run("push", f"{name}:{tag}")
    run("pull", "--store", str(empty.root), f"{name}:1")
    _, lines, _ = run("pull", "--store", str(empty.root), f"{name}:2")
    assert f"{SHORT[0]}: Already exists" in lines
    assert f"{digest(TWO.blobs[1])[7:19]}: Pull complete" in lines


def test_all_tags(run: Run, store: Store, empty: Store, plain: Running) -> None:
    name = f"{plain.name}/commands/all"
    put(store, ONE, f"{name}:1", f"{name}:one", "other:1")
    put(store, TWO, f"{name}:2")
    status, lines, _ = run("push", "-a", name)
    assert status == 0
    assert [line.partition(":")[0] for line in lines if "digest:" in line] == ["1", "one", "2"]
    assert lines.count(f"The push refers to repository [{name}]") == 1
    status, lines, _ = run("pull", "--store", str(empty.root), "-a", name)
    assert (status, lines[-1]) == (0, name)
    assert lines[-2] == f"Status: Downloaded newer image for {name}"
    tags = [str(tag) for each in index.images(empty) for tag in each.tags]
    assert sorted(tags) == [f"{name}:1", f"{name}:2", f"{name}:one"]
    _, lines, _ = run("pull", "--store", str(empty.root), "-a", name)
    assert lines[-2] == f"Status: Image is up to date for {name}"


@pytest.mark.parametrize(
    ("words", "status", "about"),
    [
        (["pull", "REG/absent"], 1, "REG/absent:latest: no such image in the registry"),
        (["pull", "absent.invalid/x"], 1, "absent.invalid: no connection"),
        (["pull", "REG/Upper"], 1, "it must be in lower case"),
        (["pull", "-a", "REG/x:1"], 2, "leave out its tag"),
        (["pull", "--platform", "a/b/c/d", "REG/x"], 2, "OS/ARCHITECTURE"),
        (["pull", "--tls-verify=maybe", "REG/x"], 2, "neither true nor false"),
        (["pull", "--cert-dir", "/absent", "REG/x"], 2, "no such directory"),
        (["pull", "127.0.0.1:1/x"], 1, "Connection refused"),
        (["push", "absent"], 1, "there is no image absent"),
        (["push", "-a", "REG/absent"], 1, "there is no image of REG/absent"),
        (["push", "-a", "REG/x:1"], 2, "leave out"),
        (["push", "one:1", "REG/x@sha256:" + "0" * 64], 2, "give a tag instead"),
        (["login", "--password-stdin", "REG"], 2, "--password-stdin needs --username"),
        (["login", "-u", "x", "-p", "y", "--password-stdin", "REG"], 2, "--password conflicts"),
        (["login", "-u", "x", "REG"], 2, "standard input is no terminal"),
        (["logout", "--all", "REG"], 2, "--all conflicts with"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Run, store: Store, plain: Running, words: list[str], status: int, about: str
) -> None:
    put(store, ONE, "one:1")
    found, _, error = run(*[each.replace("REG", plain.name) for each in words])
    assert (found, about.replace("REG", plain.name) in error) == (status, True), error
    assert error.splitlines()[-1].startswith("pyunionfs: ")
    assert len(index.images(store)) == 1


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry for user with secret."""
    folder = tmp_path_factory.mktemp("users")
    table = subprocess.run(
        ["htpasswd", "-Bbn", "-C", "4", "user", "secret"], capture_output=True, check=True
    ).stdout
    (folder / "htpasswd").write_bytes(table)
    with serving(folder, auth={"htpasswd": {"realm": "x", "path": str(folder / "htpasswd")}}) as running:
        yield running


def test_what_is_damaged_is_fetched_again(run: Run, store: Store, plain: Running) -> None:
    name = f"{plain.name}/commands/damaged"
    put(store, ONE, name)
    run("push", name)
    for content in (ONE.manifest, ONE.config, ONE.blobs[1]):
        blobs.path_of(store, Digest(digest(content))).write_bytes(b"damaged")
    status, lines, _ = run("verify")
    assert (status, len(lines) > 3) == (1, True)
    status, lines, error = run("verify", "--repair")
    assert (status, error) == (0, "")
    assert sum(line.endswith(": fetched again") for line in lines) == 3, lines
    assert run("verify")[:2] == (0, ["everything in the store is as it must be"])
    for content in (ONE.manifest, ONE.config, *ONE.blobs):
        assert blobs.path_of(store, Digest(digest(content))).read_bytes() == content


def test_login_and_logout(run: Run, users: Running, home: Path) -> None:
    path = home / ".docker/config.json"
    status, lines, error = run("login", "-u", "user", "--password-stdin", users.name, stdin="wrong\n")
    assert (status, lines, path.exists()) == (1, [], False)
    assert f"{users.name} answers 401" in error
    status, lines, error = run("login", "-u", "user", "--password-stdin", users.name, stdin="secret\n")
    assert (status, lines) == (0, ["Login Succeeded"])
    assert f"WARNING! Your credentials are stored unencrypted in {path}" in error
    assert list(json.loads(path.read_text())["auths"]) == [users.name]
    assert run("login", users.name)[:2] == (
        0,
        ["Authenticating with existing credentials...", "Login Succeeded"],
    )
    credentials.store(users.name, credentials.Credentials("user", "outdated"))
    status, _, error = run("login", users.name)
    assert (status, "answers 401" in error, "is no terminal" in error) == (2, True, True)
    status, _, error = run("login", "-u", "user", "-p", "secret", f"https://{users.name}/v2/")
    assert (status, "WARNING! Using --password via the CLI is insecure" in error) == (0, True)
    assert run("logout", users.name)[1] == [f"Removing login credentials for {users.name} from {path}"]
    assert run("logout", users.name)[1] == [f"Not logged in to {users.name}"]
    credentials.store("a.example", credentials.Credentials("user", "x"))
    credentials.store("docker.io", credentials.Credentials("user", "x"))
    assert [line.split()[4] for line in run("logout", "--all")[1]] == ["a.example", "docker.io"]
    assert json.loads(path.read_text())["auths"] == {}


def test_a_terminal_shows_what_is_under_way_and_keeps_the_lines(
    store: Store, empty: Store, proxy: Flaky, run: Run
) -> None:
    name = f"{proxy.name}/commands/slow"
    slow = image([[file("large", os.urandom(200_000))]], {"Cmd": ["x"]}, compression="none")
    put(store, slow, name)
    run("push", name)

    def slowly(block: bytes) -> bytes:
        time.sleep(0.05)
        return block

    proxy.wish(lambda seen: "/blobs/" in seen.path, Act(change=slowly))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "unionfs", "pull", "--store", str(empty.root), name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1 << 16):
                shown += block
        except OSError:  # EIO: the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    short = digest(slow.blobs[0])[7:19]
    assert re.search(rf"{short}: Downloading.*KiB/197.0 KiB".encode(), shown), shown
    lines = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).replace(b"\r", b"\n").decode().splitlines()
    assert [line for line in lines if line == f"{short}: Pull complete"] != [], lines
    assert [line for line in lines if line.strip()][-1] == f"{name}:latest"


def test_an_ordinary_user_pulls_and_pushes_by_a_store_of_its_own(
    store: Store, run: Run, plain: Running
) -> None:
    name = f"{plain.name}/commands/user"
    put(store, ONE, name)
    run("push", name)
    with users_of_machine.ordinary_user() as user, users_of_machine.open_home(user.pw_uid) as place:
        theirs = place / "store"
        command = users_of_machine.as_user(user, "tests.registry.user_pull", theirs, name)
        assert users_of_machine.run_to_the_end(command).splitlines() == [f"{name}:latest", f"{name}:again"]
        assert theirs.stat().st_uid == user.pw_uid
        assert [str(tag) for each in index.images(Store(theirs)) for tag in each.tags] == [f"{name}:latest"]
    assert sorted(Puller(store, names.parse(name)).tags()) == ["again", "latest"]
