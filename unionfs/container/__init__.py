"""Containers: an image with an init layer and an upper of its own, and the process that runs in it.

Its parts are imported by their own names. Network is the host's; nothing here limits resources.
"""
