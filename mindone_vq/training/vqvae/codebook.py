"""A codebook that follows its latents: k-means at the start, running means after, dead codes revived."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.training.devices import SumOverDevices


class CodebookAverage(nn.Cell):
    """Moves every code to the running mean of the latents that chose it (VQ-VAE, arXiv 1711.00937, appendix A.1).

    A code whose running count falls below ``dead_below`` takes the place of a latent of the batch instead
    (Jukebox, arXiv 2005.00341, section 3.1, "random restarts").

    Args:
        codebook: (classes, channels) float32, changed in place.
        decay: share of the old running count and sum.
        dead_below: latents per batch, as a running mean, under which a code counts as dead; 0: none ever does.
        devices: how many share the batch.
    """

    def __init__(self, codebook: Parameter, decay: float = 0.99, dead_below: float = 1.0, devices: int = 1) -> None:
        super().__init__(auto_prefix=False)
        self.codebook, self.decay, self.dead_below, self.devices = codebook, decay, dead_below, devices
        classes = codebook.shape[0]
        # every code starts as if it had been chosen a little more than a dead one
        start = max(dead_below, 1.0) * np.ones(classes, np.float32)
        self.counts = Parameter(Tensor(start), name="codebook_counts", requires_grad=False)
        self.sums = Parameter(Tensor(codebook.asnumpy() * start[:, None]), name="codebook_sums", requires_grad=False)
        self.match = ops.MatMul(transpose_a=True)
        if devices > 1:
            self.sum = SumOverDevices([self.counts.shape, self.sums.shape, self.sums.shape])

    def state(self) -> list[Parameter]:
        """The state, for a checkpoint."""
        return [self.counts, self.sums]

    def restart(self, codebook: np.ndarray) -> None:
        """Starts again from ``codebook``, (classes, channels)."""
        counts = self.counts.asnumpy() * 0 + max(self.dead_below, 1.0)
        self.codebook.copy_(Tensor(codebook.astype(np.float32)))  # compiled graphs do not notice set_data
        self.counts.copy_(Tensor(counts))
        self.sums.copy_(Tensor((codebook * counts[:, None]).astype(np.float32)))

    def construct(self, latents: Tensor, codes: Tensor, candidates: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """One update.

        Args:
            latents: (pixels, channels) float32, of this device's part of the batch.
            codes: (pixels,) int32, the nearest code of each.
            candidates: (classes,) int32: the latent each code moves to if it is dead.
            here: (classes, 1) float32, 1 where that latent is one of this device's, 0 where it is another's.

        Returns:
            How often each code was chosen in the batch, (classes,) float32; how many were dead.
        """
        chosen = ops.one_hot(codes, self.codebook.shape[0], Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
        counts, sums = chosen.sum(0), self.match(chosen, latents)
        revived = ops.gather(latents, candidates, 0) * here
        if self.devices > 1:
            counts, sums, revived = self.sum((counts, sums, revived))
        counts_now = self.counts * self.decay + counts * (1.0 - self.decay)
        sums_now = self.sums * self.decay + sums * (1.0 - self.decay)
        dead = (counts_now < self.dead_below).astype(ms.float32)  # (classes,)
        counts_now = counts_now * (1.0 - dead) + dead * max(self.dead_below, 1.0)
        column = dead.expand_dims(-1)
        sums_now = sums_now * (1.0 - column) + revived * column * max(self.dead_below, 1.0)
        ops.assign(self.counts, counts_now)
        ops.assign(self.sums, sums_now)
        ops.assign(self.codebook, sums_now / counts_now.expand_dims(-1))
        return counts, dead.sum()


def k_means(points: np.ndarray, classes: int, rng: np.random.Generator, iterations: int = 20) -> np.ndarray:
    """Lloyd's algorithm: (classes, channels) centres of ``points``, (points, channels).

    A centre that no point chooses moves to a random point. Fewer points than classes are repeated with a little noise.
    """
    points = points.astype(np.float64)
    spread = points.std() * 1e-3 + 1e-12
    if len(points) >= classes:
        centres = points[rng.choice(len(points), classes, replace=False)]
    else:
        centres = points[rng.integers(0, len(points), classes)]
    centres = centres + rng.normal(0, spread, centres.shape)
    for _ in range(iterations):
        distances = (centres**2).sum(-1) - 2 * points @ centres.T
        nearest = distances.argmin(-1)
        counts = np.bincount(nearest, minlength=classes)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        empty = counts == 0
        sums[empty] = points[rng.integers(0, len(points), empty.sum())]
        centres = sums / np.maximum(counts, 1)[:, None]
    return centres.astype(np.float32)
