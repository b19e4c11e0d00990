"""Pairing: code, challenge and response, the attempt of both sides, and HTTPS around it."""
