"""Training: settings, logs and what runs a model over its data."""
