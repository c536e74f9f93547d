"""Tests by crashes: the daemon is killed in the middle of a load (testing/crash)."""
