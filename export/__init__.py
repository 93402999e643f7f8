"""Export: QDQ ONNX dialects, runtimes, parity, bundles."""
