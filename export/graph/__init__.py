"""What is done to the ONNX graph between torch and the final bytes."""
