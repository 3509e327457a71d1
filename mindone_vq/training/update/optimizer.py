"""What changes the weights: AdamW, the norm of gradients, the moving average of the weights."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


class AdamW(nn.Cell):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2) and with bias correction, as PyTorch's AdamW.

    ``nn.AdamWeightDecay`` corrects no bias: its first steps are too large by up to ``1 / sqrt(1 - beta_2)``. Its fused
    kernel is used here with a learning rate, an epsilon and a decay that make up for that.

    Args:
        parameters: what is trained; float32.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: of matrices only, not of biases and the scales of norms.
        prefix: of the name of the count of steps.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        betas: tuple[float, float] = (0.9, 0.96),
        eps: float = 1e-8,
        weight_decay: float = 4.5e-2,
        prefix: str = "",
    ) -> None:
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.first = self.parameters.clone("adam_first", init="zeros")
        self.second = self.parameters.clone("adam_second", init="zeros")
        self.count = Parameter(Tensor(0, ms.int32), name=f"{prefix}adam_count", requires_grad=False)
        self.betas, self.eps = betas, eps
        self.decays = tuple(weight_decay if parameter.ndim > 1 else 0.0 for parameter in parameters)
        self.adam = ops.AdamWeightDecay()

    def state(self) -> list[Parameter]:
        """The state, for a checkpoint."""
        return [*self.first, *self.second, self.count]

    def construct(self, gradients: tuple[Tensor, ...], learning_rate: Tensor) -> Tensor:
        """Changes the parameters. gradients: one for each, of its shape, float32; learning_rate: scalar."""
        ops.assign_add(self.count, Tensor(1, ms.int32))
        count = self.count.astype(ms.float32)
        first_missing = 1.0 - ops.pow(Tensor(self.betas[0], ms.float32), count)
        second_missing = ops.sqrt(1.0 - ops.pow(Tensor(self.betas[1], ms.float32), count))
        rate = learning_rate * second_missing / first_missing
        eps = self.eps * second_missing
        for i in range(len(self.parameters)):
            decay = self.decays[i] * first_missing / second_missing  # rate * decay is learning_rate * weight_decay
            self.adam(
                self.parameters[i],
                self.first[i],
                self.second[i],
                rate,
                Tensor(self.betas[0], ms.float32),
                Tensor(self.betas[1], ms.float32),
                eps,
                decay,
                gradients[i],
            )
        return self.count


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm of all gradients as one vector; not finite where any of them is not."""
    total = Tensor(0.0, ms.float32)
    for gradient in gradients:
        # not "+=": a graph would add in place, to a constant that it keeps from call to call
        total = total + ops.L2Loss()(gradient.astype(ms.float32))  # half the sum of squares
    return ops.sqrt(2.0 * total)


class WeightAverage(nn.Cell):
    """An exponential moving average of the weights: ``average = decay * average + (1 - decay) * weights``.

    Args:
        parameters: what is averaged; the average starts equal to them.
        decay: share of the old average.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        # ``clone(init="same")`` would run the initializer of a loaded parameter again
        self.averages = ParameterTuple(
            Parameter(Tensor(each.asnumpy().copy()), name=f"average.{each.name}", requires_grad=False)
            for each in parameters
        )
        self.decay = decay

    def state(self) -> list[Parameter]:
        """The state, for a checkpoint."""
        return list(self.averages)

    def construct(self) -> bool:
        """Moves the average towards the weights."""
        for i in range(len(self.parameters)):
            average = self.averages[i]
            ops.assign(average, average * self.decay + self.parameters[i] * (1.0 - self.decay))
        return True

    def exchange(self) -> None:
        """Swaps weights and average: once to use the average, and again to go on training."""
        for parameter, average in zip(self.parameters, self.averages):
            held = parameter.asnumpy().copy()
            parameter.copy_(Tensor(average.asnumpy().copy()))  # compiled graphs do not notice set_data
            average.copy_(Tensor(held))

    def restart(self, parameter: Parameter) -> None:
        """Lets the average of ``parameter`` start again from its value now."""
        for each, average in zip(self.parameters, self.averages):
            if each is parameter:
                average.copy_(Tensor(parameter.asnumpy().copy()))
