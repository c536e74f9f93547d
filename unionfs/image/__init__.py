"""Images: layers that are addressed by content, where they are stored, and how they come in and go out.

Knows layers as directories and tar streams, and no network, no mount and no process. Its parts are imported
by their own names; a mount without an image loads none of them.
"""
