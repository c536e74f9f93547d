"""WWW-Authenticate headers, as registries and proxies send them."""

from __future__ import annotations

import pytest

from unionfs.registry.challenge import parse

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
HUB_PARAMETERS = {
    "realm": "https://auth.docker.io/token",
    "service": "registry.docker.io",
    "scope": "repository:a/b:pull,push",
}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([HUB], [("bearer", HUB_PARAMETERS)]),
        (['Basic realm="basic-realm"'], [("basic", {"realm": "basic-realm"})]),
        (["BASIC REALM=plain"], [("basic", {"realm": "plain"})]),
        (['Basic realm="a \\"quoted\\" \\\\ one"'], [("basic", {"realm": 'a "quoted" \\ one'})]),
        (
            ['Bearer realm = "x" ,  error="insufficient_scope"'],
            [("bearer", {"realm": "x", "error": "insufficient_scope"})],
        ),
        (["Negotiate", 'Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Negotiate, Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['NTLM TlRMTVNTUAAB==, Bearer realm="x",a=b'], [("ntlm", {}), ("bearer", {"realm": "x", "a": "b"})]),
        (
            ['Basic realm="a, Bearer realm=b", charset=UTF-8'],
            [("basic", {"realm": "a, Bearer realm=b", "charset": "UTF-8"})],
        ),
        (['Basic realm="first", realm="second"'], [("basic", {"realm": "first"})]),
        ([""], []),
        ([], []),
        ([", ,"], []),
        (['realm="without a scheme"'], []),
        (['Basic realm="not closed'], [("basic", {})]),
        (["Bearer \x00"], [("bearer", {})]),
    ],
)
def test_challenges_are_parsed(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, each.parameters) for each in parse(headers)] == expected
