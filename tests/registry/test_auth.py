"""Challenges and their answers, with a token server and a clock that the test plays."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import pytest

from unionfs.errors import ImageError
from unionfs.registry.auth import Authorizer
from unionfs.registry.challenge import Challenge, parse
from unionfs.registry.credentials import Credentials

BEARER = parse(['Bearer realm="https://auth.example/token?x=y",service="the service"'])
BASIC = parse(['Basic realm="x"'])
PULL = ("repository:a:pull",)
USER = Credentials("user", "pass")
USER_HEADER = "Basic " + base64.b64encode(b"user:pass").decode()


@dataclass
class TokenServer:
    """Gives tokens T1, T2 ...; logs what it was asked."""

    answer: dict[str, object] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None
    asked: list[tuple[str, str, list[tuple[str, str]], str | None]] = field(default_factory=list)
    now: float = 1000

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        found = urlsplit(url)
        fields = parse_qsl(found.query) + parse_qsl((body or b"").decode())
        self.asked.append((method, f"{found.netloc}{found.path}", fields, headers.get("Authorization")))
        if self.body is not None:
            return self.status, self.body
        return self.status, json.dumps({"token": f"T{len(self.asked)}"} | self.answer).encode()

    def authorizer(self, credentials: Credentials | None, asked: list[Challenge]) -> Authorizer:
        made = Authorizer("a.example", credentials, self, lambda: self.now)
        made.learn(asked)
        return made


def test_an_anonymous_token_is_asked_for_with_the_scope() -> None:
    server = TokenServer()
    auth = server.authorizer(None, BEARER)
    assert auth.authorization(PULL) == "Bearer T1"
    expected = [("x", "y"), ("service", "the service"), ("scope", "repository:a:pull")]
    assert server.asked == [("GET", "auth.example/token", expected, None)]


def test_credentials_go_to_the_token_server_and_not_to_the_registry() -> None:
    server = TokenServer()
    auth = server.authorizer(USER, BEARER)
    assert auth.authorization((*PULL, "repository:b:pull")) == "Bearer T1"
    [(_, _, fields, header)] = server.asked
    assert header == USER_HEADER
    assert [value for name, value in fields if name == "scope"] == ["repository:a:pull", "repository:b:pull"]
    assert ("account", "user") in fields


def test_an_identity_token_is_exchanged_by_post() -> None:
    server = TokenServer({"token": None, "access_token": "A"})
    auth = server.authorizer(Credentials("user", identity_token="R"), BEARER)
    assert auth.authorization((*PULL, "repository:b:pull")) == "Bearer A"
    [(method, _, fields, header)] = server.asked
    assert (method, header) == ("POST", None)
    assert dict(fields) == {
        "x": "y",
        "service": "the service",
        "client_id": "pyunionfs",
        "grant_type": "refresh_token",
        "refresh_token": "R",
        "scope": "repository:a:pull repository:b:pull",
    }


def test_a_token_is_asked_for_once_until_it_ends() -> None:
    server = TokenServer({"expires_in": 300})
    auth = server.authorizer(None, BEARER)
    seen = []
    for server.now in (1000, 1100, 1289, 1290, 1500):
        seen.append(auth.authorization(PULL))
    assert seen == ["Bearer T1", "Bearer T1", "Bearer T1", "Bearer T2", "Bearer T2"]
    assert auth.authorization(("repository:b:pull",)) == "Bearer T3"


@pytest.mark.parametrize("answer", [{}, {"expires_in": 1}, {"expires_in": None}])
def test_a_token_is_good_for_a_minute_at_least(answer: dict[str, object]) -> None:
    server = TokenServer(answer)
    auth = server.authorizer(None, BEARER)
    auth.authorization(PULL)
    server.now += 49
    assert auth.authorization(PULL) == "Bearer T1"
    server.now += 1
    assert auth.authorization(PULL) == "Bearer T2"


def test_a_refused_token_is_replaced_by_one_with_the_scope_of_the_challenge() -> None:
    server = TokenServer()
    auth = server.authorizer(None, BEARER)
    sent = auth.authorization(PULL)
    more = parse(['Bearer realm="https://auth.example/token",scope="repository:a:pull,push"'])
    assert auth.renew(more, PULL, sent)
    assert auth.authorization(PULL) == "Bearer T2"
    assert [value for name, value in server.asked[1][2] if name == "scope"] == [
        "repository:a:pull",
        "repository:a:pull,push",
    ]


def test_a_token_that_another_thread_has_replaced_stays() -> None:
    server = TokenServer()
    auth = server.authorizer(None, BEARER)
    old = auth.authorization(PULL)
    assert auth.renew(BEARER, PULL, old)
    assert auth.authorization(PULL) == "Bearer T2"
    assert auth.renew(BEARER, PULL, old)
    assert auth.authorization(PULL) == "Bearer T2"


def test_basic_is_sent_once_it_is_asked_for() -> None:
    server = TokenServer()
    auth = server.authorizer(USER, [])
    assert auth.authorization(PULL) is None, "nothing was asked for yet"
    assert auth.renew(BASIC, PULL, None)
    assert auth.authorization(PULL) == USER_HEADER
    assert not auth.renew(BASIC, PULL, USER_HEADER), "it is wrong, and will be so again"
    assert not server.authorizer(None, BASIC).renew(BASIC, PULL, None)
    assert server.asked == []


def test_bearer_is_preferred_to_basic() -> None:
    auth = TokenServer().authorizer(USER, [*BASIC, *BEARER])
    assert auth.authorization(PULL) == "Bearer T1"


def test_a_registry_token_is_sent_as_it_is() -> None:
    server = TokenServer()
    auth = server.authorizer(Credentials(registry_token="X"), BEARER)
    assert auth.authorization(PULL) == "Bearer X"
    assert not auth.renew(BEARER, PULL, "Bearer X")
    assert server.asked == []


def test_a_login_keeps_the_identity_token_that_it_gets() -> None:
    server = TokenServer({"refresh_token": "R"})
    assert server.authorizer(USER, BEARER).log_in() == Credentials("user", identity_token="R")
    assert ("offline_token", "true") in server.asked[0][2]
    assert TokenServer().authorizer(USER, BEARER).log_in() == USER
    assert TokenServer().authorizer(USER, BASIC).log_in() == USER


@pytest.mark.parametrize(
    ("challenge", "about"),
    [
        ("Negotiate", "asks for authentication by negotiate: only Basic and Bearer"),
        ("Bearer", "names no token server"),
        ('Bearer realm="file:///etc/passwd"', "names no token server"),
        ('Bearer realm="https://"', "names no token server"),
    ],
)
def test_challenges_that_cannot_be_answered(challenge: str, about: str) -> None:
    with pytest.raises(ImageError, match=about):
        TokenServer().authorizer(USER, parse([challenge])).authorization(PULL)


@pytest.mark.parametrize(
    ("status", "body", "about"),
    [
        (401, b"", "the user name or the password is wrong: auth.example answers 401"),
        (403, b'{"errors":[{"code":"DENIED","message":"not you"}]}', r"403 \(not you\)"),
        (500, b"<html>", "its token server fails: auth.example answers 500"),
        (200, b"{}", "answers without a token"),
        (200, b'{"token": "secret\\r\\nX: y"}', "answers without a token"),
        (200, b'{"token": 17', "answer is malformed"),
    ],
)
def test_a_token_server_that_refuses_is_named(status: int, body: bytes, about: str) -> None:
    auth = TokenServer(status=status, body=body).authorizer(USER, BEARER)
    with pytest.raises(ImageError, match=about) as raised:
        auth.authorization(PULL)
    assert "secret" not in str(raised.value)
    assert "pass" not in str(raised.value).replace("password", "")


def test_without_a_login_the_message_says_so() -> None:
    with pytest.raises(ImageError, match=r"no access without a login.*`pyunionfs login a.example`"):
        TokenServer(status=401).authorizer(None, BEARER).authorization(PULL)
