"""`docker-credential-NAME`: programs that keep credentials in a keychain (docker-credential-helpers).

The verb is the argument; what it is about goes by standard input, never by an argument, which every user of
the machine could read.
"""

from __future__ import annotations

import re
import subprocess
from typing import TypeVar

import msgspec

from unionfs.errors import ImageError

IDENTITY_TOKEN = "<token>"
"""The user name under which a helper keeps an identity token."""

_PATIENCE = 60.0
"""Seconds; a helper may have to unlock a keychain."""

_T = TypeVar("_T")


class _Secret(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def program(helper: str) -> str:
    """The program of a helper's name. Raises ImageError for a name that would lead elsewhere than PATH."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", helper):
        raise ImageError(
            f"{helper[:100]!r} is not the name of a credential helper: correct it in config.json"
        )
    return f"docker-credential-{helper}"


def get(helper: str, key: str) -> tuple[str, str] | None:
    """User name and secret; None where the helper has none."""
    done = _run(helper, "get", key.encode())
    if done.returncode != 0:
        if b"credentials not found" in done.stdout:
            return None
        raise ImageError(f"{program(helper)} get: {_reason(done)}")
    found = _decode(helper, done.stdout, _Secret)
    return (found.username, found.secret) if found.username or found.secret else None


def store(helper: str, key: str, username: str, secret: str) -> None:
    """Keep a secret, replacing the one before."""
    document = {"ServerURL": key, "Username": username, "Secret": secret}
    done = _run(helper, "store", msgspec.json.encode(document))
    if done.returncode != 0:
        raise ImageError(f"{program(helper)} store: {_reason(done)}: nothing was stored")


def erase(helper: str, key: str) -> None:
    """Remove a secret."""
    done = _run(helper, "erase", key.encode())
    if done.returncode != 0:
        raise ImageError(f"{program(helper)} erase: {_reason(done)}")


def registries(helper: str) -> list[str]:
    """The keys of all secrets that the helper keeps."""
    done = _run(helper, "list", b"")
    if done.returncode != 0:
        raise ImageError(f"{program(helper)} list: {_reason(done)}")
    return [*_decode(helper, done.stdout, dict[str, str])]


def _run(helper: str, verb: str, content: bytes) -> subprocess.CompletedProcess[bytes]:
    name = program(helper)
    try:
        return subprocess.run(
            [name, verb], input=content, capture_output=True, check=False, timeout=_PATIENCE
        )
    except FileNotFoundError:
        raise ImageError(
            f"{name}: not in PATH, but named for credentials by config.json: install it, or remove it there"
        ) from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{name} {verb}: no answer within {_PATIENCE:.0f} seconds") from None


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Helpers write the reason to standard output; what else they write may be a secret only with success."""
    text = (done.stdout.strip() or done.stderr.strip()).decode(errors="replace")
    return text.splitlines()[0][:300] if text else f"exit status {done.returncode}"


def _decode(helper: str, content: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not the parser's message: it may quote the secret.
        raise ImageError(f"{program(helper)}: its answer is malformed") from None
