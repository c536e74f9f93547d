"""What docs/ says about systemd, under a systemd of the test's own."""
