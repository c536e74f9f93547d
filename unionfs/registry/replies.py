"""What a registry answers when it refuses: its errors (distribution-spec, Error Codes) as one line."""

from __future__ import annotations

import msgspec

from unionfs.errors import ImageError

_MOST = 300


class RegistryError(ImageError):
    """A registry has refused a request, for good."""

    def __init__(self, message: str, status: int, said: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        """The registry's own words; empty where it has none."""


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def error_of(what: str, host: str, registry: str, status: int, body: bytes) -> RegistryError:
    """The error for a response with *status*, for *what*, by *host* on behalf of *registry*."""
    errors = _parse(body)
    said = "; ".join(each.message or each.code.lower() for each in errors)[:_MOST]
    step = ""
    if status == 401:
        step = f": `pyunionfs login {registry}`, or check the name"
    elif status == 403:
        step = f": check the name, and what the account of `pyunionfs login {registry}` may do"
    return RegistryError(
        f"{what}: {host} answers {status}{f' ({said})' if said else ''}{step}",
        status,
        said,
    )


def _parse(body: bytes) -> list[_Error]:
    """The errors of a body; none where it is another document, as proxies send."""
    try:
        return msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
