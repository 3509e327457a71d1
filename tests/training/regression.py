"""The smallest training: two layers on random numbers, which compiles in a second."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from mindone_vq.training.data.dataset import Problems
from mindone_vq.training.devices import Devices
from mindone_vq.training.run import Training
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.updates import Updates

SETTINGS = dict(data="numbers", batch_size=12, clip_norm=0.5, weight_decay=0.1, learning_rate=1e-2, warmup_steps=0)


class Regression(nn.Cell):
    """A mean squared error; the same weights every time."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(7)
        self.inner, self.outer = nn.Dense(5, 16), nn.Dense(16, 3)
        for layer in (self.inner, self.outer):
            layer.weight.set_data(Tensor(rng.normal(0, 0.4, layer.weight.shape).astype(np.float32)))
            layer.bias.set_data(Tensor(rng.normal(0, 0.4, layer.bias.shape).astype(np.float32)))

    def construct(self, x, y):
        output = self.outer(ops.tanh(self.inner(x)))
        return ops.square(output.astype(ms.float32) - y).mean(), (ops.stop_gradient(output),)


def make_updates(devices=Devices(), **settings):  # noqa: B008  frozen
    cell = Regression()
    return Updates(cell, cell.trainable_params(), RunSettings(**{**SETTINGS, **settings}), devices)


def batch_of(rng, size=12):
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in ((size, 5), (size, 3)))


def parts_of(batch, count, devices=Devices()):  # noqa: B008  frozen
    return [tuple(map(devices.part, part)) for part in zip(*(np.split(array, count) for array in batch))]


class Numbers:
    """A dataset without problems."""

    problems = Problems()

    def fingerprint(self):
        return "numbers"


class RegressionTraining(Training):
    """``fails_at``: the step that has no data; ``events``: what was called, at which step."""

    def __init__(self, settings, fails_at=None):
        super().__init__(settings, Devices())
        self.dataset, self.events, self.fails_at = Numbers(), [], fails_at
        self.updates = make_updates(**{**vars(settings)})

    def advance(self):
        if self.step == self.fails_at:
            raise OSError("no data")
        batch = batch_of(np.random.default_rng((self.settings.seed, self.step)))
        parts = parts_of(batch, self.settings.accumulation)
        update = self.updates(self.step, self.learning_rate.at(self.step), parts)
        return {"loss": update.loss, "gradient_norm": update.norm}

    def previews(self):
        self.events.append(("previews", self.step))
        return {"preview": Image.new("RGB", (2, 2))}

    def save(self, folder):
        self.events.append(("save", self.step))

    def close(self):
        self.events.append(("close", self.step))
