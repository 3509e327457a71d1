"""What a user calls: text encoder, transformer, scheduler and VQ-VAE joined."""
