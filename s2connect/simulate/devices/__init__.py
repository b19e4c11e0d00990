"""Simulated devices: a small physical model of each, and its messages as resource manager."""
