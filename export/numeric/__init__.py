"""Comparing the final bytes with eager PyTorch."""
