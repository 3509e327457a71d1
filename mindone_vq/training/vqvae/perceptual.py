"""How different two pictures look: the distance between their features in VGG16 (LPIPS, arXiv 1801.03924)."""

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters

from mindone_vq.nn.normalization import unit_length
from mindone_vq.nn.resnet import conv3x3
from mindone_vq.weights import store
from mindone_vq.weights.lazy import LazyTensor

CHANNELS = (64, 128, 256, 512, 512)  # of the five levels of VGG16 (arXiv 1409.1556, table 1, D)
CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each level; the features are taken after the last
SMALLEST = 2 ** (len(CHANNELS) - 1)  # side of a picture of which one pixel is left at the lowest level
# Mean and deviation of ImageNet's colours for pictures in [-1, 1], as LPIPS rounds them.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# LPIPS adds it to the length, which has no gradient where all channels are zero; here it is added to the square.
EPS = 1e-10


class VGG16(nn.Cell):
    """The convolutional part of VGG16 under torchvision's names, ``features.0.weight`` to ``features.28.bias``."""

    def __init__(self) -> None:
        super().__init__()
        layers, taken, channels = [], [], 3
        for width, convolutions in zip(CHANNELS, CONVOLUTIONS):
            if layers:
                layers.append(nn.MaxPool2d(2, 2))
            for _ in range(convolutions):
                layers += [conv3x3(channels, width), nn.ReLU()]
                channels = width
            taken.append(len(layers) - 1)
        self.features, self.taken = nn.CellList(layers), tuple(taken)
        self.shift, self.scale = (Tensor(np.float32(each).reshape(1, 3, 1, 1)) for each in (SHIFT, SCALE))

    def construct(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """pictures: (batch, 3, height, width) in [-1, 1] -> relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

        Each is (batch, channels, h, w); h and w are those of the picture, then half of the one before, rounded down.
        """
        x = (pictures - self.shift) / self.scale
        taken = ()
        for i in range(len(self.features)):
            x = self.features[i](x)
            if i in self.taken:
                taken = (*taken, x)
        return taken


class PerceptualLoss(nn.Cell):
    """LPIPS (arXiv 1801.03924, equation 1): squared differences of features of unit length, averaged over positions.

    Args:
        network: gives the features; it is not trained.
        linear: for each level (1, channels, 1, 1), the weight of each channel; empty: every channel has weight 1.
    """

    def __init__(self, network: VGG16, linear: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.network, self.linear = network, tuple(linear)
        for parameter in network.get_parameters():
            parameter.requires_grad = False

    def construct(self, pictures: Tensor, reconstructions: Tensor) -> Tensor:
        """Two times (batch, 3, height, width) in [-1, 1] -> scalar, the mean over the batch of the sum over levels."""
        expected, given = self.network(pictures), self.network(reconstructions)
        total = Tensor(0.0, ms.float32)
        for i in range(len(expected)):
            difference = ops.square(unit_length(expected[i], 1, EPS) - unit_length(given[i], 1, EPS))
            if self.linear:
                difference = difference * self.linear[i]
            total = total + difference.sum(1).mean()
        return total


def load_perceptual(weights: str, linear: str = "") -> PerceptualLoss:
    """The loss with weights from files.

    Args:
        weights: state dict of torchvision's vgg16, .pth or .safetensors; its classifier is not read.
        linear: state dict of LPIPS' linear layers for VGG16, ``lin0.model.1.weight`` to ``lin4.model.1.weight``;
            empty: every channel has the same weight.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, or holds something else.
    """
    tensors = _open("perceptual_weights", weights)
    with no_init_parameters():
        network = VGG16()
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier.")}
    try:
        store.load_into(network, kept)
    except store.WeightMismatchError as error:
        message = f"perceptual_weights is {weights}; expected the state dict of torchvision's vgg16. {error}"
        raise ValueError(message) from error
    return PerceptualLoss(network, _read_linear(linear) if linear else ())


def _read_linear(file: str) -> list[Tensor]:
    tensors = _open("perceptual_linear_weights", file)
    expected = {f"lin{i}.model.1.weight": (1, channels, 1, 1) for i, channels in enumerate(CHANNELS)}
    given = {key: each.shape for key, each in tensors.items()}
    if given != expected:
        described = (", ".join(f"{key} {shape}" for key, shape in list(each.items())[:8]) for each in (given, expected))
        raise ValueError(
            "perceptual_linear_weights is {}, which holds {}; expected LPIPS' weights for VGG16, {}.".format(
                file, *described
            )
        )
    return [Tensor(tensors[key].read().astype(np.float32)) for key in expected]


def _open(name: str, file: str) -> dict[str, LazyTensor]:
    if not Path(file).is_file():
        raise FileNotFoundError(f"{name} is {file}, which is no file: give the path of a .pth or .safetensors file.")
    return store.open_weights([Path(file)])
