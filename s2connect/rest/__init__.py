"""HTTPS, common to pairing and session initiation: the server on its one port, the client, the bounds of strangers."""
