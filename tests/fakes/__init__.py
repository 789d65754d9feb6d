"""A CUDA driver and a TensorRT that need no GPU: strict about what the real ones leave undefined."""
