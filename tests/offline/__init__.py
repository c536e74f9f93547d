"""What is done to layers without a mount."""
