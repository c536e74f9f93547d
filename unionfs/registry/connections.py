"""Connections: TLS, certificates, proxies, timeouts; and what a failure means.

Sends a request exactly as it is given: follows no redirect, tries nothing again, adds no credentials.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib import request as system
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning, SSLError

from unionfs.errors import ImageError
from unionfs.registry import tls
from unionfs.registry.interrupt import POOLS
from unionfs.registry.retry import Schedule

Response = urllib3.BaseHTTPResponse
Body = bytes | Callable[[], Iterable[bytes]]
"""What is sent: bytes, or what makes the blocks, anew for each try, whose length is among the headers."""

_TIMEOUT = urllib3.Timeout(connect=20.0, read=60.0)
_BLOCK = 1 << 20
_MOST_DISCARDED = 64 << 10
"""Bytes that are read only to have the connection for the next request."""


@dataclass(frozen=True, slots=True)
class Options:
    """How registries are reached."""

    tls_verify: bool = True
    """False: any certificate is taken, and plain HTTP where there is no TLS."""
    cert_dir: Path | None = None
    """Instead of certs.d."""
    schedule: Schedule = field(default_factory=Schedule)


class Unreachable(ImageError):
    """No response came, or not all of it."""

    def __init__(self, message: str, *, passes: bool, is_untrusted: bool = False) -> None:
        super().__init__(message)
        self.passes = passes
        """Whether another try may succeed."""
        self.is_untrusted = is_untrusted
        """Whether the certificate is the reason."""


class Connections:
    """Those of one registry, and of what it leads to. Threads may share it."""

    def __init__(self, registry: str, host: str, options: Options) -> None:
        self._registry = registry
        self._name = urlsplit(f"//{host}").hostname
        self._options = options
        self._certificates = tls.certificates(registry, options.cert_dir)
        self._pools: dict[tuple[bool, str | None], urllib3.PoolManager] = {}
        self._answered: set[str | None] = set()
        if not options.tls_verify:
            # It was asked for, and standard error is the command's.
            urllib3.disable_warnings(InsecureRequestWarning)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None) -> Response:
        """One request; the response's body is still to be read. Raises Unreachable."""
        try:
            response = self._pool(url).urlopen(
                method,
                url,
                headers={"User-Agent": "pyunionfs", "Accept-Encoding": "identity", **headers},
                body=body() if callable(body) else body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=_TIMEOUT,
            )
        except HTTPError as error:
            raise self._unreachable(url, error) from error
        self._answered.add(urlsplit(url).netloc)
        return response

    def may_be_plain(self, url: str) -> bool:
        """Whether a URL may be used: by HTTPS; by HTTP on this machine only, or where no TLS is asked for."""
        found = urlsplit(url)
        if not found.hostname:
            return False
        plain = not self._options.tls_verify or is_loopback(found.hostname)
        return found.scheme == "https" or (found.scheme == "http" and plain)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """They are kept apart by client certificate, which is the registry's only, and by proxy."""
        found = urlsplit(url)
        own = found.hostname == self._name
        proxy = _proxy(found.scheme, found.hostname or "", found.netloc)
        pool = self._pools.get((own, proxy))
        if pool is None:
            context = tls.context(self._certificates, verify=self._options.tls_verify, client=own)
            if proxy is None:
                pool = urllib3.PoolManager(8, maxsize=16, ssl_context=context, blocksize=_BLOCK)
            else:
                pool = urllib3.ProxyManager(proxy, 8, maxsize=16, ssl_context=context, blocksize=_BLOCK)
            pool.pool_classes_by_scheme = POOLS
            pool = self._pools.setdefault((own, proxy), pool)
        return pool

    def _unreachable(self, url: str, error: HTTPError) -> Unreachable:
        host = urlsplit(url).netloc
        why = plain_reason(error)
        if any(isinstance(each, ssl.SSLCertVerificationError) for each in _chain(error)):
            directory = self._certificates or f"/etc/containers/certs.d/{self._registry}"
            return Unreachable(
                f"{host}: its certificate is not trusted ({why}): put that of its authority into"
                f" {directory}/ca.crt, name a directory by --cert-dir, or use --tls-verify=false",
                passes=False,
                is_untrusted=True,
            )
        if isinstance(error, SSLError):
            return Unreachable(f"{host}: no TLS connection ({why})", passes=False)
        # A host that has never answered is rather misspelt than busy.
        return Unreachable(f"{host}: no connection ({why})", passes=host in self._answered)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_small(response: Response, most: int, what: str) -> bytes:
    """A whole body, of at most *most* bytes, after which the connection is free. Raises Unreachable, too."""
    try:
        content = response.read(most + 1)
    except HTTPError as error:
        response.close()
        raise Unreachable(f"{what}: the connection broke ({plain_reason(error)})", passes=True) from error
    if len(content) > most:
        response.close()
        raise ImageError(f"{what}: the answer has more than {most} bytes")
    response.release_conn()
    return content


def discard(response: Response) -> None:
    """Be done with a response; the connection is kept where little is left on it."""
    try:
        if len(response.read(_MOST_DISCARDED + 1)) <= _MOST_DISCARDED:
            response.release_conn()
            return
    except HTTPError:
        pass  # closed, as if much were left
    response.close()


def plain_reason(error: BaseException) -> str:
    """The innermost reason, without the library's names of its own objects."""
    for each in reversed(_chain(error)):
        if isinstance(each, OSError) and each.strerror:
            openssl = re.fullmatch(r"\[[^\]]*\] (.*?)(?: \(_ssl\.c:\d+\))?", each.strerror)
            return openssl[1] if openssl is not None else each.strerror
    text = str(error.args[-1] if error.args else error)
    return text[:200]


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    for each in (*error.args, error.__cause__, error.__context__):
        if isinstance(each, BaseException):
            found += _chain(each)
    return found


def _proxy(scheme: str, host: str, netloc: str) -> str | None:
    """By HTTPS_PROXY, HTTP_PROXY and NO_PROXY; never for this machine."""
    if is_loopback(host) or system.proxy_bypass(netloc):
        return None
    return system.getproxies().get(scheme)
