"""From a prompt to token ids to text embeddings."""
