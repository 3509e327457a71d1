"""The discriminator: its losses computed in numpy, which weights each loss moves, a run that is cut off."""

import contextlib
import dataclasses
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from PIL import Image

from mindone_vq.training.devices import Devices
from mindone_vq.training.run import CHECKPOINTS
from mindone_vq.training.update.updates import Update, Updates
from mindone_vq.training.vqvae.adversarial import (
    AdversarialTerm,
    DiscriminatorLoss,
    PatchDiscriminator,
    discriminator_updates,
    make_discriminator,
    smallest_picture,
)
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.training.vqvae.model import make_vqvae
from mindone_vq.training.vqvae.training import VQVAETraining
from tests.compilation import compiled_graphs
from tests.numerics import relative_error
from tests.training.tiny_runs import VQVAE_RUN

SMALL = dataclasses.replace(
    VQVAE_RUN,
    accumulation=2,
    steps=4,
    save_every=2,
    preview_every=0,
    adversarial_weight=0.5,
    adversarial_from=1,
    discriminator_layers=2,
    discriminator_channels=8,
)


def updates_of(settings):
    discriminator = make_discriminator(settings.discriminator_layers, settings.discriminator_channels, settings.seed)
    return discriminator, discriminator_updates(discriminator, settings, Devices())


@pytest.fixture
def pictures(rng):
    Path("pictures").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(f"pictures/{i}.png")


class Mean(nn.Cell):
    """A discriminator that finds bright what is real."""

    def __init__(self):
        super().__init__()
        self.scale = ms.Parameter(Tensor(3.0), name="scale")

    def construct(self, pictures):
        return pictures.mean((1, 2, 3), keep_dims=True) * self.scale


def in_model_range(pixels):
    return (pixels / 127.5 - 1).astype(np.float32)


def arrays(parameters):
    return {parameter.name: parameter.asnumpy().copy() for parameter in parameters}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_hinge_loss_in_closed_form(rng):
    pixels = np.stack([np.full((3, 4, 4), value, np.uint8) for value in (10, 120, 150, 250)])
    made = rng.uniform(-1, 1, pixels.shape).astype(np.float32)
    made += np.float32([-0.9, -0.2, 0.1, 0.8]).reshape(4, 1, 1, 1)
    real, fake = (3 * each.mean((1, 2, 3)) for each in (in_model_range(pixels), made))
    assert (real > 1).any() and (real < 1).any() and (fake > -1).any() and (fake < -1).any()
    expected = (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()) / 2
    loss, report = DiscriminatorLoss(Mean())(Tensor(pixels), Tensor(made))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert [float(each) for each in report] == pytest.approx([real.mean(), fake.mean()], rel=1e-5)
    term = AdversarialTerm(Mean())(Tensor(in_model_range(pixels)), Tensor(made))
    assert float(term) == pytest.approx(-fake.mean(), rel=1e-5)


def test_the_discriminator_sees_patches(rng):
    discriminator = make_discriminator(2, 8, seed=1)
    x = rng.uniform(-1, 1, (3, 3, 24, 16)).astype(np.float32)
    logits = discriminator(Tensor(x)).asnumpy()
    assert logits.shape == (3, 1, 4, 2)
    assert relative_error(discriminator(Tensor(x[1:2])), logits[1:2]) <= 1e-5  # whatever else is in the batch
    smallest = smallest_picture(3)
    assert PatchDiscriminator(3, 4)(ops.zeros((1, 3, smallest, smallest))).shape == (1, 1, 1, 1)
    widths = [p.shape[0] for p in PatchDiscriminator(5, 4).get_parameters() if p.ndim == 4]
    assert widths == [4, 8, 16, 32, 32, 32, 1]


def test_initial_weights_are_those_of_the_seed():
    first, same, other = (arrays(make_discriminator(2, 8, seed).get_parameters()) for seed in (0, 0, 1))
    assert not changed(first, same)
    assert len(changed(first, other)) == 4  # the convolutions
    weight = first["discriminator.main.2.weight"]
    assert weight.std() == pytest.approx(0.02, rel=0.1) and abs(weight.mean()) < 0.002


def test_nothing_comes_back_from_the_discriminators_loss(rng):
    discriminator = PatchDiscriminator(2, 8)
    pixels = Tensor(rng.integers(0, 256, (2, 3, 16, 16), np.uint8))
    made = Tensor(rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32))
    assert not ms.grad(lambda x: DiscriminatorLoss(discriminator)(pixels, x)[0])(made).asnumpy().any()
    assert ms.grad(lambda x: AdversarialTerm(discriminator)(pixels, x))(made).asnumpy().all()


def step(training):
    """One step as the loop makes it: what it logs, and the names of the parameters that it changed."""
    before = arrays(training._parameters())
    values = training.advance()
    training.step += 1
    return values, changed(before, arrays(training._parameters()))


@pytest.mark.slow
def test_each_is_changed_by_its_own_step_and_the_discriminator_only_when_it_counts(pictures, monkeypatch):
    training = VQVAETraining(SMALL, Devices())
    own = {parameter.name for parameter in training.discriminator.parameters()}
    held = [parameter.name for parameter in training._parameters()]
    assert all("discriminator." in name for name in own)
    assert own < set(held) and len(held) == len(set(held))

    def plain(values):
        return values["l1"] + values["l2"] + 0.25 * values["commitment"]

    values, moved = step(training)
    assert moved and not moved & own
    assert "discriminator_loss" not in values and values["adversarial"]
    assert values["loss"] == pytest.approx(plain(values), rel=1e-6)
    graphs, shown, call = compiled_graphs(), [], Updates.__call__

    def watched(self, *given):
        if self is training.discriminator:
            shown.extend(given[-1])
        return call(self, *given)

    monkeypatch.setattr(Updates, "__call__", watched)
    values, moved = step(training)
    # as long as no logit is beyond 1 or -1, pictures and reconstructions cancel in the last bias
    assert {name for name in own if not name.endswith("main.8.bias") and "gradient_sum" not in name} <= moved
    assert values["discriminator_loss"] == pytest.approx(1, abs=0.1)  # its first logits are close to 0
    assert values["loss"] == pytest.approx(plain(values) + 0.5 * values["adversarial"], rel=1e-6)
    assert compiled_graphs() == graphs + 2  # the discriminator's, of both parts of the batch; no other
    for i, (pixels, _) in enumerate(shown):
        assert np.array_equal(pixels, training.batches.batch(SMALL.accumulation + i))
    distances = [np.abs(made.asnumpy() - in_model_range(pixels)).mean() for pixels, made in shown]
    assert len(distances) == 2 and np.mean(distances) == pytest.approx(values["l1"], rel=1e-5)


@pytest.mark.slow
def test_the_vqvae_learns_from_the_term_by_its_weight(rng):
    model, discriminator = make_vqvae(SMALL), PatchDiscriminator(2, 8)
    pixels = Tensor(rng.integers(0, 256, (2, 3, 16, 16), np.uint8))
    shared = dict(l1_weight=1.0, l2_weight=1.0, codebook_weight=0.0)

    def gradient(loss, *weights):
        parameters = ms.ParameterTuple(model.decoder.trainable_params())
        _, found = ms.value_and_grad(loss, None, parameters, has_aux=True)(pixels, Tensor(1.0), *weights)
        return np.concatenate([each.asnumpy().ravel() for each in found])

    with_term = VQVAELoss(model, **shared, terms=[AdversarialTerm(discriminator)])
    plain = gradient(VQVAELoss(model, **shared))
    off, on = gradient(with_term, Tensor(0.0)), gradient(with_term, Tensor(1.0))
    assert relative_error(off, plain) <= 1e-6
    assert relative_error(on, plain) > 1e-2


def test_the_discriminator_learns_to_tell_them_apart(rng):
    settings = dataclasses.replace(SMALL, accumulation=1, clip_norm=0.0)
    discriminator, updates = updates_of(settings)
    pixels = rng.integers(0, 256, (4, 3, 16, 16), np.uint8)
    made = Tensor(0.3 * in_model_range(pixels))
    weights = discriminator.trainable_params()
    gradient = ms.value_and_grad(DiscriminatorLoss(discriminator), None, weights, has_aux=True)
    (loss, _), gradients = gradient(Tensor(pixels), made)
    first = updates(0, 1e-3, [(pixels, made)])
    norm = np.sqrt(sum(float((each.asnumpy() ** 2).sum()) for each in gradients))
    assert (first.loss, first.norm) == pytest.approx((float(loss), norm), rel=1e-4)
    for i in range(1, 40):
        last = updates(i, 1e-3, [(pixels, made)])
    assert last.loss < 0.5 < 0.9 < first.loss
    real, fake = (discriminator(each).mean() for each in (Tensor(in_model_range(pixels)), made))
    assert float(real) > 0.3 and float(fake) < -0.3


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_logged(pictures, rng, caplog):
    training = VQVAETraining(dataclasses.replace(SMALL, accumulation=1), Devices())
    before = arrays(training.discriminator.parameters())
    pixels = rng.integers(0, 256, (4, 3, 16, 16), np.uint8)
    report = (Tensor(np.full(pixels.shape, np.nan, np.float32)),)
    with contextlib.closing(training):
        loss = training._train_discriminator([(pixels,)], Update(1.0, 1.0, [report]))
    assert np.isnan(loss)
    assert not changed(before, arrays(training.discriminator.parameters()))
    assert "The discriminator: step 1" in caplog.text and "norm of its gradient nan" in caplog.text


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(pictures):
    settings = dataclasses.replace(SMALL, accumulation=1)
    whole = VQVAETraining(settings, Devices())
    whole.run()
    (settings.output / CHECKPOINTS / "step-00000004.safetensors").unlink()
    again = VQVAETraining(dataclasses.replace(settings, resume=True), Devices())
    fresh = arrays(again._parameters())
    again.run()
    assert again.step == 4 and len(changed(fresh, arrays(again._parameters()))) > len(fresh) / 2
    assert not changed(arrays(whole._parameters()), arrays(again._parameters()))
