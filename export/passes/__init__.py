"""Graph passes over ``onnx_ir`` models: each states what it requires and what it ensures."""
