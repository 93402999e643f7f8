"""Quantized student: fake-quant layers, scale table, frozen form."""
