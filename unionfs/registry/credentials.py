"""Credentials for registries, as Docker, podman and their helpers keep them: found, stored and removed.

Files, the first that has any for a registry counts (containers-auth.json(5), Docker's config.json):
$REGISTRY_AUTH_FILE alone where it is set; else $XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID
without that variable), ~/.config/containers/auth.json, $DOCKER_CONFIG/config.json or ~/.docker/config.json.

A secret is never part of a message, a `repr` or an argument of a program.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from unionfs.errors import ImageError
from unionfs.image.names import DEFAULT_REGISTRY
from unionfs.image.store import sync_directory
from unionfs.registry import credential_helper

DOCKER_HUB = "https://index.docker.io/v1/"
"""The key of docker.io in Docker's file and helpers, a relic of the protocol's version 1."""
HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")

_RUNTIME = Path("/run/containers")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or one of the tokens that stand for both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """An OAuth2 refresh token, which a token server exchanges for access."""
    registry_token: str = field(default="", repr=False)
    """A bearer token for the registry itself."""


class _Entry(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


class _File(msgspec.Struct):
    auths: dict[str, _Entry] | None = None
    cred_helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")
    creds_store: str | None = msgspec.field(default=None, name="credsStore")


def files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """The files that may hold credentials, in the order of search; the last is Docker's."""
    environ = os.environ if environ is None else environ
    named = environ.get("REGISTRY_AUTH_FILE")
    if named:
        return [Path(named)]
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or _RUNTIME / str(os.getuid()))
    found = [
        runtime / ("containers/auth.json" if environ.get("XDG_RUNTIME_DIR") else "auth.json"),
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json"),
        Path(environ.get("DOCKER_CONFIG") or home / ".docker", "config.json"),
    ]
    # Where root's podman has made /run/containers, no user gets through it.
    return found if os.path.isdir(runtime) else found[1:]


def find(registry: str, repository: str = "") -> Credentials | None:
    """The credentials for a repository of a registry; None: there are none.

    Raises ImageError for a malformed file and a helper that fails: what they hold may be another account.
    """
    for path in files():
        found = _find_in(path, registry, repository)
        if found is not None:
            return found
    return None


def store(registry: str, credentials: Credentials) -> str:
    """Keep credentials, in the file that has some for this registry, else in Docker's; replaces these.

    Returns where they are: the path, or the helper that the file names for it.
    """
    path = next((each for each in files() if _find_in(each, registry, "") is not None), files()[-1])
    helper = _helper_for(_read(path), registry)
    key = _key(registry)
    if helper is not None:
        credential_helper.store(helper, key, *_for_helper(credentials))
        return credential_helper.program(helper)
    with _changing(path) as document:
        auths = document.setdefault("auths", {})
        for each in _matching(auths, registry):
            del auths[each]
        auths[key] = _entry(credentials)
    return str(path)


def erase(registry: str) -> list[str]:
    """Remove the credentials for a registry from all files and helpers; returns where some were."""
    places = []
    for path in files():
        document = _read(path)
        helper = _helper_for(document, registry)
        if helper is not None and credential_helper.get(helper, _key(registry)) is not None:
            credential_helper.erase(helper, _key(registry))
            places.append(credential_helper.program(helper))
        if any(True for _ in _matching(document.auths or {}, registry)):
            with _changing(path) as changed:
                for each in _matching(changed.get("auths", {}), registry):
                    del changed["auths"][each]
            places.append(str(path))
    return places


def registries() -> list[str]:
    """The registries that the files name, each once, as `erase` takes them."""
    found: dict[str, None] = {}
    for path in files():
        document = _read(path)
        names = [*(document.auths or {}), *(document.cred_helpers or {})]
        if document.creds_store:
            names += credential_helper.registries(document.creds_store)
        for each in names:
            found[_host(each) if "://" in each else each.partition("/")[0]] = None
    return [DEFAULT_REGISTRY if each in HUB_HOSTS else each for each in found]


def _find_in(path: Path, registry: str, repository: str) -> Credentials | None:
    document = _read(path)
    own = _own_helper(document, registry)
    if own is not None:
        return _from_helper(own, registry)
    auths = document.auths or {}
    for key in [*_scoped(registry, repository), *_matching(auths, registry)]:
        entry = auths.get(key)
        found = _credentials(entry, path, key) if entry is not None else None
        if found is not None:
            return found
    return _from_helper(document.creds_store, registry) if document.creds_store else None


def _scoped(registry: str, repository: str) -> Iterator[str]:
    """Keys for a part of a registry, the most exact first (containers-auth.json(5))."""
    parts = [registry, *repository.split("/")] if repository else [registry]
    for count in range(len(parts), 1, -1):
        yield "/".join(parts[:count])


def _matching(auths: Mapping[str, object], registry: str) -> list[str]:
    """The keys that mean all of a registry: its name, or the URL that Docker has written for it."""
    hosts = HUB_HOSTS if registry == DEFAULT_REGISTRY else (registry,)
    return [key for key in auths if key in hosts or ("://" in key and _host(key) in hosts)]


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _key(registry: str) -> str:
    return DOCKER_HUB if registry == DEFAULT_REGISTRY else registry


def _own_helper(document: _File, registry: str) -> str | None:
    helpers = document.cred_helpers or {}
    return next((helpers[key] for key in _matching(helpers, registry)), None)


def _helper_for(document: _File, registry: str) -> str | None:
    return _own_helper(document, registry) or document.creds_store or None


def _from_helper(helper: str, registry: str) -> Credentials | None:
    found = credential_helper.get(helper, _key(registry))
    if found is None:
        return None
    username, secret = found
    if username == credential_helper.IDENTITY_TOKEN:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)


def _for_helper(credentials: Credentials) -> tuple[str, str]:
    if credentials.identity_token:
        return credential_helper.IDENTITY_TOKEN, credentials.identity_token
    return credentials.username, credentials.password


def _credentials(entry: _Entry, path: Path, key: str) -> Credentials | None:
    """What an entry says; None for an empty one, as Docker leaves where a helper has the secret."""
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            text = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            raise ImageError(f"{path}: the credentials of {key} are malformed: log in again") from None
        username, colon, password = text.partition(":")
        if not colon:
            raise ImageError(f"{path}: the credentials of {key} have no password: log in again")
    found = Credentials(username, password, entry.identitytoken or "", entry.registrytoken or "")
    return found if found != Credentials() else None


def _entry(credentials: Credentials) -> dict[str, str]:
    pair = f"{credentials.username}:{credentials.password}".encode()
    entry = {"auth": base64.b64encode(pair).decode()}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    return entry


def _read(path: Path) -> _File:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return _File()
    if not content.strip():
        return _File()
    try:
        return msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{path}: malformed, so that credentials cannot be read from it: {error}") from None


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """The whole document, to be changed; it is written whole, for its owner only, where a symlink leads."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _read(path)  # refuses what is malformed
        content = path.read_bytes() if path.exists() else b""
        document: dict[str, Any] = json.loads(content) if content.strip() else {}
        if document.get("auths") is None:
            document["auths"] = {}
        yield document
        _write(path, json.dumps(document, indent="\t").encode() + b"\n")
    finally:
        os.close(lock)


def _write(path: Path, content: bytes) -> None:
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    sync_directory(path.parent)
