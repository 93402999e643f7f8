"""Figures of a graph: accuracy, integer share, latency, and their pictures."""
