"""The benchmark: the same work on several union filesystems in turn. `python -m scripts.bench --help`."""
