"""Export tooling: PyTorch models become immutable, checked versions in a Triton model repository."""
