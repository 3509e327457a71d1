"""Training the VQ-VAE."""
