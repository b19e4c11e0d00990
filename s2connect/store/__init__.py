"""Durable state: pairings, tokens, pins, unpairings, and their secrets."""
