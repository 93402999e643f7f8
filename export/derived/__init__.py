"""Graphs made from the one of a bundle: older, fused ahead of time, or of another quantizer."""
