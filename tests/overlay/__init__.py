"""The union's core without a mount: what the caller sees, and what upper and work hold afterwards."""
