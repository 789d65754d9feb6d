"""RetinaNet in plain PyTorch: the model, its losses, its training loop and its ONNX export (extra `train`)."""
