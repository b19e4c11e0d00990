"""Diagnostics: checks of a machine, an endpoint and its peers, and of recorded messages. They return findings."""
