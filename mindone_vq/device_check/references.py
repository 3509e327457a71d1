"""What the primitives compute, in float64 with numpy."""

import numpy as np
from scipy import special


def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x: (..., in); weight: (out, in)."""
    return x @ weight.T + bias


def attention(heads: int, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(batch, tokens, heads * head_dim) each -> the shape of ``query``."""
    q, k, v = [each.reshape(*each.shape[:2], heads, -1).transpose(0, 2, 1, 3) for each in (query, key, value)]
    weights = special.softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5, -1)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(query.shape)


def convolution(stride: int, padding: tuple[int, int], x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x: (batch, channels, height, width); weight: (out, channels, k, k); padding: before and after, of both axes."""
    x = np.pad(x, ((0, 0), (0, 0), padding, padding))
    size, kernel = (x.shape[2] - weight.shape[2]) // stride + 1, weight.shape[2]
    end = stride * (size - 1) + 1
    result = np.zeros((len(x), len(weight), size * size))
    for i in range(kernel):
        for j in range(kernel):
            part = x[:, :, i : i + end : stride, j : j + end : stride]
            result += np.ascontiguousarray(weight[:, :, i, j]) @ part.reshape(*part.shape[:2], -1)
    return result.reshape(len(x), len(weight), size, size)


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gamma + beta


def group_norm(groups: int, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """x: (batch, channels, height, width)."""
    rows = x.reshape(len(x), groups, -1)
    normalized = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-6)
    return normalized.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]


def max_pool(x: np.ndarray) -> np.ndarray:
    """Of 2 x 2 positions."""
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).max((3, 5))


def segment_sums(count: int, x: np.ndarray, segments: np.ndarray) -> np.ndarray:
    result = np.zeros((count, x.shape[1]))
    np.add.at(result, segments, x)
    return result


def one_hot(depth: int, index: np.ndarray) -> np.ndarray:
    """A row of zeros for an index that is not below ``depth``."""
    return (index[..., None] == np.arange(depth)).astype(np.float64)


def sorted_down(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice, as ``operations.sorted_down``."""
    values = -np.sort(-x.astype(np.float32), -1)
    return values, values


def adam(x: np.ndarray, first: np.ndarray, second: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """A step of AdamWeightDecay with the settings of ``operations.AdamStep``."""
    first, second = 0.9 * first + 0.1 * gradient, 0.96 * second + 0.04 * gradient**2
    return x - 1e-2 * (first / (np.sqrt(second) + 1e-8) + 4.5e-2 * x)
