"""The union itself. Imports no FUSE library, starts no thread and knows no request."""
