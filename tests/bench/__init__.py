"""The benchmark: its arithmetic and its page exactly, and that it runs. Nothing here depends on a time."""
