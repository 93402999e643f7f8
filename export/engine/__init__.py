"""Engines of TensorRT: built, recorded, loaded, timed and audited."""
