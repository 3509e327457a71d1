"""Gradients of the training losses, the optimizer and the clipping against PyTorch."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from torch.nn import functional

from mindone_vq import VQDiffusionScheduler
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.training.text_to_image.loss import TextToImageLoss, VariationalLoss
from mindone_vq.training.update.optimizer import AdamW
from mindone_vq.training.update.step import TrainingStep
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.weights.rules import state_dict_parameters
from tests.numerics import as_numpy, relative_error
from tests.parity.peers import pair_clip, pair_transformer, pair_vq
from tests.parity.published_loss import PublishedLoss

CLIP = dict(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=1,
    num_attention_heads=3,
    max_position_embeddings=9,
    eos_token_id=49,
)
TRANSFORMER = dict(
    num_attention_heads=3,
    attention_head_dim=8,
    num_layers=1,
    cross_attention_dim=24,
    attention_bias=True,
    sample_size=4,
    num_vector_embeds=14,
    num_embeds_ada_norm=20,
    activation_fn="geglu-approximate",
)
PUBLISHED = dict(alpha_cum_start=0.99999, alpha_cum_end=9e-6, gamma_cum_start=9e-6, gamma_cum_end=0.99999)
# changes to the networks, the scheduler's and the loss's arguments, images
STRONG = dict(alpha_cum_start=0.95, alpha_cum_end=0.05, gamma_cum_start=0.02, gamma_cum_end=0.7)
RUNS = {
    "as published": ({}, {}, {}, {}, 4),
    "much replacement": ({"hidden_act": "gelu"}, {"activation_fn": "geglu"}, STRONG, {"mask_weight": 0.4}, 3),
    "other shapes": (
        {"num_attention_heads": 2, "num_hidden_layers": 2},
        {"num_attention_heads": 2, "num_layers": 2, "sample_size": 3, "num_vector_embeds": 40, "attention_bias": False},
        {},
        {"auxiliary_weight": 0.2, "adaptive": False},
        7,
    ),
}
VQVAES = {
    "attention": dict(
        block_out_channels=(8, 12),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
        latent_channels=6,
        vq_embed_dim=5,
        num_vq_embeddings=23,
    ),
    "spatial": dict(
        block_out_channels=(64,), norm_num_groups=8, norm_type="spatial", latent_channels=4, num_vq_embeddings=11
    ),
}
NOTHING = 1e-6  # of the norm of the whole gradient: what rounding leaves of 0
ROUNDING = 1e-8  # of the same: what float32 loses however small a parameter's own gradient


@pytest.fixture(autouse=True)
def _gradients(_no_gradients):
    with torch.enable_grad():
        yield


@pytest.fixture
def _timestep_of_each_image(monkeypatch):
    """diffusers' AdaLayerNorm takes one timestep for the batch; so it takes one for each image."""

    def forward(self, x, timestep):
        scale, shift = self.linear(self.silu(self.emb(timestep))).unsqueeze(1).chunk(2, dim=-1)  # (batch, 1, dim) each
        return self.norm(x) * (1 + scale) + shift

    monkeypatch.setattr("diffusers.models.normalization.AdaLayerNorm.forward", forward)


def keys_of(cell):
    """Our parameters of a network, and PyTorch's names of them."""
    found = {key: parameter for key, parameter in state_dict_parameters(cell).items() if parameter.requires_grad}
    return list(found), list(found.values())


def assert_gradients_agree(ours, theirs, expected_zero=()):
    """ours, theirs: gradients by name; those that are 0 but for rounding end in one of ``expected_zero``."""
    theirs = {name: as_numpy(gradient) for name, gradient in theirs.items()}
    norms = {name: np.linalg.norm(gradient) for name, gradient in theirs.items()}
    whole = np.sqrt(sum(norm**2 for norm in norms.values()))
    for name, expected in theirs.items():
        if name.endswith(expected_zero):
            assert max(norms[name], np.linalg.norm(as_numpy(ours[name]))) <= NOTHING * whole, name
        else:
            assert norms[name] > 0, f"{name} has no gradient"
            error = np.linalg.norm(as_numpy(ours[name]) - expected)
            assert error <= 1e-4 * norms[name] + ROUNDING * whole, f"{name}: {error} of {norms[name]}"


def batch_of(scheduler, transformer, images, rng):
    """What a training step takes; timesteps that differ, 0 among them; the first and the last caption dropped."""
    classes, pixels = transformer["num_vector_embeds"] - 1, transformer["sample_size"] ** 2
    x_0 = rng.integers(0, classes, (images, pixels)).astype(np.int32)
    timesteps = rng.integers(1, transformer["num_embeds_ada_norm"], images).astype(np.int32)
    timesteps[0] = 0
    x_t = scheduler.add_noise(x_0, timesteps, rng).asnumpy()
    x_t[:, :2] = (x_0[:, :2] + 1) % classes  # replaced, which the published schedule hardly ever does
    probability = rng.uniform(0.01, 0.2, images).astype(np.float32)
    ids = rng.integers(0, 49, (images, CLIP["max_position_embeddings"])).astype(np.int32)
    ids[:, -3:] = 49
    dropped = np.arange(images) % (images - 1) == 0
    return x_0, x_t, timesteps, probability, ids, dropped


def their_loss(clip, transformer, null, published, batch):
    """The same loss by PyTorch's networks and the published formulas."""
    x_0, x_t, timesteps, probability, ids, dropped = (torch.tensor(array).long() for array in batch)
    probability = torch.tensor(batch[3]).double()
    hidden = clip(input_ids=ids).last_hidden_state.double()
    condition = hidden / hidden.norm(dim=-1, keepdim=True)  # as diffusers' pipeline does
    if null is not None:
        condition = torch.where(dropped.bool()[:, None, None], null, condition)
    log_p = transformer(x_t, condition, timesteps, return_dict=False)[0].double()  # (batch, classes, pixels)
    return published(log_p, x_0, x_t, timesteps, probability)


@pytest.mark.usefixtures("_timestep_of_each_image")
@pytest.mark.parametrize("name", [*list(RUNS)[:2], pytest.param("other shapes", marks=pytest.mark.slow)])
def test_the_gradient_of_the_whole_loss_agrees(name, rng):
    clip, transformer, schedule, weighting, images = RUNS[name]
    clip, transformer = {**CLIP, **clip}, {**TRANSFORMER, **transformer}
    (text_encoder, their_clip), (denoiser, their_denoiser) = pair_clip(1, **clip), pair_transformer(2, **transformer)
    null_text = LearnedClassifierFreeSamplingEmbeddings(True, clip["hidden_size"], clip["max_position_embeddings"])
    null = rng.normal(0, 0.2, null_text.embeddings.shape).astype(np.float32)
    null_text.embeddings.set_data(Tensor(null))
    scheduler = VQDiffusionScheduler(transformer["num_vector_embeds"], transformer["num_embeds_ada_norm"], **schedule)
    batch = batch_of(scheduler, transformer, images, rng)

    cell = TextToImageLoss(text_encoder, null_text, denoiser, VariationalLoss(scheduler.schedule, **weighting), True)
    cell.set_train(True)
    networks = {"text": text_encoder, "denoiser": denoiser, "null": null_text}
    named = {f"{of}.{key}": each for of, net in networks.items() for key, each in zip(*keys_of(net))}
    gradient = ms.value_and_grad(cell, None, list(named.values()), has_aux=True)
    (loss, _), gradients = ms.jit(gradient, fullgraph=True)(*map(Tensor, batch))

    their_clip, their_denoiser = their_clip.train(), their_denoiser.double().train()
    their_null = torch.tensor(null).double().requires_grad_()
    ends = {**PUBLISHED, **schedule}
    lines = [[ends[f"{of}_cum_{end}"] for end in ("start", "end")] for of in ("alpha", "gamma")]
    published = PublishedLoss(transformer["num_vector_embeds"], transformer["num_embeds_ada_norm"], lines, **weighting)
    expected = their_loss(their_clip, their_denoiser, their_null, published, batch)
    expected.backward()
    theirs = {"null.embeddings": their_null.grad}
    for of, net in (("text", their_clip), ("denoiser", their_denoiser)):
        theirs.update({f"{of}.{key}": parameter.grad for key, parameter in net.named_parameters()})
    assert named.keys() == theirs.keys()
    assert float(loss.asnumpy()) == pytest.approx(expected.item(), rel=1e-5)
    assert_gradients_agree(dict(zip(named, gradients)), theirs, ("to_k.bias", "k_proj.bias"))


@pytest.mark.usefixtures("_timestep_of_each_image")
def test_a_frozen_text_encoder_gets_no_gradient_and_the_empty_caption_is_the_null_text(rng):
    """No learned null text: what is dropped comes as other token ids."""
    (text_encoder, their_clip), (denoiser, their_denoiser) = pair_clip(1, **CLIP), pair_transformer(2, **TRANSFORMER)
    scheduler = VQDiffusionScheduler(TRANSFORMER["num_vector_embeds"], TRANSFORMER["num_embeds_ada_norm"])
    batch = batch_of(scheduler, TRANSFORMER, 3, rng)
    null_text = LearnedClassifierFreeSamplingEmbeddings(False)
    cell = TextToImageLoss(text_encoder, null_text, denoiser, VariationalLoss(scheduler.schedule), False)
    keys, parameters = keys_of(denoiser)
    frozen = list(text_encoder.trainable_params())
    gradient = ms.value_and_grad(cell.set_train(True), None, parameters + frozen, has_aux=True)
    (loss, _), gradients = ms.jit(gradient, fullgraph=True)(*map(Tensor, batch))
    assert not any(each.asnumpy().any() for each in gradients[len(keys) :])
    lines = [[PUBLISHED[f"{of}_cum_{end}"] for end in ("start", "end")] for of in ("alpha", "gamma")]
    published = PublishedLoss(TRANSFORMER["num_vector_embeds"], TRANSFORMER["num_embeds_ada_norm"], lines)
    expected = their_loss(their_clip, their_denoiser.double(), None, published, batch)
    expected.backward()
    assert float(loss.asnumpy()) == pytest.approx(expected.item(), rel=1e-5)
    theirs = {key: parameter.grad for key, parameter in their_denoiser.named_parameters()}
    assert_gradients_agree(dict(zip(keys, gradients)), theirs, ("to_k.bias",))


WEIGHTS = dict(l1_weight=0.7, l2_weight=1.3, commitment_weight=0.4, codebook_weight=0.9)


def their_vqvae_loss(vqvae, pictures, quantized):
    """L1, L2 and the two terms of the codebook; the straight-through gradient is diffusers'."""
    latents = vqvae.encode(pictures).latents
    decoded, _, (_, _, codes) = vqvae.quantize(latents)
    entries = vqvae.quantize.embedding(codes).view(-1, latents.shape[1])
    rows = latents.permute(0, 2, 3, 1).reshape(entries.shape)
    commitment, to_latents = functional.mse_loss(rows, entries.detach()), functional.mse_loss(entries, rows.detach())
    decoded = vqvae.decode(decoded if quantized else latents, force_not_quantize=True).sample
    terms = [functional.l1_loss(decoded, pictures), functional.mse_loss(decoded, pictures)]
    terms += [commitment * quantized, to_latents * quantized]
    return sum(weight * term for weight, term in zip(WEIGHTS.values(), terms)), terms[:3], codes


@pytest.mark.parametrize("name", ["attention", pytest.param("spatial", marks=pytest.mark.slow)])
def test_the_gradient_of_the_vqvae_loss_agrees(name, rng):
    ours, theirs = pair_vq(3, **VQVAES[name])
    theirs, pictures = theirs.double().train(), rng.integers(0, 256, (3, 3, 4, 6), np.uint8)
    scaled = torch.tensor(pictures).double() / 127.5 - 1
    table = ours.quantize.embedding.embedding_table
    latents = theirs.encode(scaled).latents.detach().movedim(1, -1).reshape(-1, table.shape[1]).numpy()
    codebook = latents[rng.integers(0, len(latents), len(table))]  # so that many are chosen
    codebook = (codebook + rng.normal(0, latents.std(0) / 3, codebook.shape)).astype(np.float32)
    table.set_data(Tensor(codebook))
    theirs.quantize.embedding.weight.data = torch.tensor(codebook).double()
    keys, parameters = keys_of(ours)
    gradient = ms.value_and_grad(VQVAELoss(ours, **WEIGHTS).set_train(True), None, parameters, has_aux=True)
    gradient = ms.jit(gradient, fullgraph=True)
    for quantized in (1.0, 0.0):
        (loss, report), gradients = gradient(Tensor(pictures), Tensor(quantized, ms.float32))
        theirs.zero_grad()
        expected, terms, codes = their_vqvae_loss(theirs, scaled, quantized)
        expected.backward()
        assert len(codes.unique()) > 4
        assert np.array_equal(report[-1].asnumpy(), codes.numpy().ravel())
        assert float(loss.asnumpy()) == pytest.approx(expected.item(), rel=1e-5)
        assert [float(each.asnumpy()) for each in report[:3]] == pytest.approx([t.item() for t in terms], rel=1e-5)
        found = {key: parameter.grad for key, parameter in theirs.named_parameters()}
        if not quantized:
            assert not found.pop("quantize.embedding.weight").any()
            assert not gradients[keys.index("quantize.embedding.weight")].asnumpy().any()
        assert_gradients_agree(dict(zip(keys, gradients)), found, ("to_k.bias",))


def test_adamw_agrees_over_many_steps(rng):
    """Weight decay in PyTorch's parameter groups: on matrices and convolutions only."""
    shapes = {"matrix": (6, 5), "bias": (6,), "convolution": (4, 3, 3, 3), "scale": (1,), "table": (7, 2)}
    start = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    ours = [Parameter(Tensor(array), name=name) for name, array in start.items()]
    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in start.items()}
    decays = {True: [], False: []}
    for parameter in theirs.values():
        decays[parameter.ndim > 1].append(parameter)
    groups = [dict(params=decays[True], weight_decay=0.3), dict(params=decays[False], weight_decay=0.0)]
    expected = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.96), eps=1e-4)
    optimizer = ms.jit(AdamW(ours, (0.9, 0.96), eps=1e-4, weight_decay=0.3), fullgraph=True)
    sizes = np.geomspace(1e-4, 10, len(shapes))  # gradients as small as eps, too
    for step in range(12):
        rate = 3e-2 * (1 + np.cos(step / 7))
        gradients = [size * rng.standard_normal(each.shape).astype(np.float32) for size, each in zip(sizes, ours)]
        gradients[4][step % 7] = 0  # a row that no image had
        optimizer(tuple(Tensor(each, ms.float32) for each in gradients), Tensor(rate, ms.float32))
        for parameter, gradient in zip(theirs.values(), gradients):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        for group in expected.param_groups:
            group["lr"] = rate
        expected.step()
        for parameter, (name, theirs_now) in zip(ours, theirs.items()):
            error = relative_error(parameter, theirs_now)
            assert error <= 1e-6, f"{name} after {step + 1} steps: {error}"
    assert relative_error(ours[0], start["matrix"]) > 0.2  # they have moved


class Descent(nn.Cell):
    """Takes the gradients off the parameters, to show what reaches an optimizer."""

    def __init__(self, parameters):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)

    def construct(self, gradients, learning_rate):
        for i in range(len(self.parameters)):
            ops.assign_sub(self.parameters[i], learning_rate * gradients[i])
        return learning_rate


class Products(nn.Cell):
    """A loss whose gradient is what it is given."""

    def __init__(self, parameters):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)

    def construct(self, first, second):
        loss = (self.parameters[0] * first).sum() + (self.parameters[1] * second).sum()
        return loss, (first,)


@pytest.mark.parametrize("scale", [1.0, 4096.0])
@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
def test_clipping_agrees(clip_norm, scale, rng):
    start = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (5,))]
    ours = [Parameter(Tensor(array), name=f"p{i}") for i, array in enumerate(start)]
    theirs = [torch.tensor(array, requires_grad=True) for array in start]
    descent = Descent(ours)
    step = TrainingStep(Products(ours), descent, clip_norm=clip_norm)
    step = ms.jit(step, fullgraph=True)
    for size in (3.0, 0.01, 100.0, 0.2):  # of which two are clipped
        gradients = [size * rng.standard_normal(array.shape).astype(np.float32) for array in start]
        _, norm, _ = step(Tensor(0.1, ms.float32), Tensor(scale, ms.float32), *map(Tensor, gradients))
        for parameter, gradient in zip(theirs, gradients):
            parameter.grad = torch.tensor(gradient)
        expected = torch.nn.utils.clip_grad_norm_(theirs, clip_norm if clip_norm > 0 else float("inf"))
        torch.optim.SGD(theirs, lr=0.1).step()
        assert float(norm.asnumpy()) == pytest.approx(expected.item(), rel=1e-6)
        for parameter, other in zip(ours, theirs):
            assert relative_error(parameter, other) <= 1e-6
