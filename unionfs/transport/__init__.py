"""Transports: thin translations between the kernel's requests and the union. They have no union rule."""
