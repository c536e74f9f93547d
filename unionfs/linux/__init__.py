"""Linux facilities that Python's `os` lacks, as plain typed functions. No union rule is here."""
