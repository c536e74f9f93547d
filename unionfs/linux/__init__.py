"""Linux facilities that Python's `os` lacks, as plain typed functions. Never holds union rules."""
