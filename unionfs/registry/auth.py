"""What a registry's challenges are answered with: Basic, or a bearer token of its token server.

Knows credentials and no connection: `Fetch` sends a request to the token server. Only challenges of the
registry itself may be passed to it; a redirect's target must never get an answer.

Token servers: distribution-spec's token and OAuth2 documents (docs/spec/auth of github.com/distribution).
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from unionfs.errors import ImageError
from unionfs.registry.challenge import Challenge
from unionfs.registry.credentials import Credentials
from unionfs.registry.replies import RegistryError, error_of

CLIENT_ID = "pyunionfs"

_SHORTEST = 60
"""Seconds that a token is good for where its server says nothing, or less (docs/spec/auth/token.md)."""
_MARGIN = 10.0
"""Seconds before its end after which a token is not sent any more."""


class Fetch(Protocol):
    """Sends one request to a token server; returns status and body."""

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    good_until: float


class _Answer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


class Authorizer:
    """The Authorization headers for one registry. Threads may share it: `_lock` guards all it knows."""

    def __init__(
        self,
        registry: str,
        credentials: Credentials | None,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._credentials = credentials if credentials is not None else Credentials()
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._also: dict[tuple[str, ...], str] = {}

    def learn(self, challenges: Sequence[Challenge]) -> None:
        """What the registry asks for: Bearer rather than Basic. Raises ImageError where it is neither."""
        if not challenges:
            return
        for scheme in ("bearer", "basic"):
            for each in challenges:
                if each.scheme == scheme:
                    with self._lock:
                        self._challenge = each
                    return
        asked = ", ".join(each.scheme for each in challenges)[:100]
        raise ImageError(
            f"{self._registry}: asks for authentication by {asked}: only Basic and Bearer are known"
        )

    def authorization(self, scopes: tuple[str, ...]) -> str | None:
        """The header for a request that needs *scopes*; None before anything was asked for."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return _basic(self._credentials)
            if self._credentials.registry_token:
                return "Bearer " + self._credentials.registry_token
            token = self._tokens.get(scopes)
            if token is None or token.good_until <= self._clock():
                token = self._tokens[scopes] = self._token(scopes)
            return "Bearer " + token.text

    def renew(self, challenges: Sequence[Challenge], scopes: tuple[str, ...], sent: str | None) -> bool:
        """After a 401 to the header *sent*: whether another try may have a better one."""
        self.learn(challenges)
        with self._lock:
            if self._challenge is None or self._challenge.scheme == "basic":
                return sent is None and _basic(self._credentials) is not None and self._challenge is not None
            if self._credentials.registry_token:
                return False
            token = self._tokens.get(scopes)
            if token is not None and "Bearer " + token.text == sent:
                del self._tokens[scopes]  # it has ended, or lacks what the challenge names
            asked = self._challenge.parameters.get("scope")
            if asked and asked not in scopes:
                self._also[scopes] = asked
            return True

    def log_in(self) -> Credentials:
        """Have the token server confirm the credentials; returns what is to be kept: an identity token
        where it gives one, else themselves. Raises RegistryError where it refuses."""
        with self._lock:
            if self._challenge is None or self._challenge.scheme == "basic":
                return self._credentials
            answer = self._ask((), offline=True)
            if answer.refresh_token:
                return Credentials(self._credentials.username, identity_token=answer.refresh_token)
            return self._credentials

    def _token(self, scopes: tuple[str, ...]) -> _Token:
        also = self._also.get(scopes)
        asked_at = self._clock()
        answer = self._ask((*scopes, also) if also else scopes)
        text = answer.token or answer.access_token
        if not text or not text.isascii() or not text.isprintable():
            raise ImageError(f"{self._registry}: its token server answers without a token")
        lasts = max(answer.expires_in or 0, _SHORTEST)
        return _Token(text, asked_at + lasts - _MARGIN)

    def _ask(self, scopes: tuple[str, ...], *, offline: bool = False) -> _Answer:
        assert self._challenge is not None
        realm = self._challenge.parameters.get("realm", "")
        service = self._challenge.parameters.get("service", "")
        if urlsplit(realm).scheme not in ("https", "http") or not urlsplit(realm).hostname:
            raise ImageError(f"{self._registry}: its challenge names no token server: {realm[:200]!r}")
        fields = [("service", service)] if service else []
        headers = {"Accept": "application/json"}
        if self._credentials.identity_token:
            fields += [
                ("client_id", CLIENT_ID),
                ("grant_type", "refresh_token"),
                ("refresh_token", self._credentials.identity_token),
                *([("scope", " ".join(scopes))] if scopes else []),
            ]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            status, body = self._fetch("POST", realm, headers, urlencode(fields).encode())
        else:
            fields += [("scope", each) for each in scopes]
            basic = _basic(self._credentials)
            if basic is not None:
                headers["Authorization"] = basic
                fields.append(("account", self._credentials.username))
            if offline:
                fields += [("client_id", CLIENT_ID), ("offline_token", "true")]
            url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(fields)
            status, body = self._fetch("GET", url, headers, None)
        if status != 200:
            raise self._refused(status, body, urlsplit(realm).netloc)
        try:
            return msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Not the parser's message: it may quote the token.
            raise ImageError(f"{self._registry}: its token server's answer is malformed") from None

    def _refused(self, status: int, body: bytes, host: str) -> RegistryError:
        with_them = self._credentials != Credentials()
        what = "the user name or the password is wrong" if with_them else "no access without a login"
        if status not in (400, 401, 403):
            what = "its token server fails"
        return error_of(f"{self._registry}: {what}", host, self._registry, status, body)


def _basic(credentials: Credentials) -> str | None:
    if not credentials.username or credentials.identity_token:
        return None
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()
