"""The forward process as explicit (K+1) x (K+1) matrices in float64."""

import numpy as np


def matrix(keep: float, replace: float, mask: float, classes: int) -> np.ndarray:
    """Q[i, j] = q(next = j | now = i); the mask, the last state, is absorbing (equation 7)."""
    q = np.full((classes + 1, classes + 1), replace)
    q[:-1, :-1] += keep * np.eye(classes)
    q[:, -1] = mask
    q[-1] = 0
    q[-1, -1] = 1
    return q


def posterior(schedule, p_x_0: np.ndarray, x_t: int, t: int, s: int) -> np.ndarray:
    """sum over x_0 of q(x_s | x_t, x_0) p(x_0) by Bayes' rule, from products of one-step matrices; (K + 1,)."""
    classes = schedule.num_classes
    steps = [matrix(*schedule.between(i, i - 1), classes) for i in range(t + 1)]
    to_s = np.linalg.multi_dot([np.eye(classes + 1), *steps[: s + 1], np.eye(classes + 1)])
    s_to_t = np.linalg.multi_dot([np.eye(classes + 1), *steps[s + 1 : t + 1], np.eye(classes + 1)])
    result = np.zeros(classes + 1)
    for x_0 in range(classes):
        joint = to_s[x_0] * s_to_t[:, x_t]
        result += p_x_0[x_0] * joint / joint.sum()
    return result
