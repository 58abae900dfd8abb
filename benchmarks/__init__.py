"""Benchmarks: ratios of two sides that are measured in one run; `python -m benchmarks --help`."""
