"""The Python API and the pytest plugin: what programs that import unionfs meet."""
