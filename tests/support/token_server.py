"""A token server as docker-registry trusts it (docs/spec/auth of github.com/distribution)."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.http_server import Handler, Server

SERVICE = "the tests' registry"
ISSUER = "the tests' issuer"

Grant = Callable[[str, str, str, str], bool]
"""Whether a user ("": anonymous) may do an action on a (type, name)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    user: str
    scopes: tuple[str, ...]
    offline: bool


class TokenServer:
    """Serves `realm`. Users are "user" with "secret", or with the identity token "refresh-user"."""

    def __init__(self, folder: Path, grant: Grant, *, lasts: int = 300) -> None:
        self.grant = grant
        self.lasts = lasts
        self.asked: list[Asked] = []
        self.certificate, self._key = _key_pair(folder)
        self.server = _Server(_Handler)
        self.server.tokens = self
        self.realm = f"http://{self.server.name}/token"

    @property
    def auth(self) -> dict[str, object]:
        """The section `auth` of the registry's configuration."""
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.certificate),
            }
        }

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        """A JSON web token with what of the scopes is granted."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.rsplit(":", 2) if scope.count(":") == 2 else (scope, "", "")
            granted = [each for each in actions.split(",") if self.grant(user, kind, name, each)]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_der(self.certificate)]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + self.lasts,
            "nbf": now - 10,
            "iat": now,
            "jti": str(len(self.asked)),
            "access": access,
        }
        content = b".".join(_base64(json.dumps(each).encode()) for each in (header, claims))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key], input=content, check=True, capture_output=True
        ).stdout
        return b".".join((content, _base64(signed))).decode()


@contextmanager
def token_server(folder: Path, grant: Grant) -> Iterator[TokenServer]:
    """A token server whose keys are in *folder*."""
    made = TokenServer(folder, grant)
    with made.server.serving():
        yield made


class _Server(Server):
    tokens: TokenServer


class _Handler(Handler):
    server: _Server

    def do_GET(self) -> None:
        self._reply(parse_qs(urlsplit(self.path).query))

    def do_POST(self) -> None:
        self._reply(parse_qs(b"".join(self.body()).decode()))

    def _reply(self, fields: dict[str, list[str]]) -> None:
        user = self._user(fields)
        if user is None or fields.get("service") != [SERVICE]:
            self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]})
            return
        scopes = tuple(scope for each in fields.get("scope", []) for scope in each.split(" "))
        offline = fields.get("offline_token") == ["true"]
        self.server.tokens.asked.append(Asked(self.command, user, scopes, offline))
        answer: dict[str, object] = {
            "access_token": self.server.tokens.token(user, scopes),
            "expires_in": self.server.tokens.lasts,
        }
        if offline and user:
            answer["refresh_token"] = f"refresh-{user}"
        self._send(200, answer)

    def _user(self, fields: dict[str, list[str]]) -> str | None:
        """The user; "" without credentials, None with wrong ones."""
        if self.command == "POST":
            return "user" if fields.get("refresh_token") == ["refresh-user"] else None
        header = self.headers.get("Authorization")
        if header is None:
            return ""
        return "user" if header == "Basic " + base64.b64encode(b"user:secret").decode() else None

    def _send(self, status: int, document: object) -> None:
        self.reply(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _key_pair(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=tokens",
            ),
            *("-keyout", "token.key", "-out", "token.crt"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "token.crt", folder / "token.key"


def _der(certificate: Path) -> str:
    """The base64 that PEM has between its lines."""
    return "".join(line for line in certificate.read_text().splitlines() if not line.startswith("-"))


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
