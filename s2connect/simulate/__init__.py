"""Simulated devices and a simulated energy manager, for demonstrations, tests and benchmarks."""
