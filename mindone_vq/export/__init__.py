"""A pipeline as MINDIR files, which MindSpore Lite runs without this package: docs in ``pipeline.json`` beside them."""

from mindone_vq.export.folder import export_pipeline

__all__ = ["export_pipeline"]
