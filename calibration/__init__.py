"""Calibration: synthetic sets, observers and range search."""
