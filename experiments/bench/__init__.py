"""Throughput side by side with peers: `python -m experiments.bench [names]`."""
