"""Finding queue and instance settings by measuring them on a live Triton."""
