"""Real programs on a real root filesystem, an ordinary user, a user namespace."""
