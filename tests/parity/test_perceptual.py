"""LPIPS against the same network in PyTorch."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import save_file

from mindone_vq.training.vqvae.perceptual import load_perceptual
from tests.numerics import relative_error

# torchvision's configuration "D": channels, M for a pooling layer
LAYERS = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
TAKEN = (3, 8, 15, 22, 29)
CHANNELS = (64, 128, 256, 512, 512)
SHIFT = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
SCALE = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
ROUNDING = 1e-5  # what activations of about 1 may differ by


class TorchVGG16(torch.nn.Module):
    """As torchvision makes it, with a smaller classifier."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in LAYERS:
            if width == "M":
                layers.append(torch.nn.MaxPool2d(kernel_size=2, stride=2))
            else:
                convolution = torch.nn.Conv2d(channels, width, kernel_size=3, padding=1)
                torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # features keep their size
                torch.nn.init.normal_(convolution.bias, std=0.1)
                layers += [convolution, torch.nn.ReLU(inplace=True)]
                channels = width
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Sequential(torch.nn.Linear(4, 2))


def lpips(network, linear, x, y):
    """richzhang/PerceptualSimilarity, lpips/lpips.py, with spatial averages."""

    def features(pictures):
        hidden, taken = (pictures - SHIFT) / SCALE, []
        for i, layer in enumerate(network.features[:30]):  # the last pooling is of no use
            hidden = layer(hidden)
            if i in TAKEN:
                taken.append(hidden.clone())
        return taken

    def normalize(each):
        return each / (torch.sqrt(torch.sum(each**2, dim=1, keepdim=True)) + 1e-10)

    distances = []
    for i, (a, b) in enumerate(zip(features(x), features(y))):
        difference = (normalize(a) - normalize(b)) ** 2
        weight = torch.ones(1, CHANNELS[i], 1, 1) if linear is None else linear[f"lin{i}.model.1.weight"]
        distances.append((difference * weight).sum(1, keepdim=True).mean([2, 3], keepdim=True))
    return sum(distances).mean()


def is_smooth(network, picture):
    """Whether rounding cannot change which units are on, and which is the largest: there the gradient would jump."""
    hidden = (torch.tensor(picture) - SHIFT) / SCALE
    for layer in network.features[:30]:
        if isinstance(layer, torch.nn.Conv2d):
            hidden = layer(hidden)
            if hidden.abs().min() < ROUNDING:
                return False
        elif isinstance(layer, torch.nn.MaxPool2d):
            pairs = hidden.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).topk(2).values
            if ((pairs[..., 0] > 0) & (pairs[..., 0] - pairs[..., 1] < ROUNDING)).any():
                return False
            hidden = layer(hidden)
        else:
            hidden = hidden.relu()
    return True


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The network, its file as torchvision's are, the linear weights, their file."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = TorchVGG16()
    torch.save(network.state_dict(), folder / "vgg16.pth")
    linear = {f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1) for i, channels in enumerate(CHANNELS)}
    save_file(linear, folder / "lpips.safetensors")
    return network, folder / "vgg16.pth", linear, folder / "lpips.safetensors"


def near(picture, network, rng):
    """A picture (1, 3, height, width) that is somewhat different, at which the distance has a gradient."""
    while True:
        noise = rng.normal(0, 0.3, picture.shape)
        drawn = np.clip(picture + noise, -1, 1).astype(np.float32)[None]
        if is_smooth(network, drawn):
            return drawn


@pytest.mark.parametrize("with_linear", [pytest.param(False, marks=pytest.mark.slow), True])
def test_distance_and_gradient_agree(with_linear, files, rng):
    network, file, linear, linear_file = files
    loss = load_perceptual(str(file), str(linear_file) if with_linear else "")
    compiled = ms.jit(ms.value_and_grad(loss, grad_position=1), fullgraph=True)
    pictures = rng.uniform(-1, 1, (2, 3, 17, 22)).astype(np.float32)
    reconstructions = np.concatenate([near(each, network, rng) for each in pictures])
    value, gradient = compiled(Tensor(pictures), Tensor(reconstructions))
    with torch.enable_grad():
        given = torch.tensor(reconstructions, requires_grad=True)
        expected = lpips(network, linear if with_linear else None, torch.tensor(pictures), given)
        expected.backward()
    assert float(expected) > 0.01
    assert abs(float(value) - float(expected)) <= 1e-5 * float(expected)
    assert relative_error(gradient, given.grad) <= 1e-4
