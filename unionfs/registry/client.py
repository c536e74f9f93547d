"""Requests to one registry: its address, authentication, redirects, and trying again.

Credentials are sent to the registry's own address only, and to the token server that it names: a redirect
to another host is followed without. Knows no image and no store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urljoin, urlsplit

from unionfs.errors import ImageError
from unionfs.image.names import DEFAULT_REGISTRY
from unionfs.registry import challenge
from unionfs.registry.auth import Authorizer
from unionfs.registry.connections import (
    Body,
    Connections,
    Options,
    Response,
    Unreachable,
    discard,
    is_loopback,
    read_small,
)
from unionfs.registry.credentials import Credentials
from unionfs.registry.replies import RegistryError, error_of
from unionfs.registry.retry import PASSING, Attempts, retry_after

_HUB_HOST = "registry-1.docker.io"
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
_MOST_SAID = 1 << 20
"""Bytes of a token server's answer, and of an error."""


class Client:
    """One registry. Threads may share it; `_lock` guards `_base`, which the first answer decides."""

    def __init__(
        self, registry: str, options: Options | None = None, credentials: Credentials | None = None
    ) -> None:
        self.registry = registry
        self._options = options if options is not None else Options()
        self._host = _HUB_HOST if registry == DEFAULT_REGISTRY else registry
        self._connections = Connections(registry, self._host, self._options)
        self._auth = Authorizer(registry, credentials, self._fetch_token)
        self._lock = threading.Lock()
        self._base: str | None = None

    def attempts(self, sleep: Callable[[float], None] = time.sleep) -> Attempts:
        """For what is made of several requests: a download that goes on."""
        return Attempts(self._options.schedule, sleep)

    def log_in(self) -> Credentials:
        """Have the credentials verified; returns what to keep of them. Raises RegistryError if refused."""
        self.base()
        kept = self._auth.log_in()
        discard(self.request("GET", "/v2/", what=self.registry, expected=(200,)))
        return kept

    def request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        expected: Collection[int],
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        again: bool = True,
        attempts: Attempts | None = None,
    ) -> Response:
        """Send a request, for *what*, to a path or to a URL that the registry has named.

        Failures that pass by themselves are tried again (*attempts*), unless *again* is False. Returns a
        response with a status of *expected*, whose body is still to be read or closed. Raises RegistryError
        for another status, Unreachable where none comes.
        """
        url = urljoin(self.base(), path)
        attempts = attempts if attempts is not None else self.attempts()
        while True:
            try:
                response = self._follow(method, url, scopes, headers or {}, body)
            except Unreachable as error:
                if not again or not error.passes:
                    raise
                attempts.failed(f"{what}: {error}")
                continue
            if response.status in expected:
                return response
            refused = self._refusal(what, response)
            if not again or response.status not in PASSING:
                raise refused
            attempts.failed(str(refused), _asked(response))

    def base(self) -> str:
        """The registry's URL, which the first call finds out: HTTPS, or plain HTTP where that is allowed."""
        with self._lock:
            if self._base is None:
                self._base = self._find_base()
            return self._base

    def _find_base(self) -> str:
        plain = not self._options.tls_verify or is_loopback(urlsplit(f"//{self._host}").hostname or "")
        try:
            return self._ping(f"https://{self._host}")
        except Unreachable as error:
            if not plain or error.is_untrusted:
                raise
            try:
                return self._ping(f"http://{self._host}")
            except (Unreachable, RegistryError) as second:
                raise Unreachable(f"by HTTPS: {error}; by HTTP: {second}", passes=False) from second

    def _ping(self, base: str) -> str:
        """Learn what the registry asks for."""
        attempts = self.attempts()
        while True:
            response = self._connections.send("GET", base + "/v2/", {})
            if response.status in (200, 401):
                discard(response)
                if response.status == 401:
                    self._auth.learn(_challenges(response))
                return base
            refused = self._refusal(self.registry, response)
            if response.status not in PASSING:
                raise refused
            attempts.failed(str(refused), _asked(response))

    def _follow(
        self, method: str, url: str, scopes: tuple[str, ...], headers: Mapping[str, str], body: Body | None
    ) -> Response:
        """One request, and the redirects that it leads to."""
        for _ in range(_MOST_REDIRECTS):
            if not self._connections.may_be_plain(url):
                raise ImageError(
                    f"{self.registry}: leads to {url[:200]}, which is no HTTPS: --tls-verify=false allows it"
                )
            response = self._authorized(method, url, scopes, headers, body)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            if method not in ("GET", "HEAD") and response.status not in (307, 308):
                return response  # it would become a GET
            discard(response)
            url = urljoin(url, target)
        raise ImageError(f"{self.registry}: more than {_MOST_REDIRECTS} redirects, the last to {url[:200]}")

    def _authorized(
        self, method: str, url: str, scopes: tuple[str, ...], headers: Mapping[str, str], body: Body | None
    ) -> Response:
        if _origin(url) != _origin(self.base()):
            return self._connections.send(method, url, headers, body)
        sent = self._auth.authorization(scopes)
        response = self._connections.send(method, url, _with(headers, sent), body)
        if response.status != 401 or not self._auth.renew(_challenges(response), scopes, sent):
            return response
        discard(response)
        renewed = self._auth.authorization(scopes)
        return self._connections.send(method, url, _with(headers, renewed), body)

    def _fetch_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """For the Authorizer: the token server is not the registry, and gets what *headers* have only."""
        what = f"{self.registry}: its token server {urlsplit(url).netloc}"
        if not self._connections.may_be_plain(url):
            raise ImageError(f"{what} has no HTTPS: `--tls-verify=false` allows that")
        attempts = self.attempts()
        while True:
            try:
                response = self._connections.send(method, url, headers, body)
                content = read_small(response, _MOST_SAID, what)
            except Unreachable as error:
                if not error.passes:
                    raise
                attempts.failed(str(error))
                continue
            if response.status not in PASSING:
                return response.status, content
            attempts.failed(f"{what} answers {response.status}", _asked(response))

    def _refusal(self, what: str, response: Response) -> RegistryError:
        try:
            said = read_small(response, _MOST_SAID, what)
        except ImageError:  # the status says enough
            said = b""
        return error_of(what, self._host, self.registry, response.status, said)


def _asked(response: Response) -> float | None:
    return retry_after(response.headers.get("Retry-After"), time.time())


def _challenges(response: Response) -> list[challenge.Challenge]:
    return challenge.parse(response.headers.getlist("WWW-Authenticate"))


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, **({"Authorization": authorization} if authorization is not None else {})}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    found = urlsplit(url)
    return found.scheme, found.hostname, found.port or {"https": 443, "http": 80}.get(found.scheme)
