"""Certificates, trust and TLS: what a server shows, what a client accepts, what pairing captures."""
