"""The benchmark: the same work on several union filesystems in turn. `python -m testing.bench --help`."""
