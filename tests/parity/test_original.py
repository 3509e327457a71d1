"""Checkpoints of microsoft/VQ-Diffusion, converted, against PyTorch's networks that they were made of."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import load_file

from mindone_vq import ClassToImagePipeline, GumbelVQModel, UnconditionalPipeline, VQDiffusionPipeline, VQModel
from mindone_vq.conversion.convert import convert, read_source, write_plan
from mindone_vq.conversion.options import Options
from mindone_vq.conversion.plan import Plan
from tests.numerics import as_numpy, relative_error
from tests.parity.original_files import lightning_content, save_from_gpu
from tests.parity.original_models import MODELS, TOLERANCE, Made, fitted, lazy, model, noisy_codes
from tests.parity.original_networks import PROMPTS, padded

SURE = 1e-4  # a choice between two numbers that differ by less may fall either way
PIPELINES = {"text": VQDiffusionPipeline, "classes": ClassToImagePipeline, "nothing": UnconditionalPipeline}


@dataclass
class Converted:
    """A model and what it became: the plan, the folder that was written, and the pipeline that it loads as."""

    made: Made
    plan: Plan
    folder: Path
    pipe: Any


@pytest.fixture(scope="module", params=MODELS)
def converted(request, tmp_path_factory) -> Converted:
    made, folder = model(request.param), tmp_path_factory.mktemp("original")
    plan = made.read(folder / "files")
    write_plan(plan, Options("", folder / "converted"))
    pipe = PIPELINES[made.recipe.condition].from_pretrained(folder / "converted")
    pipe.set_progress_bar_config(disable=True)
    return Converted(made, plan, folder / "converted", pipe)


def only(*names, slow=()):
    others = [pytest.param(name, marks=pytest.mark.slow) for name in slow]
    return pytest.mark.parametrize("converted", [*names, *others], indirect=True)


# One of each kind of denoiser and of VQ-VAE.
denoisers = only("ithq", "imagenet", "ffhq", slow=("coco", "imagenet without a null class"))
vqvaes = only("coco", "imagenet", slow=("ithq", "ffhq"))
texts = only("ithq", "coco")


def as_input(condition):
    return Tensor(condition.numpy(), ms.float32 if condition.is_floating_point() else ms.int32)


@denoisers
def test_log_probabilities_agree(converted, rng):
    """Of the condition and of the null condition, where there is one."""
    made, denoiser = converted.made, converted.pipe.transformer
    x_t, t = noisy_codes(made.recipe.sizes, rng), torch.tensor([0, made.recipe.sizes.timesteps - 1])
    for null in [False] if made.recipe.condition == "nothing" else [False, True]:
        condition = made.condition(null)
        expected = made.log_p_x_0(x_t, t, condition)
        if null and made.recipe.condition == "classes":
            condition = torch.full((2,), denoiser.num_class_embeds - 1)
        conditions = [] if condition is None else [as_input(condition)]
        output = denoiser(Tensor(x_t.numpy(), ms.int32), *conditions, Tensor(t.numpy(), ms.int32))[0]
        assert relative_error(output, expected) <= TOLERANCE


@vqvaes
def test_decoded_pictures_agree(converted, rng):
    sizes = converted.made.recipe.sizes
    codes = rng.permutation(np.arange(sizes.grid**2) % sizes.codes).reshape(1, sizes.grid, sizes.grid)
    expected = converted.made.original.codec.decode(torch.tensor(codes))
    vqvae = converted.pipe.vqvae
    vectors = vqvae.quantize.embedding(Tensor(codes, ms.int32)).transpose(0, 3, 1, 2)
    assert relative_error(vqvae.decode(vectors, force_not_quantize=True)[0], expected) <= TOLERANCE


@vqvaes
def test_pictures_have_the_same_codes(converted, rng):
    """Codes that do not occur in the training pictures count as 0; they come after the predicted ones."""
    codec, codes, side = converted.made.original.codec, converted.made.recipe.sizes.codes, 16
    pictures = rng.uniform(-1, 1, (2, 3, side, side)).astype(np.float32)
    expected, margin = codec.encode(torch.tensor(pictures))
    vqvae = converted.pipe.vqvae
    latents = vqvae.encode(Tensor(pictures))[0]
    assert relative_error(latents, codec.network.encode(torch.tensor(pictures)).latents) <= TOLERANCE
    chosen = vqvae.quantize(latents)[2].asnumpy()
    reduced = np.where(chosen < codes, chosen, 0)
    sure = margin.numpy() > SURE
    assert np.array_equal(reduced[sure], expected.numpy()[sure])
    assert sure.mean() > 0.9
    assert len(np.unique(reduced)) > 4
    assert type(vqvae) is (GumbelVQModel if codec.kind == "gumbel" else VQModel)
    assert (chosen >= codes).any() == (codec.map is not None)


@texts
def test_text_embeddings_agree(converted):
    peer, pipe = converted.made.peer, converted.pipe
    ids = pipe.tokenizer(list(PROMPTS), padding="max_length", return_tensors="np").input_ids
    assert ids.tolist() == [padded(ids) for ids in PROMPTS.values()]
    text, null = pipe.encode_prompt(list(PROMPTS))
    assert relative_error(text, converted.made.condition()) <= TOLERANCE
    assert relative_error(null, converted.made.condition(null=True)) <= TOLERANCE
    learned = pipe.learned_classifier_free_sampling_embeddings
    assert learned.learnable == (peer.null is not None)
    if learned.learnable:
        assert np.array_equal(learned.embeddings.asnumpy(), peer.null.float().numpy())


def test_every_entry_is_used_or_left_out_for_a_reason(converted):
    """That what is used has the right values is tested below."""
    plan, made = converted.plan, converted.made
    assert {key for key in plan.ignored if not key.startswith("--config")} == made.original.not_needed
    assert all(len(reason) > 10 for reason in plan.ignored.values())
    assert not any(component.ignored for component in plan.components)
    assert len(plan.components) == (4 if made.recipe.condition == "text" else 2)


def assert_equal(folder, name, theirs):
    (file,) = (folder / name).glob("*.safetensors")
    ours = load_file(file)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == torch.float32, key
        assert torch.equal(ours[key], value), key


def test_every_weight_of_the_vqvae_is_the_same(converted):
    """Among them biases that change no output: a norm of single channels removes them."""
    codec = converted.made.original.codec
    theirs = codec.network.state_dict()
    first = codec.full_codes()
    others = torch.tensor([i for i in range(len(codec.codebook())) if i not in first], dtype=torch.int64)
    theirs["quantize.embedding.weight"] = codec.codebook()[torch.cat([first, others])]
    if codec.kind == "gumbel":
        for name, value in codec.proj.named_parameters():
            theirs[f"quantize.proj.{name}"] = value[torch.cat([first, others])]
    assert_equal(converted.folder, "vqvae", theirs)
    config = converted.pipe.vqvae.config
    assert config.sample_size == converted.made.recipe.sizes.grid * 2 ** (len(config.block_out_channels) - 1)
    for name in ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "norm_num_groups"):
        assert list(np.atleast_1d(config[name])) == list(np.atleast_1d(codec.network.config[name])), name


def test_every_weight_of_the_other_networks_is_the_same(converted):
    peer = converted.made.peer
    if converted.made.recipe.condition != "text":
        (file,) = (converted.folder / "transformer").glob("*.safetensors")
        ours = load_file(file)
        for i, block in enumerate(peer.blocks):  # of keys: they change no output, a softmax removes them
            assert torch.equal(ours[f"transformer_blocks.{i}.attn1.to_k.bias"], block.attn.key.bias)
        return
    assert_equal(converted.folder, "transformer", peer.transformer.state_dict())
    clip = {key: value for key, value in peer.clip.state_dict().items() if "position_ids" not in key}
    assert_equal(converted.folder, "text_encoder", clip)


def test_the_schedule_is_that_of_the_model(converted):
    config, sizes = converted.pipe.scheduler.config, converted.made.recipe.sizes
    assert (config.num_vec_classes, config.num_train_timesteps) == (sizes.codes + 1, sizes.timesteps)
    assert (config.alpha_cum_start, config.alpha_cum_end) == (0.99999, 0.000009)
    assert (config.gamma_cum_start, config.gamma_cum_end) == (0.000009, 0.99999)


@pytest.mark.slow
def test_the_folder_generates_the_codes_of_the_networks(converted):
    """One step from all masked, truncated to the likeliest code: the result is known without random numbers."""
    made, scale = converted.made, 3.0
    sizes = made.recipe.sizes
    x_t, t = torch.full((2, sizes.grid**2), sizes.codes), torch.full((2,), sizes.timesteps - 1)
    log_p = made.log_p_x_0(x_t, t, made.condition())
    settings = dict(num_inference_steps=1, truncation_rate=1e-6, generator=0)
    if made.recipe.condition == "nothing":
        settings["batch_size"] = 2
    else:
        null = made.log_p_x_0(x_t, t, made.condition(null=True))
        log_p, without_guidance = null + scale * (log_p - null), log_p
        assert not torch.equal(log_p.argmax(1), without_guidance.argmax(1))
        settings.update(guidance_scale=scale)
        settings.update({"prompt": list(PROMPTS)} if made.recipe.condition == "text" else {"class_labels": [4, 1]})
    best, codes = log_p.topk(2, dim=1)
    sure = (best[:, 0] - best[:, 1] > SURE).numpy()
    chosen = converted.pipe(**settings, output_type="latent")[0].asnumpy()
    assert np.array_equal(chosen[sure], codes[:, 0].numpy()[sure])
    assert sure.mean() > 0.9

    pictures = converted.pipe(**{**settings, "num_inference_steps": 2, "truncation_rate": 1.0})[0]
    assert [picture.size for picture in pictures] == [(converted.pipe.vqvae.config.sample_size,) * 2] * 2
    codes = np.arange(2 * sizes.grid**2).reshape(2, -1) % sizes.codes
    expected = made.original.codec.decode(torch.tensor(codes).view(2, sizes.grid, sizes.grid)) / 2 + 0.5
    pictures = converted.pipe.decode_latents(Tensor(codes, ms.int32), "np")
    assert relative_error(pictures, expected.clamp(0, 1).permute(0, 2, 3, 1)) <= TOLERANCE


# Averages, and the VQ-VAE's own file.


def test_without_the_average_the_weights_are_those_of_training(tmp_path):
    made = model("ithq")
    plan = made.plan(tmp_path / "files", no_ema=True)
    for network, folder in ((made.trained.transformer, "transformer"), (made.trained.clip, "text_encoder")):
        tensors = fitted(plan, folder)
        for key, value in network.named_parameters():
            assert np.array_equal(tensors[key].read(), value.numpy()), key
    learned = fitted(plan, "learned_classifier_free_sampling_embeddings")["embeddings"].read()
    assert np.array_equal(learned, made.trained.null.float().numpy())


def test_what_the_average_lacks_comes_from_training(tmp_path):
    made = model("ithq")
    ema = {key: value for key, value in made.original.ema.items() if "ln_final" not in key}
    text = fitted(made.plan(tmp_path / "files", made.original.changed(ema=ema)), "text_encoder")
    norm = "text_model.final_layer_norm.bias"
    assert np.array_equal(text[norm].read(), made.trained.clip.get_parameter(norm).numpy())
    other = "text_model.encoder.layers.0.layer_norm1.bias"
    assert np.array_equal(text[other].read(), made.peer.clip.get_parameter(other).numpy())


def test_a_vqvae_of_its_own_file_is_the_same(tmp_path):
    made = model("ffhq")
    whole = fitted(made.plan(tmp_path / "whole"))
    codec = save_from_gpu(lightning_content(made.original.codec), tmp_path / "codec.pth")
    without = made.original.changed(drop=made.original.codec.tensors_in_model())
    plan = made.plan(tmp_path / "apart", without, codec=codec, ignore_unknown_objects=True)
    apart = fitted(plan)
    assert whole.keys() == apart.keys()
    assert all(np.array_equal(apart[key].read(), tensor.read()) for key, tensor in whole.items())
    assert {key for key in plan.ignored if key.startswith("transformer.blocks.")} == {
        "transformer.blocks.0.ln1.weight",
        "transformer.blocks.0.attn.mask",
    }
    assert any("TrainingCallback" in name for name in plan.skipped_objects)


@pytest.mark.parametrize("name, container", [("ithq", "model"), ("coco", "state_dict")])
def test_a_vqvae_alone_is_converted(name, container, tmp_path):
    """All its codes are there, under their own numbers."""
    codec = model(name).original.codec
    loss = {"loss.perceptual_loss.lin0.model.1.weight": torch.randn(1, 4, 1, 1), "loss.logvar": torch.zeros(())}
    file = save_from_gpu({container: {**codec.tensors(), **loss}, "epoch": 2}, tmp_path / "codec.pth")
    report = convert(Options(str(file), tmp_path / "out"))
    assert set(report["ignored"]) >= set(loss)
    ours = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    theirs = codec.network.state_dict()
    assert ours.keys() - theirs.keys() == ({"quantize.proj.weight", "quantize.proj.bias"} if name == "coco" else set())
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_a_vqvae_in_a_file_of_lightning_is_converted(rng, tmp_path):
    codec = model("ffhq").original.codec
    content = lightning_content(codec)
    file = str(save_from_gpu(content, tmp_path / "codec.pth"))
    with pytest.raises(ValueError, match="TrainingCallback"):
        read_source(Options(file, tmp_path / "out"))
    report = convert(Options(file, tmp_path / "out", ignore_unknown_objects=True))
    assert any("TrainingCallback" in name for name in report["objects_passed_over"])
    not_needed = {key for key in content["state_dict"] if ".loss." in key or key.startswith("transformer.")}
    assert set(report["ignored"]) == not_needed
    ours = VQModel.from_pretrained(tmp_path / "out")
    pictures = rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    latents = codec.network.encode(torch.tensor(pictures)).latents
    assert relative_error(ours.encode(Tensor(pictures))[0], latents) <= TOLERANCE
    full, margin = replace(codec, map=None).encode(torch.tensor(pictures))
    sure = margin.numpy() > SURE
    assert np.array_equal(as_numpy(ours.quantize(Tensor(latents.numpy()))[2])[sure], full.numpy()[sure])


def test_weights_of_a_vqvae_inside_a_model_are_converted_without_the_rest(tmp_path):
    original = model("ffhq").original
    tensors = {key: value for key, value in original.model.items() if key.startswith("content_codec.")}
    torch.save(tensors, tmp_path / "codec.pth")
    plan = read_source(Options(str(tmp_path / "codec.pth"), tmp_path / "out"))
    plan.check()
    expected = lazy(original.codec.network.state_dict())
    assert all(np.array_equal(tensor.read(), expected[key].read()) for key, tensor in fitted(plan).items())
