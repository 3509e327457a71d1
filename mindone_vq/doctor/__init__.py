"""What is installed here and whether it works, as a text for a bug report: ``python -m mindone_vq.doctor``."""
