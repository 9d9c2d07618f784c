"""What Triton is told about a model, and how a running Triton confirms it."""
