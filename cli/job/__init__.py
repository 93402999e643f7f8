"""One run of ``quantize``: its stages, its checks and its verdict."""
