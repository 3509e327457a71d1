"""Cells that several models share. Nothing here knows a checkpoint, a file or a pipeline."""
