"""Faults of system calls, planted one after the other: which calls there are, and how one is made to fail."""
