"""The distance between features of VGG16: its parts by hand, its files, and what a run does with it."""

import dataclasses
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image
from safetensors.numpy import save_file

from mindone_vq.nn.normalization import unit_length
from mindone_vq.training.devices import Devices
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.training.vqvae.model import make_vqvae
from mindone_vq.training.vqvae.perceptual import CHANNELS, EPS, PerceptualLoss, load_perceptual
from mindone_vq.training.vqvae.training import VQVAETraining
from tests.training.tiny_runs import VQVAE_RUN as SMALL

CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, **dict.fromkeys((17, 19, 21, 24, 26, 28), 512)}


@pytest.fixture(scope="module")
def weights():
    """A state dict with torchvision's names."""
    rng, channels, made = np.random.default_rng(0), 3, {}
    for i, width in CONVOLUTIONS.items():
        spread = (2 / (9 * channels)) ** 0.5  # features keep their size
        made[f"features.{i}.weight"] = spread * rng.standard_normal((width, channels, 3, 3), np.float32)
        made[f"features.{i}.bias"] = 0.1 * rng.standard_normal(width, np.float32)
        channels = width
    made["classifier.0.weight"] = np.ones((2, 2), np.float32)
    return made


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file(weights, path)
    return str(path)


@pytest.fixture
def pictures(rng):
    Path("pictures").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(f"pictures/{i}.png")


class Levels(nn.Cell):
    """Two levels of features: the picture, and its square."""

    def construct(self, pictures):
        return pictures, pictures * pictures


def test_the_distance_is_that_of_features_of_unit_length(rng):
    x, y = rng.uniform(-1, 1, (2, 3, 4, 5, 6)).astype(np.float32)
    weights = rng.uniform(0, 1, (2, 1, 4, 1, 1)).astype(np.float32)

    def expected(weights):
        total = 0
        for i, (a, b) in enumerate(((x, y), (x * x, y * y))):
            a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
            total += (weights[i] * (a - b) ** 2).sum(1).mean()
        return total

    plain, weighted = PerceptualLoss(Levels()), PerceptualLoss(Levels(), [Tensor(each) for each in weights])
    assert float(plain(Tensor(x), Tensor(y))) == pytest.approx(expected([1, 1]), rel=1e-5)
    assert float(weighted(Tensor(x), Tensor(y))) == pytest.approx(expected(weights), rel=1e-5)
    assert float(plain(Tensor(x), Tensor(x))) == 0


def test_features_that_are_zero_have_a_gradient():
    gradient = ms.grad(lambda x: unit_length(x, 1, EPS).sum())(Tensor(np.zeros((1, 3, 2, 2), np.float32)))
    assert np.isfinite(gradient.asnumpy()).all()


def test_nothing_of_the_network_is_trained(file):
    assert load_perceptual(file).trainable_params() == []


def test_files_that_do_not_fit_are_named(weights, tmp_path):
    def saved(tensors, name="some.safetensors"):
        save_file(tensors, tmp_path / name)
        return str(tmp_path / name)

    without = {key: array for key, array in weights.items() if key != "features.28.bias"}
    with pytest.raises(ValueError, match=r"perceptual_weights is .*some.*vgg16(.|\n)*missing: features.28.bias"):
        load_perceptual(saved(without))
    with pytest.raises(ValueError, match=r"not in the network: features.30.weight"):
        load_perceptual(saved({**weights, "features.30.weight": np.ones(1, np.float32)}))
    with pytest.raises(FileNotFoundError, match="perceptual_weights is nowhere.pth"):
        load_perceptual("nowhere.pth")
    whole = saved(weights, "vgg16.safetensors")
    linear = {f"lin{i}.model.1.weight": np.ones((1, channels, 1, 1), np.float32) for i, channels in enumerate(CHANNELS)}
    assert len(load_perceptual(whole, saved(linear)).linear) == 5
    linear["lin4.model.1.weight"] = np.ones((1, 256, 1, 1), np.float32)
    with pytest.raises(ValueError, match=r"perceptual_linear_weights is .*some.*lin4.model.1.weight \(1, 256, 1, 1\)"):
        load_perceptual(whole, saved(linear))
    with pytest.raises(FileNotFoundError, match="perceptual_linear_weights is nowhere.pth"):
        load_perceptual(whole, "nowhere.pth")


class Brightness(nn.Cell):
    """A term that is easy to take a gradient of."""

    def construct(self, pictures, reconstructions):
        return (pictures * reconstructions).mean()


def test_a_further_term_is_weighed_and_reported(rng):
    model = make_vqvae(SMALL)
    batch = rng.integers(0, 256, (2, 3, 16, 16), np.uint8)
    plain, _ = VQVAELoss(model)(Tensor(batch), Tensor(1.0))
    loss, report = VQVAELoss(model, terms=[Brightness()], report_reconstructions=True)(
        Tensor(batch), Tensor(1.0), Tensor(0.25)
    )
    reconstructions = report[-1].asnumpy()
    term = (reconstructions * (batch / 127.5 - 1)).mean()
    assert reconstructions.shape == batch.shape
    assert float(report[2 + 1]) == pytest.approx(term, rel=1e-4)
    assert float(loss) == pytest.approx(float(plain) + 0.25 * term, rel=1e-5)
    assert len(report) == 7


@pytest.mark.slow
def test_a_run_with_the_term(pictures, file):
    plain = VQVAETraining(SMALL, Devices())
    seen = VQVAETraining(dataclasses.replace(SMALL, perceptual_weight=0.5, perceptual_weights=file), Devices())
    assert [each.name for each in seen._parameters()] == [each.name for each in plain._parameters()]
    without, values = plain.advance(), seen.advance()
    assert "perceptual" not in without
    assert values["l1"] == pytest.approx(without["l1"], rel=1e-5)
    assert values["perceptual"] > 0.1
    assert values["loss"] == pytest.approx(without["loss"] + 0.5 * values["perceptual"], rel=1e-4)
    assert values["gradient_norm"] != pytest.approx(without["gradient_norm"], rel=1e-2)


def test_settings_of_a_term_that_is_off_do_not_keep_a_run_from_going_on(pictures):
    names = VQVAETraining(SMALL, Devices()).identity()
    assert not [name for name in names if name.startswith(("perceptual", "adversarial", "discriminator"))]
