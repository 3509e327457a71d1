"""Training of the VQ-VAE and of text to image; docs/training.md."""
