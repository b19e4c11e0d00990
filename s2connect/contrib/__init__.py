"""Bridges to software of others; each needs its own extra, and none is loaded unless it is imported."""
