"""Tests of soak runs: the verdict on series, the work of clients, and a short run with a leak."""
