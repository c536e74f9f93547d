"""Tests of the differential oracle and by it: fixed seeds of what `make fuzz` draws (testing/oracle)."""
