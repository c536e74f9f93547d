"""The Python API behind `import unionfs`: unions for programs, each served by a process of its own."""
