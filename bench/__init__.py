"""Benchmarks: what a build costs, beside the tools people would pick instead. `python -m bench --help`."""
