"""What is learned from: pictures, captions, batches of them, and codes."""
