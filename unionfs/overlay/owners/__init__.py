"""Owners and modes that are shown otherwise than the layers' inodes have them, and how upper stores them."""
