"""A trained RetinaNet from ONNX to detections on a camera stream."""
