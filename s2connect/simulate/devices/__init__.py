"""Simulated devices: a physical model that can be read at a glance, and what it says and takes as resource manager."""
