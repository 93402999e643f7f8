"""The way to a device where only trtexec or ONNX Runtime is, and back."""
