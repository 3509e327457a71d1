"""Distilling a pipeline into a student of a few steps."""
