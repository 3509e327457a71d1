"""From any VQ-Diffusion checkpoint to a folder that the pipelines load, and to MindSpore's own files."""
