"""One training step as one graph: loss, gradients, their mean over devices, clipping, update."""

from typing import Any, Union

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

from mindone_vq.training.devices import SumOverDevices
from mindone_vq.training.update.optimizer import AdamW, global_norm


class TrainingStep(nn.Cell):
    """Runs a loss, and changes the weights by its gradient.

    With ``accumulation`` above 1 the gradients of so many calls are averaged before the weights change. There are two
    graphs then: one only adds (``last=False``), the other adds and updates.

    Args:
        loss: a cell that returns the loss, a scalar float32, and a tuple of tensors to report.
        optimizer: what updates the weights.
        sums: where gradients are added up between updates; empty without accumulation.
        clip_norm: a gradient of larger norm is scaled down to it; 0: never.
        accumulation: calls before an update.
        devices: how many devices share the batch, each with a part of equal size.
        last: whether this call updates.
    """

    def __init__(
        self,
        loss: nn.Cell,
        optimizer: AdamW,
        sums: Union[ParameterTuple, tuple] = (),
        clip_norm: float = 0.0,
        accumulation: int = 1,
        devices: int = 1,
        last: bool = True,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.loss, self.optimizer, self.sums = loss, optimizer, sums
        self.clip_norm, self.accumulation, self.devices, self.last = clip_norm, accumulation, devices, last
        self.gradient = ms.value_and_grad(self.scaled_loss, None, optimizer.parameters, has_aux=True)
        self.each = ops.HyperMap()
        if devices > 1:
            self.sum = SumOverDevices([parameter.shape for parameter in optimizer.parameters])

    def scaled_loss(self, scale: Tensor, *batch: Tensor) -> tuple[Tensor, Any]:
        loss, report = self.loss(*batch)
        return loss * scale, (loss, report)

    def construct(self, learning_rate: Tensor, scale: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor, Any]:
        """One call.

        Args:
            learning_rate: scalar float32.
            scale: the loss is multiplied by it before the gradient is taken, and the gradient divided by it again,
                so that small gradients survive float16; a scalar, 1 where that is not needed.
            batch: what the loss takes.

        Returns:
            The loss; the norm of the gradient before clipping (not finite: nothing was changed; 0: no update was due);
            what the loss reports.
        """
        (_, (loss, report)), gradients = self.gradient(scale, *batch)
        share = 1.0 / (scale * (self.accumulation * self.devices))
        if self.accumulation > 1:
            for i in range(len(self.sums)):
                ops.assign_add(self.sums[i], gradients[i].astype(ms.float32) * share)
            gradients, share = self.sums, Tensor(1.0, ms.float32)
        if not self.last:
            return loss, Tensor(0.0, ms.float32), report
        if self.devices > 1:
            gradients = self.sum(gradients)
        norm = global_norm(gradients) * share
        if ops.isfinite(norm):
            if self.clip_norm > 0:
                share = share * ops.minimum(self.clip_norm / (norm + 1e-6), Tensor(1.0, ms.float32))
            gradients = self.each(ops.partial(_times, share), gradients)
            loss = ops.depend(loss, self.optimizer(gradients, learning_rate))
        if self.accumulation > 1:
            for total in self.sums:
                ops.assign(total, ops.zeros_like(total))
        return loss, norm, report


def _times(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient.astype(ms.float32) * factor
