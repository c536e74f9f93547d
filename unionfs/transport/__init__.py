"""Transports: thin translations between the kernel's requests and the union. Never hold a union rule."""
