"""A bundle for engines that other people run: Triton Inference Server, DeepStream."""
