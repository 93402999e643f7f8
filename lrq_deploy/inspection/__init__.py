"""Telling what a model file is and which known network it belongs to, without executing it."""
