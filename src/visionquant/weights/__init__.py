"""Which architectures and weights a study has, and where they come from."""
