"""Comparing arrays."""

import numpy as np


def as_numpy(x) -> np.ndarray:
    """A MindSpore or PyTorch tensor as float64 or integers."""
    x = x.asnumpy() if hasattr(x, "asnumpy") else x.detach().float().numpy() if hasattr(x, "detach") else np.asarray(x)
    return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x


def relative_error(ours, theirs) -> float:
    """Frobenius norm of the difference over that of ``theirs``."""
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    assert np.isfinite(ours).all()
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
