"""Logging in and out: credentials are kept once the registry has confirmed them."""

from __future__ import annotations

from unionfs.registry import credentials
from unionfs.registry.client import Client
from unionfs.registry.connections import Options
from unionfs.registry.credentials import Credentials


def login(registry: str, given: Credentials, options: Options | None = None) -> str:
    """Verify credentials, and keep them; returns where. Raises RegistryError where they are refused."""
    kept = Client(registry, options, given).log_in()
    return credentials.store(registry, kept)


def verify(registry: str, given: Credentials, options: Options | None = None) -> None:
    """Have a registry confirm credentials that are kept already. Raises as `login`."""
    Client(registry, options, given).log_in()
