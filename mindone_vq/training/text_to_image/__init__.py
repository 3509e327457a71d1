"""Training the denoiser and the text encoder."""
