"""Registries: pulling and pushing images by the OCI distribution protocol, and the credentials for it.

Writes to the store by `image` only. Knows no mount and no process; nothing below knows of the network. Its
parts are imported by their own names: `pull.pull`, `push.push`, `login.login`; the rest serves them.
"""
