"""ONNX Runtime on this CPU, and the script that runs graphs where lrq-deploy is not."""
