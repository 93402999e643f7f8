"""Passes over the captured ATen graph, one per file."""
