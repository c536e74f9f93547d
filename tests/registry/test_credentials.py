"""Credentials that Docker, podman and helpers have left: found, stored beside what is there, and removed."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from unionfs.errors import ImageError
from unionfs.registry import credentials
from unionfs.registry.credentials import Credentials

FOUND = Credentials("user", "pass:word")
AUTH = base64.b64encode(b"user:pass:word").decode()
OTHER = base64.b64encode(b"other:secret").decode()
HUB = "https://index.docker.io/v1/"


@pytest.fixture(autouse=True)
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home, with helpers in its bin."""
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    return home


def write(path: Path, **document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def helper(home: Path, name: str, **secrets: tuple[str, str]) -> Path:
    """A helper that keeps its secrets in a file, by registry, and logs how it was called."""
    kept = home / f"{name}.json"
    kept.write_text(json.dumps({key.replace("_", "."): value for key, value in secrets.items()}))
    program = home / "bin" / f"docker-credential-{name}"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"""#!{sys.executable} -IS
import json, sys
kept = json.load(open({str(kept)!r}))
verb, given = sys.argv[1], sys.stdin.read()
open({str(home / "calls")!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if verb == "get":
    if given not in kept:
        print("credentials not found in native keychain"); sys.exit(1)
    print(json.dumps(dict(zip(("ServerURL", "Username", "Secret"), (given, *kept[given])))))
elif verb == "list":
    print(json.dumps({{key: value[0] for key, value in kept.items()}}))
elif verb == "store":
    document = json.loads(given)
    kept[document["ServerURL"]] = document["Username"], document["Secret"]
elif verb == "erase":
    del kept[given]
json.dump(kept, open({str(kept)!r}, "w"))
"""
    )
    program.chmod(0o755)
    return kept


@pytest.mark.parametrize(
    ("auths", "registry", "repository", "expected"),
    [
        ({"a.example": AUTH}, "a.example", "x", FOUND),
        ({"a.example": AUTH}, "b.example", "x", None),
        ({"a.example": AUTH}, "a.example:5000", "x", None),
        ({"https://a.example/v1/": AUTH}, "a.example", "x", FOUND),
        ({"http://a.example:5000": AUTH}, "a.example:5000", "x", FOUND),
        ({HUB: AUTH}, "docker.io", "library/x", FOUND),
        ({"docker.io": AUTH}, "docker.io", "library/x", FOUND),
        ({"index.docker.io": AUTH}, "docker.io", "library/x", FOUND),
        ({HUB: AUTH}, "index.example", "x", None),
        ({"a.example": OTHER, "a.example/team": AUTH}, "a.example", "team/x", FOUND),
        ({"a.example": AUTH, "a.example/team": OTHER}, "a.example", "teams/x", FOUND),
        ({"a.example/team": OTHER, "a.example/team/x": AUTH}, "a.example", "team/x", FOUND),
        ({"a.example/team": AUTH}, "a.example", "other/x", None),
        ({"a.example": {}}, "a.example", "x", None),
        ({"a.example": {"username": "user", "password": "pass:word"}}, "a.example", "x", FOUND),
        (
            {"a.example": {"auth": base64.b64encode(b"user:").decode(), "identitytoken": "T"}},
            "a.example",
            "x",
            Credentials("user", identity_token="T"),
        ),
        ({"a.example": {"registrytoken": "T"}}, "a.example", "x", Credentials(registry_token="T")),
        (None, "a.example", "x", None),
        ({}, "a.example", "x", None),
    ],
)
def test_an_entry_is_found_by_every_key_that_is_written_for_it(
    home: Path, auths: Any, registry: str, repository: str, expected: Credentials | None
) -> None:
    """Of `auths`: text stands for an entry with that `auth`."""
    if auths is not None:
        auths = {key: {"auth": each} if isinstance(each, str) else each for key, each in auths.items()}
    write(home / ".docker/config.json", auths=auths, HttpHeaders={"X": "y"})
    assert credentials.find(registry, repository) == expected


def test_the_first_file_that_has_any_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is written after those behind it in the order, and then it is its entry that is found."""
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    for path in ("docker/config.json", ".config/containers/auth.json", "run/containers/auth.json"):
        user = base64.b64encode(f"{path}:x".encode()).decode()
        write(home / path, auths={"a.example": {"auth": user}})
        assert credentials.find("a.example") == Credentials(path, "x")
    write(home / "named.json", auths={"b.example": {"auth": AUTH}})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "named.json"))
    assert credentials.find("a.example") is None, "the file that is named is the only one"
    assert credentials.find("b.example") == FOUND


def test_without_a_runtime_directory_the_file_is_the_one_that_podman_uses(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(credentials, "_RUNTIME", home / "containers")
    assert len(credentials.files()) == 2, "a directory that is not there, or that is not the user's, has none"
    path = write(home / f"containers/{os.getuid()}/auth.json", auths={"a.example": {"auth": AUTH}})
    assert credentials.files()[0] == path
    assert credentials.find("a.example") == FOUND


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"a.example": {"auth": "%%%"}}}',
        '{"auths": {"a.example": {"auth": "dXNlcg=="}}}',
        '{"auths": {"a.example": {"auth": 5}}}',
        "\xff",
    ],
)
def test_a_malformed_file_is_named_and_not_shown(home: Path, content: str) -> None:
    path = home / ".docker/config.json"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ImageError) as raised:
        credentials.find("a.example")
    assert str(path) in str(raised.value)
    assert "dXNlcg" not in str(raised.value)
    if "a.example" not in content:
        with pytest.raises(ImageError):
            credentials.store("b.example", FOUND)
        assert path.read_bytes() == content.encode("latin-1")


def test_a_helper_has_the_secret_of_its_registry(home: Path) -> None:
    helper(home, "one", a_example=("user", "pass:word"))
    helper(home, "rest", b_example=("<token>", "T"))
    write(
        home / ".docker/config.json",
        credHelpers={"a.example": "one"},
        credsStore="rest",
        auths={"c.example": {"auth": AUTH}, "b.example": {}},
    )
    assert credentials.find("a.example") == FOUND
    assert credentials.find("b.example") == Credentials(identity_token="T")
    assert credentials.find("c.example") == FOUND
    assert credentials.find("d.example") is None
    assert set((home / "calls").read_text().split()) == {"get"}, "no name and no secret is an argument"


@pytest.mark.parametrize(
    ("script", "about"),
    [
        ("echo locked; exit 1", "docker-credential-x get: locked"),
        ("exit 3", "exit status 3"),
        ("echo '{\"Secret\": 5}'", "answer is malformed"),
        (None, "docker-credential-x: not in PATH"),
    ],
)
def test_a_helper_that_fails_is_named(home: Path, script: str | None, about: str) -> None:
    write(home / ".docker/config.json", credsStore="x")
    if script is not None:
        (home / "bin").mkdir()
        (home / "bin/docker-credential-x").write_text(f"#!/bin/sh\n{script}\n")
        (home / "bin/docker-credential-x").chmod(0o755)
    with pytest.raises(ImageError, match=about):
        credentials.find("a.example")


def test_the_name_of_a_helper_is_no_path(home: Path) -> None:
    write(home / ".docker/config.json", credsStore="x/../../evil")
    with pytest.raises(ImageError, match="not the name of a credential helper"):
        credentials.find("a.example")


def test_what_is_stored_is_found_and_the_rest_of_the_file_stays(home: Path) -> None:
    path = write(
        home / ".docker/config.json", auths={"b.example": {"auth": OTHER, "email": "x"}}, psFormat="t"
    )
    path.chmod(0o644)
    assert credentials.store("a.example", FOUND) == str(path)
    assert credentials.find("a.example") == FOUND
    document = json.loads(path.read_text())
    assert document["auths"]["b.example"] == {"auth": OTHER, "email": "x"}
    assert document["psFormat"] == "t"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]


def test_the_first_login_makes_the_file_for_its_owner_alone(home: Path) -> None:
    path = home / ".docker/config.json"
    credentials.store("docker.io", FOUND)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"auths": {HUB: {"auth": AUTH}}}


def test_credentials_replace_those_that_would_be_found_before_them(home: Path) -> None:
    """A file that comes earlier in the order would hide what is stored in Docker's."""
    path = write(home / "run/containers/auth.json", auths={"https://a.example": {"auth": OTHER}})
    assert credentials.store("a.example", FOUND) == str(path)
    assert credentials.find("a.example") == FOUND
    assert list(json.loads(path.read_text())["auths"]) == ["a.example"]


def test_an_identity_token_stands_for_the_password(home: Path) -> None:
    credentials.store("a.example", Credentials("user", identity_token="T"))
    assert credentials.find("a.example") == Credentials("user", identity_token="T")
    assert credentials.erase("a.example")
    assert credentials.find("a.example") is None


def test_a_symlink_stays_one(home: Path) -> None:
    target = write(home / "dotfiles/docker.json", auths={})
    (home / ".docker").mkdir()
    (home / ".docker/config.json").symlink_to(target)
    credentials.store("a.example", FOUND)
    assert (home / ".docker/config.json").is_symlink()
    assert "a.example" in target.read_text()


def test_a_helper_keeps_what_is_stored(home: Path) -> None:
    kept = helper(home, "rest")
    path = write(home / ".docker/config.json", credsStore="rest")
    before = path.read_text()
    assert credentials.store("docker.io", FOUND) == "docker-credential-rest"
    assert json.loads(kept.read_text()) == {HUB: ["user", "pass:word"]}
    assert path.read_text() == before
    assert credentials.find("docker.io") == FOUND
    assert credentials.registries() == ["docker.io"]
    assert credentials.erase("docker.io") == ["docker-credential-rest"]
    assert json.loads(kept.read_text()) == {}
    assert "pass" not in (home / "calls").read_text()


def test_logins_at_the_same_time_are_all_kept(home: Path) -> None:
    names = [f"host{number}.example" for number in range(20)]
    threads = [threading.Thread(target=credentials.store, args=(name, FOUND)) for name in names]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [name for name in names if credentials.find(name) != FOUND] == []


def test_nothing_is_left_after_a_logout(home: Path) -> None:
    first = write(home / "run/containers/auth.json", auths={"a.example": {"auth": AUTH}})
    second = write(
        home / ".docker/config.json",
        auths={"https://a.example/v2/": {"auth": AUTH}, "b.example": {"auth": AUTH}},
    )
    assert credentials.registries() == ["a.example", "b.example"]
    assert credentials.erase("a.example") == [str(first), str(second)]
    assert credentials.find("a.example") is None
    assert credentials.find("b.example") == FOUND
    assert credentials.erase("a.example") == []


def test_a_secret_is_in_no_repr() -> None:
    text = repr(Credentials("user", "secret", "secret", "secret"))
    assert "user" in text
    assert "secret" not in text
