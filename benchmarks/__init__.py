"""Benchmarks: what we take, beside what a user would otherwise have, measured in the same run. Nothing is asserted."""
