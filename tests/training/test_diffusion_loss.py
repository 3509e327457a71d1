"""VariationalLoss against transition matrices in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.diffusion.schedule import TransitionSchedule
from mindone_vq.training.text_to_image.loss import VariationalLoss
from tests.diffusion.brute_force import matrix

PUBLISHED = (0.99999, 0.000009, 0.000009, 0.99999)
STRONG = (0.95, 0.05, 0.02, 0.7)  # where much is replaced
# classes, pixels, timesteps, images, straight lines of the schedule; mask weight, auxiliary weight, adaptive
CASES = {
    "published": ((19, 16, 100, 200, PUBLISHED), (1.0, 5e-4, True)),
    "much replacement": ((6, 9, 20, 60, STRONG), (2.5, 0.5, True)),
    "two classes, two timesteps": ((2, 5, 2, 12, STRONG), (0.3, 0.5, True)),
    "one pixel, published": ((30, 1, 100, 300, PUBLISHED), (0.3, 0.07, False)),
    "one image": ((5, 12, 9, 1, STRONG), (2.5, 0.5, True)),
}


def inputs(schedule, pixels, images, rng):
    """Every timestep in turn; pixels that are masked, kept and replaced; a network between unsure and sure."""
    classes = schedule.num_classes
    timesteps = ((-1 - np.arange(images)) % len(schedule.keep)).astype(np.int32)
    x_0 = rng.integers(0, classes, (images, pixels)).astype(np.int32)
    kind = rng.integers(0, 3, (images, pixels))
    replaced = (x_0 + rng.integers(1, classes, x_0.shape)) % classes
    x_t = np.choose(kind, (x_0, replaced, np.full_like(x_0, classes))).astype(np.int32)
    logits = rng.normal(0, rng.uniform(0.1, 4, (images, pixels, 1)), (images, pixels, classes))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    probability = rng.uniform(0.002, 0.4, images).astype(np.float32)
    return log_p.astype(np.float32), x_0, x_t, timesteps, probability


def posteriors(schedule, x_t, t):
    """q(x_{t-1} | x_t, x_0) by Bayes' rule for every pixel and every x_0: (pixels, classes, classes + 1)."""
    classes = schedule.num_classes
    before = np.eye(classes + 1)
    for i in range(t):
        before = before @ matrix(*schedule.between(i, i - 1), classes)
    step = matrix(*schedule.between(t, t - 1), classes)
    joint = before[:classes] * step[:, x_t].T[:, None]
    return joint / joint.sum(-1, keepdims=True)


def divergence(q, p):
    """KL(q || p) over the last axis, where 0 log 0 is 0."""
    present = q > 0
    return (q * np.log(np.where(present, q, 1) / np.where(present, p, 1))).sum(-1)


def terms(schedule, log_p, x_0, x_t, timesteps, mask_weight):
    """The bound's and the auxiliary term of each image, each (images,)."""
    kl, auxiliary = [], []
    for image, t in enumerate(timesteps):
        pixels = np.arange(x_0.shape[1])
        p = np.exp(log_p[image].astype(np.float64))
        missed = -log_p[image, pixels, x_0[image]].astype(np.float64)
        weights = np.where(x_t[image] == schedule.num_classes, mask_weight, 1.0)
        q = posteriors(schedule, x_t[image], t)
        if t == 0:
            kl.append(missed.sum())
            auxiliary.append(missed.sum())
        else:
            of_model = np.einsum("nx,nxs->ns", p, q)
            kl.append((weights * divergence(q[pixels, x_0[image]], of_model)).sum())
            auxiliary.append((weights * missed).sum())
    return np.array(kl), np.array(auxiliary)


def computed(loss, arrays):
    total, (kl, auxiliary) = ms.jit(loss, fullgraph=True)(*map(Tensor, arrays))
    return (each.asnumpy().astype(np.float64) for each in (total, kl, auxiliary))


@pytest.mark.parametrize("name", CASES)
def test_every_term_is_that_of_the_matrices(name, rng):
    (classes, pixels, num_timesteps, images, lines), (mask_weight, weight, adaptive) = CASES[name]
    schedule = TransitionSchedule.linear(classes, num_timesteps, *lines)
    arrays = inputs(schedule, pixels, images, rng)
    log_p, x_0, x_t, timesteps, probability = arrays
    total, kl, auxiliary = computed(VariationalLoss(schedule, mask_weight, weight, adaptive), arrays)
    expected_kl, expected_auxiliary = terms(schedule, log_p, x_0, x_t, timesteps, mask_weight)
    factor = weight * ((2 - timesteps / num_timesteps) if adaptive else 1)
    expected = ((expected_kl + factor * expected_auxiliary) / probability).mean() / pixels
    assert total == pytest.approx(expected, rel=1e-5)
    for result, term in ((kl, expected_kl), (auxiliary, expected_auxiliary)):
        error = np.abs(result - term)
        assert error.max() <= 1e-5 * pixels  # 1e-5 for each pixel
        assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(term)
        if pixels > 1:  # the divergence of one pixel alone may be as small as what float32 rounds
            assert (error / term).max() <= 1e-5


def test_the_terms_of_the_report_carry_no_gradient(rng):
    schedule = TransitionSchedule.linear(6, 20, *STRONG)
    log_p, *others = map(Tensor, inputs(schedule, 4, 20, rng))
    loss = VariationalLoss(schedule)

    def reported(log_p):
        _, (kl, auxiliary) = loss(log_p, *others)
        return kl.sum() + auxiliary.sum()

    assert np.abs(ms.grad(lambda log_p: loss(log_p, *others)[0])(log_p).asnumpy()).max() > 0
    assert not ms.grad(reported)(log_p).asnumpy().any()


def test_the_last_step_is_the_likelihood_and_no_weight_counts_there(rng):
    """t = 0 by hand: -log p(x_0 | x_1), with all pixels masked."""
    schedule = TransitionSchedule.linear(4, 10, *STRONG)
    p = rng.dirichlet(np.ones(4), size=(2, 3)).astype(np.float32)
    x_0 = np.array([[0, 1, 2], [3, 3, 0]], np.int32)
    arrays = (np.log(p), x_0, np.full_like(x_0, 4), np.zeros(2, np.int32), np.array([0.5, 0.25], np.float32))
    total, kl, auxiliary = computed(VariationalLoss(schedule, 7.0, 0.1, adaptive=True), arrays)
    likelihood = -np.log(np.take_along_axis(p, x_0[:, :, None], -1)[:, :, 0]).sum(-1)
    assert np.allclose(kl, likelihood, rtol=1e-6) and np.allclose(auxiliary, likelihood, rtol=1e-6)
    assert total == pytest.approx((1 + 2 * 0.1) * (likelihood / [0.5, 0.25]).mean() / 3, rel=1e-6)
