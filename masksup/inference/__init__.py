"""What runs an exported model: onnxruntime, numpy and Pillow, without torch."""
