"""Measurements, each a module with one command; results are kept in `benchmarks/results`."""
