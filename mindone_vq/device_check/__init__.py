"""Computes on one device what this package needs, and compares the numbers: ``python -m mindone_vq.doctor --check``."""
