"""Which picture a start stands for: one that the student itself finds likely from there.

One step of a factorised model draws all codes independently, so what they have in common has to be known before. The
start codes tell it: they are a latent variable, as in Di4C (arXiv 2410.08709), that chooses among a prompt's pictures.
Every few steps the pictures of the next prompts are assigned to new starts by log p(x_0 | start) of the student as it
is, and training on these pairs raises those likelihoods: expectation maximisation. The assignment is a transport plan
that uses all pictures about equally often (unbalanced optimal transport, arXiv 1607.05816), so that none is forgotten.
"""

import numpy as np
from mindspore import Tensor, nn, ops
from scipy.special import logsumexp

from mindone_vq.training.text_to_image.loss import TextToImageLoss

ITERATIONS, TOLERANCE = 200, 1e-3  # of the search for prices


class StartLikelihood(nn.Cell):
    """log p(x_0 | start) of every picture, from every start.

    Args:
        network: reads captions and codes.
        timestep: at which it reads start codes.
    """

    def __init__(self, network: TextToImageLoss, timestep: int) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.timestep = network, timestep

    def construct(self, starts: Tensor, x_0: Tensor, input_ids: Tensor) -> Tensor:
        """Of one prompt.

        Args:
            starts: x_T, (batch, pixels) int32.
            x_0: (pictures, pixels) int32.
            input_ids: the prompt, (batch, length) int32.

        Returns:
            (batch, pictures) float32.
        """
        condition = self.network.condition(input_ids, ops.zeros_like(input_ids[:, 0]))
        timestep = ops.full_like(input_ids[:, 0], self.timestep)
        log_p = self.network.transformer.log_p_x_0(starts, condition, timestep)  # (batch, pixels, classes)
        wanted = ops.tile(x_0.transpose(1, 0).expand_dims(0), (starts.shape[0], 1, 1))  # (batch, pixels, pictures)
        return ops.gather_elements(log_p, 2, wanted).sum(1)


def assigned(
    log_likelihoods: np.ndarray, balance: float, rng: np.random.Generator, temperature: float = 2.0
) -> np.ndarray:
    """A picture for each start, drawn from the transport plan between both: (starts,).

    Args:
        log_likelihoods: of the pictures, from each start, (starts, pictures).
        balance: nats by which the log-likelihoods of a picture are lowered that would be used e times as often as the
            others. Near 0 every start gets its likeliest picture; a large number uses all pictures equally often.
        rng: the random numbers.
        temperature: nats by which likelihoods differ that are taken for about the same.
    """
    starts, pictures = log_likelihoods.shape
    prices = np.zeros(pictures)
    for _ in range(ITERATIONS):
        log_plan = log_likelihoods / temperature - prices
        log_plan -= logsumexp(log_plan, 1, keepdims=True)
        log_used = logsumexp(log_plan, 0) - np.log(starts / pictures)
        before, prices = prices, (prices + log_used) * balance / (balance + temperature)
        if np.abs(prices - before).max() < TOLERANCE:
            break
    below = np.exp(log_plan).cumsum(1) <= rng.random((starts, 1))
    return np.minimum(below.sum(1), pictures - 1)


def random_starts(count: int, codes: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Start codes, in which no code is in its place more than once oftener than another: (count, codes) int32."""
    blocks = range(-(-count // classes))
    places = [np.concatenate([rng.permutation(classes) for _ in blocks])[:count] for _ in range(codes)]
    return np.stack(places, 1).astype(np.int32)
