"""The supervisor: a process that has loaded what a daemon needs, and forks one for each mount.

`client.py` asks it, and is loaded by each `pyunionfs mount`; so it and what it imports stay small. Nothing
here knows a union, a mount option or a command: what a forked process is to do is the caller's function.
"""
