"""Checkpoints of microsoft/VQ-Diffusion, converted, against PyTorch's networks that they were made of."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np
import pytest
import torch
import yaml
from mindspore import Tensor
from safetensors.torch import load_file

from mindone_vq import ClassToImagePipeline, GumbelVQModel, UnconditionalPipeline, VQDiffusionPipeline, VQModel
from mindone_vq.conversion.plan import ConversionError, Plan
from mindone_vq.conversion.sources import Options, read_source
from mindone_vq.conversion.write import Target, write_plan
from tests.numerics import as_numpy, relative_error
from tests.parity.original_checkpoints import (
    MERGES,
    PROMPTS,
    Codec,
    ConvolutionalDenoiser,
    Original,
    Sizes,
    TextNetworks,
    config_text,
    diffusion_buffers,
    lightning_content,
    merges_file,
    padded,
    save_from_gpu,
    text_buffers,
)
from tests.parity.peers import randomized
from tests.shapes32_model import MODEL

TOLERANCE = 1e-5
SURE = 1e-4  # a choice between two numbers that differ by less may fall either way
PIPELINES = {"text": VQDiffusionPipeline, "classes": ClassToImagePipeline, "nothing": UnconditionalPipeline}
TEXT, COCO = Sizes(), Sizes(codes=20, grid=5, timesteps=14, width=24, heads=3, text=128, table=5)
CLASSES = Sizes(codes=14, table=7, heads=4, classes=1001)
NULL_CLASS = 1000  # in the original code, of whatever table


@dataclass
class Recipe:
    """told: what the denoiser is told, a key of ``FAMILIES``; codec: arguments of ``Codec.random``."""

    told: str
    sizes: Sizes
    codec: dict
    average: bool = False
    learned_null: bool = False
    tokenizer: Optional[str] = None
    class_number: Optional[int] = None


MODELS = {
    "ithq": Recipe(
        "text",
        TEXT,
        dict(kind="ema", widths=(32, 64), attention=(False, True)),
        average=True,
        learned_null=True,
        tokenizer="bpe.txt.gz",
    ),
    "coco": Recipe(
        "text",
        COCO,
        dict(kind="gumbel", widths=(32, 64), attention=(True, False), latents=(6, 6), full=48, reduced=20),
        tokenizer="bpe.txt",
    ),
    "imagenet": Recipe(
        "classes",
        CLASSES,
        dict(kind="taming", widths=(32, 64), attention=(False, True), full=40, reduced=14),
        average=True,
        class_number=1000,
    ),
    "imagenet without a null class": Recipe(
        "classes",
        replace(CLASSES, classes=6),
        dict(kind="taming", widths=(32,), attention=(True,), full=40, reduced=14),
        class_number=6,
    ),
    "ffhq": Recipe(
        "nothing",
        Sizes(table=5, mlp=2),
        dict(kind="taming", widths=(32, 32, 64), attention=(False, True, False), layers=2),
        average=True,
    ),
}


@dataclass
class Made:
    """A model: its networks in PyTorch (``trained``, and ``peer``, the one whose weights count), and its files."""

    told: str
    sizes: Sizes
    tokenizer: Optional[str]
    peer: Any
    trained: Any
    original: Original

    @classmethod
    def of(cls, recipe: Recipe) -> "Made":
        told, sizes = recipe.told, recipe.sizes

        def network(seed):
            torch.manual_seed(seed)
            if told == "text":
                return TextNetworks.random(sizes, seed, recipe.learned_null)
            return randomized(ConvolutionalDenoiser(sizes), seed)

        def tensors(network):
            if told == "text":
                return network.tensors()
            return {f"transformer.{key}": value for key, value in network.state_dict().items()}

        trained = network(1)
        averaged = network(2) if recipe.average else None
        buffers = {**diffusion_buffers(sizes.timesteps), **(text_buffers(sizes) if told == "text" else {})}
        codec = Codec.random(**recipe.codec)
        config = config_text(sizes, told, codec, recipe.class_number)
        ema = tensors(averaged) if averaged else None
        original = Original.of(tensors(trained), ema, buffers, codec, config)
        return cls(told, sizes, recipe.tokenizer, averaged or trained, trained, original)

    def options(self, folder, **changes) -> Options:
        codes = folder / "codes.pt" if self.original.codec.map is not None else None
        tokenizer = str(folder / self.tokenizer) if self.tokenizer else None
        return replace(Options(config=folder / "config.yaml", codes=codes, tokenizer=tokenizer), **changes)

    def plan(self, folder, original=None, **changes) -> Plan:
        """Of the files of ``original``, or of their own, written into ``folder``."""
        checkpoint = (original or self.original).write(folder, self.tokenizer)
        plan = read_source(checkpoint, self.options(folder, **changes))
        plan.check()
        return plan

    def log_p_x_0(self, x_t, t, condition):
        """PyTorch's, (batch, codes, pixels); ``condition`` is as of ``condition``."""
        if self.told == "text":  # diffusers takes one timestep at a time
            rows = zip(x_t, t, condition)
            return torch.cat([self.peer.transformer(x[None], text[None], step).sample for x, step, text in rows])
        return self.peer(x_t, t, condition)

    def condition(self, null=False):
        """What two pictures are told."""
        if self.told == "text":
            text = self.peer.null_text() if null else self.peer.embedded([padded(ids) for ids in PROMPTS.values()])
            return text.expand(2, -1, -1)
        if self.told == "classes":
            return torch.tensor([NULL_CLASS] * 2 if null else [4, 1])
        return None


@dataclass
class Converted(Made):
    """And what it became: the plan, the folder that was written, and the pipeline that it loads as."""

    plan_made: Plan
    folder: Path
    pipe: Any

    @classmethod
    def into(cls, folder: Path, recipe: Recipe) -> "Converted":
        with torch.no_grad():
            made = Made.of(recipe)
            plan = made.plan(folder / "files")
        write_plan(plan, folder / "converted", Target())
        pipe = PIPELINES[made.told].from_pretrained(folder / "converted")
        pipe.set_progress_bar_config(disable=True)
        return cls(**vars(made), plan_made=plan, folder=folder / "converted", pipe=pipe)


@pytest.fixture(scope="module", params=MODELS)
def converted(request, tmp_path_factory) -> Converted:
    return Converted.into(tmp_path_factory.mktemp("original"), MODELS[request.param])


def only(*told):
    """Of the models, those that are told one of these."""
    names = [name for name, recipe in MODELS.items() if recipe.told in told]
    return pytest.mark.parametrize("converted", names, indirect=True)


def noisy_codes(sizes, rng):
    x_t = rng.integers(0, sizes.codes + 1, (2, sizes.grid**2))
    x_t[0, ::2] = sizes.codes  # masked
    return torch.tensor(x_t)


def as_input(condition):
    return Tensor(condition.numpy(), ms.float32 if condition.is_floating_point() else ms.int32)


def test_log_probabilities_agree(converted, rng):
    """Of the condition and of the null condition, where there is one."""
    x_t, t = noisy_codes(converted.sizes, rng), torch.tensor([0, converted.sizes.timesteps - 1])
    for null in [False] if converted.told == "nothing" else [False, True]:
        condition = converted.condition(null)
        expected = converted.log_p_x_0(x_t, t, condition)
        if null and converted.told == "classes":
            condition = torch.full((2,), converted.pipe.transformer.num_class_embeds - 1)
        told = [] if condition is None else [as_input(condition)]
        output = converted.pipe.transformer(Tensor(x_t.numpy(), ms.int32), *told, Tensor(t.numpy(), ms.int32))[0]
        assert relative_error(output, expected) <= TOLERANCE


def test_decoded_pictures_agree(converted, rng):
    grid = converted.sizes.grid
    codes = rng.permutation(np.arange(2 * grid * grid) % converted.sizes.codes).reshape(2, grid, grid)
    expected = converted.original.codec.decode(torch.tensor(codes))
    vqvae = converted.pipe.vqvae
    vectors = vqvae.quantize.embedding(Tensor(codes, ms.int32)).transpose(0, 3, 1, 2)
    assert relative_error(vqvae.decode(vectors, force_not_quantize=True)[0], expected) <= TOLERANCE
    pictures = converted.pipe.decode_latents(Tensor(codes.reshape(2, -1), ms.int32), "np")
    assert relative_error(pictures, (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)) <= TOLERANCE


def test_pictures_have_the_same_codes(converted, rng):
    """Codes that no picture of the training had count as 0, which are those after the ones that are predicted."""
    codec, codes, side = converted.original.codec, converted.sizes.codes, 16
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


@only("text")
def test_text_embeddings_agree(converted):
    text, null = converted.pipe.encode_prompt(list(PROMPTS))
    assert relative_error(text, converted.condition()) <= TOLERANCE
    assert relative_error(null, converted.condition(null=True)) <= TOLERANCE
    learned = converted.pipe.learned_classifier_free_sampling_embeddings
    assert learned.learnable == (converted.peer.null is not None)
    if learned.learnable:
        assert np.array_equal(learned.embeddings.asnumpy(), converted.peer.null.float().numpy())


@only("text")
def test_the_list_of_merges_gives_the_tokens(converted):
    tokenizer = converted.pipe.tokenizer
    ids = tokenizer(list(PROMPTS), padding="max_length", return_tensors="np").input_ids
    assert ids.tolist() == [padded(ids) for ids in PROMPTS.values()]


def test_every_entry_is_used_or_left_out_for_a_reason(converted):
    """What is used is compared by value in the tests below; here, that nothing else is there."""
    plan = converted.plan_made
    assert {key for key in plan.ignored if not key.startswith("--config")} == converted.original.not_needed
    assert all(len(reason) > 10 for reason in plan.ignored.values())
    assert not any(component.ignored for component in plan.components)
    kinds = {"text": 4, "classes": 2, "nothing": 2}
    assert len(plan.components) == kinds[converted.told]


def converted_weights(folder, name):
    (file,) = (folder / name).glob("*.safetensors")
    return load_file(file)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == torch.float32, key
        assert torch.equal(ours[key], value), key


def test_every_weight_of_the_codec_is_the_same(converted):
    """Among them biases that change no output: a norm of single channels takes them away."""
    codec = converted.original.codec
    theirs = codec.network.state_dict()
    ours = converted_weights(converted.folder, "vqvae")
    codebook, ours_codebook = theirs.pop("quantize.embedding.weight"), ours.pop("quantize.embedding.weight")
    first = codec.full_codes()
    rest = torch.tensor([i for i in range(len(codebook)) if i not in first], dtype=torch.int64)
    assert torch.equal(ours_codebook, codebook[torch.cat([first, rest])])
    if codec.kind == "gumbel":
        assert torch.equal(ours.pop("quantize.proj.weight"), codec.proj.weight[torch.cat([first, rest])])
        assert torch.equal(ours.pop("quantize.proj.bias"), codec.proj.bias[torch.cat([first, rest])])
    assert_equal(ours, theirs)


@only("text")
def test_every_weight_of_a_text_model_is_the_same(converted):
    assert_equal(converted_weights(converted.folder, "transformer"), converted.peer.transformer.state_dict())
    theirs = {key: value for key, value in converted.peer.clip.state_dict().items() if "position_ids" not in key}
    assert_equal(converted_weights(converted.folder, "text_encoder"), theirs)


@only("classes", "nothing")
def test_biases_of_keys_are_the_same(converted):
    """They change no output: a softmax takes them away."""
    ours = converted_weights(converted.folder, "transformer")
    for i, block in enumerate(converted.peer.blocks):
        assert torch.equal(ours[f"transformer_blocks.{i}.attn1.to_k.bias"], block.attn.key.bias)


def test_the_chain_is_that_of_the_model(converted):
    config = json.loads((converted.folder / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "_class_name": "VQDiffusionScheduler",
        "num_vec_classes": converted.sizes.codes + 1,
        "num_train_timesteps": converted.sizes.timesteps,
        "alpha_cum_start": 0.99999,
        "alpha_cum_end": 0.000009,
        "gamma_cum_start": 0.000009,
        "gamma_cum_end": 0.99999,
    }
    assert config == expected


def test_the_folder_generates_what_the_networks_say(converted):
    """One step from all masked, truncated to the likeliest code: that is known without drawing anything."""
    sizes, scale = converted.sizes, 3.0
    x_t, t = torch.full((2, sizes.grid**2), sizes.codes), torch.full((2,), sizes.timesteps - 1)
    log_p = converted.log_p_x_0(x_t, t, converted.condition())
    settings = dict(num_inference_steps=1, truncation_rate=1e-6, generator=0)
    if converted.told == "nothing":
        settings["batch_size"] = 2
    else:
        null = converted.log_p_x_0(x_t, t, converted.condition(null=True))
        log_p, without_guidance = null + scale * (log_p - null), log_p
        assert not torch.equal(log_p.argmax(1), without_guidance.argmax(1))
        settings.update(guidance_scale=scale)
        settings.update({"prompt": list(PROMPTS)} if converted.told == "text" else {"class_labels": [4, 1]})
    best, codes = log_p.topk(2, dim=1)
    sure = (best[:, 0] - best[:, 1] > SURE).numpy()
    chosen = converted.pipe(**settings, output_type="latent")[0].asnumpy()
    assert np.array_equal(chosen[sure], codes[:, 0].numpy()[sure])
    assert sure.mean() > 0.9

    pictures = converted.pipe(**{**settings, "num_inference_steps": 2, "truncation_rate": 1.0})[0]
    side = sizes.grid * 2 ** (len(converted.original.codec.network.config.block_out_channels) - 1)
    assert [picture.size for picture in pictures] == [(side, side)] * 2
    assert converted.pipe.vqvae.config.sample_size == side


@pytest.fixture(scope="module")
def made():
    """Makes each model once."""
    models = {}

    def make(name) -> Made:
        if name not in models:
            with torch.no_grad():
                models[name] = Made.of(MODELS[name])
        return models[name]

    return make


def test_without_the_average_the_weights_are_those_of_training(made, tmp_path):
    model = made("ithq")
    plan = model.plan(tmp_path, ema=False)
    tensors = {component.folder: component.fitted for component in plan.components}
    for network, folder in ((model.trained.transformer, "transformer"), (model.trained.clip, "text_encoder")):
        for key, value in network.named_parameters():
            assert np.array_equal(tensors[folder][key].read(), value.numpy()), key
    learned = tensors["learned_classifier_free_sampling_embeddings"]["embeddings"].read()
    assert np.array_equal(learned, model.trained.null.float().numpy())


def test_what_the_average_lacks_comes_from_training(made, tmp_path):
    model = made("ithq")
    ema = {key: value for key, value in model.original.ema.items() if "ln_final" not in key}
    plan = model.plan(tmp_path, model.original.changed(ema=ema))
    text = next(component.fitted for component in plan.components if component.folder == "text_encoder")
    norm = "text_model.final_layer_norm.bias"
    assert np.array_equal(text[norm].read(), model.trained.clip.get_parameter(norm).numpy())
    other = "text_model.encoder.layers.0.layer_norm1.bias"
    assert np.array_equal(text[other].read(), model.peer.clip.get_parameter(other).numpy())


def fitted_codec(plan):
    return next(c for c in plan.components if c.folder == "vqvae").fitted


def test_a_codec_of_its_own_file_is_the_same(made, tmp_path):
    model = made("ffhq")
    whole = fitted_codec(model.plan(tmp_path / "whole"))
    codec = save_from_gpu(lightning_content(model.original.codec), tmp_path / "codec.pth")
    without = model.original.changed(drop=model.original.codec.tensors_in_model())
    plan = model.plan(tmp_path / "apart", without, codec=codec, ignore_unknown=True)
    apart = fitted_codec(plan)
    assert whole.keys() == apart.keys()
    assert all(np.array_equal(apart[key].read(), tensor.read()) for key, tensor in whole.items())
    assert {key for key in plan.ignored if key.startswith("transformer.blocks.")} == {
        "transformer.blocks.0.ln1.weight",
        "transformer.blocks.0.attn.mask",
    }


# Codecs alone.


@pytest.mark.parametrize("name, container", [("ithq", "model"), ("coco", "state_dict"), ("imagenet", "state_dict")])
def test_a_codec_alone_is_converted(name, container, made, rng, tmp_path):
    codec = made(name).original.codec
    loss = {"loss.perceptual_loss.lin0.model.1.weight": torch.randn(1, 4, 1, 1), "loss.logvar": torch.zeros(())}
    file = save_from_gpu({container: {**codec.tensors(), **loss}, "epoch": 2}, tmp_path / "codec.pth")
    plan = read_source(file, Options())
    plan.check()
    assert set(plan.ignored) >= set(loss)
    check_codec_alone(plan, codec, rng, tmp_path)


def test_a_codec_in_a_file_of_lightning_is_converted(made, rng, tmp_path):
    codec = made("ffhq").original.codec
    content = lightning_content(codec)
    file = save_from_gpu(content, tmp_path / "codec.pth")
    with pytest.raises(ValueError, match="TrainingCallback"):
        read_source(file, Options())
    plan = read_source(file, Options(ignore_unknown=True))
    plan.check()
    assert any("TrainingCallback" in name for name in plan.passed_over)
    not_of_the_codec = {key for key in content["state_dict"] if ".loss." in key or key.startswith("transformer.")}
    assert set(plan.ignored) == not_of_the_codec
    check_codec_alone(plan, codec, rng, tmp_path)


def check_codec_alone(plan, codec, rng, tmp_path):
    """Alone its codes are all there, under their own numbers."""
    assert plan.pipeline is None
    write_plan(plan, tmp_path / "out", Target())
    ours = VQModel.from_pretrained(tmp_path / "out")
    pictures = rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    latents = codec.network.encode(torch.tensor(pictures)).latents
    assert relative_error(ours.encode(Tensor(pictures))[0], latents) <= TOLERANCE
    expected = codec.network.decode(latents, force_not_quantize=True).sample
    output = ours.decode(Tensor(latents.numpy()), force_not_quantize=True)[0]
    assert relative_error(output, expected) <= TOLERANCE
    full, margin = replace(codec, map=None).encode(torch.tensor(pictures))
    sure = margin.numpy() > SURE
    assert np.array_equal(as_numpy(ours.quantize(Tensor(latents.numpy()))[2])[sure], full.numpy()[sure])
    codebook = codec.network.quantize.embedding.weight.numpy()
    assert np.array_equal(ours.quantize.embedding.embedding_table.asnumpy(), codebook)


# What cannot be converted.


def refused(made, tmp_path, said, name="coco", original=None, error=ConversionError, **options):
    with pytest.raises(error, match=said):
        made(name).plan(tmp_path, original, **options)


@pytest.mark.parametrize(
    "change, said",
    [
        (("n_layer: 2", "n_layer: 3"), "n_layer: 3; the checkpoint has 2"),
        (("diffusion_step: 14", "diffusion_step: 100"), "diffusion_step: 100; the checkpoint has 14"),
        (("n_embd: 24", "n_embd: 48"), "n_embd: 48; the checkpoint has 24"),
        (("n_head: 3", "n_head: 5"), "(?s)transformer: .*of another shape"),
        (("content_seq_len: 25", "content_seq_len: 16"), "token_shape: .5, 5.; content_seq_len 16 is 4 x 4"),
        (("content_seq_len: 25", "content_seq_len: 24"), "content_seq_len 24, which is no square"),
        (("mlp_hidden_times: 4", "mlp_hidden_times: 2"), "mlp_hidden_times: 2; only 4"),
        (("Text2ImageTransformer", "GPTLikeTransformer"), "GPTLikeTransformer; known are Text2ImageTransformer"),
        (("'adalayernorm'", "'adainsnorm'"), "timestep_type: adainsnorm; only adalayernorm"),
        (("'alpha1'", "'cos'"), "alpha_init_type: cos; only alpha1"),
        (("GELU2", "ReLU"), "block_activate: ReLU; only GELU2 or GELU"),
    ],
)
def test_a_config_of_another_model_is_refused(change, said, made, tmp_path):
    original = made("coco").original
    assert change[0] in original.config
    refused(made, tmp_path, said, original=original.changed(config=original.config.replace(*change)))


NEEDED = ["n_layer", "n_embd", "n_head", "content_seq_len", "diffusion_step", "transformer_config", "diffusion_config"]


@pytest.mark.parametrize("entry", NEEDED)
def test_a_config_without_what_is_needed_is_refused(entry, made, tmp_path):
    original = made("coco").original
    config = original.config.replace(f"{entry}:", f"other_{entry}:")
    refused(made, tmp_path, f"lacks '{entry}'", original=original.changed(config=config))


@pytest.mark.parametrize(
    "config, said",
    [
        ("- model\n", "holds no settings"),
        ("model: {params: [\n", "not readable as YAML"),
        (
            "model: {target: taming.VQModel, params: {n_embed: 48, embed_dim: 6}}\n",
            "model: taming.VQModel; known are DALLE",
        ),
        ("model: {target: dalle.DALLE}\n", "lacks 'content_codec_config' in model"),
        ("model: 3\n", "has model without a target"),
        ("solver: {}\n", "pass its config"),
    ],
)
def test_what_is_no_config_of_a_model_is_refused(config, said, made, tmp_path):
    refused(made, tmp_path, said, original=made("coco").original.changed(config=config))


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir", "python/name:os.mkdir"])
def test_a_config_executes_nothing(tag, made, tmp_path):
    canary = tmp_path / "canary"
    original = made("coco").original
    config = f"{original.config}extra: !!{tag} " + ("''" if "name" in tag else f"['{canary}']") + "\n"
    if "apply" in tag:  # it would, if it were read by the loader that their code uses
        yaml.unsafe_load(config)
        canary.rmdir()
    refused(made, tmp_path / "files", "os.mkdir", original=original.changed(config=config))
    assert not canary.exists()


def test_without_a_config_it_is_asked_for(made, tmp_path):
    refused(made, tmp_path, "pass its config", config=None)


def test_the_map_of_codes_is_asked_for(made, tmp_path):
    refused(made, tmp_path, "the codec has 48 codes, the denoiser predicts 20 .*--codes", codes=None)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda codes: codes[:-1], r"maps \(47,\) codes, the codec has 48"),
        (lambda codes: codes[:, None], r"maps \(48, 1\) codes, the codec has 48"),
        (lambda codes: torch.where(codes == 7, 0, codes), "leaves out reduced codes"),
        (lambda codes: torch.where(codes == 19, 0, codes), "has 19 reduced codes, the denoiser predicts 20"),
        (lambda codes: torch.where(codes == 19, 18, codes), "maps several codes to one that is not 0"),
        (lambda codes: codes - 1, "expected a row of codes"),
        (lambda codes: codes.float(), "float32"),
        (lambda codes: {"codes": codes}, "holds a dict, not one tensor"),
    ],
    ids=["length", "dimensions", "gap", "too few", "twice", "negative", "type", "container"],
)
def test_a_wrong_map_of_codes_is_refused(change, said, made, tmp_path):
    torch.save(change(made("coco").original.codec.map), tmp_path / "wrong.pt")
    refused(made, tmp_path / "files", said, codes=tmp_path / "wrong.pt")


def test_files_that_are_not_there_are_named(made, tmp_path):
    for option in ("codes", "codec"):
        refused(made, tmp_path, "nowhere.pt", error=FileNotFoundError, **{option: tmp_path / "nowhere.pt"})
    refused(made, tmp_path, "nowhere.txt", error=FileNotFoundError, tokenizer=str(tmp_path / "nowhere.txt"))


def test_a_missing_codec_is_asked_for(made, tmp_path):
    original = made("coco").original
    without = original.changed(drop=original.codec.tensors_in_model())
    refused(made, tmp_path, "no codec .*--codec", original=without)


def test_half_a_codec_is_refused(made, tmp_path):
    original = made("coco").original
    encoder = {key for key in original.model if key.startswith("content_codec.enc.")}
    refused(made, tmp_path, "not a whole codec", original=original.changed(drop=encoder))


def test_two_codebooks_are_refused(made, tmp_path):
    original = made("coco").original
    key = "content_codec.dec.quantize.embed.weight"
    other = {**original.model, key: original.model[key] + 1}
    refused(made, tmp_path, "two different weights for quantize", original=original.changed(model=other))


@pytest.mark.parametrize(
    "prefix, said", [("transformer.condition_emb.", "no text encoder"), ("transformer.transformer.", "no denoiser")]
)
def test_a_missing_network_is_named(prefix, said, made, tmp_path):
    original = made("coco").original
    network = {key for key in original.model if key.startswith(prefix)}
    refused(made, tmp_path, said, original=original.changed(drop=network))


UNKNOWN = {
    "transformer.transformer.blocks.0.attn1.rotary": "blocks.0.attn1.rotary",
    "transformer.transformer.blocks.0.ln3.weight": "blocks.0.ln3.weight",
    "transformer.condition_emb.visual.proj": "visual.proj",
    "content_codec.enc.encoder.down.0.block.0.norm3.weight": "0.norm3.weight",
    "transformer.full_text_embed": "full_text_embed",
    "discriminator.weight": "discriminator.weight",
}


@pytest.mark.parametrize("where", ["model", "ema"])
@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_entry_is_named(key, where, made, tmp_path):
    original = made("ithq").original
    entries = {**getattr(original, where), key: torch.ones(3)}
    refused(made, tmp_path, UNKNOWN[key], "ithq", original.changed(**{where: entries}))


# Key -> what is said of it. The first ones are those that tell the sizes.
MISSING = {
    "transformer.transformer.content_emb.emb.weight": "latent_image_embedding.emb.weight|no denoiser",
    "transformer.transformer.content_emb.height_emb.weight": "latent_image_embedding.height_emb.weight",
    "transformer.transformer.blocks.0.ln1.emb.weight": "transformer_blocks.0.norm1.emb.weight",
    "transformer.transformer.blocks.0.mlp.0.weight": "transformer_blocks.0.ff.net.0.proj.weight",
    "transformer.condition_emb.token_embedding.weight": "token_embedding|no text encoder",
    "transformer.condition_emb.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "transformer.condition_emb.transformer.resblocks.0.mlp.c_fc.weight": "text_model.encoder.layers.0.mlp.fc1.weight",
    "content_codec.enc.encoder.conv_in.weight": "not a whole codec",
    "content_codec.enc.encoder.conv_out.weight": "encoder.conv_out.weight",
    "content_codec.enc.encoder.down.0.block.0.conv1.weight": "encoder.down_blocks.0.resnets.0.conv1.weight",
    "content_codec.dec.decoder.conv_out.weight": "decoder.conv_out.weight",
    "transformer.transformer.blocks.1.attn1.query.bias": "missing: transformer_blocks.1.attn1.to_q.bias",
    "transformer.transformer.blocks.0.attn2.key.weight": "attn2.to_k",
    "transformer.transformer.blocks.1.ln1_1.linear.bias": "missing: transformer_blocks.1.norm2.linear.bias",
    "transformer.transformer.to_logits.1.bias": "missing: out.bias",
    "transformer.condition_emb.ln_final.bias": "missing: text_model.final_layer_norm.bias",
    "transformer.condition_emb.transformer.resblocks.1.attn.in_proj_bias": "layers.1.self_attn.k_proj.bias",
    "content_codec.enc.quantize.proj.bias": "quantize.proj.bias",
    "content_codec.dec.post_quant_conv.bias": "missing: post_quant_conv.bias",
    "content_codec.dec.decoder.up.0.block.1.norm2.weight": "missing: decoder.up_blocks.1.resnets.1.norm2.weight",
}


@pytest.mark.parametrize("key", MISSING)
def test_a_missing_entry_is_named(key, made, tmp_path):
    original = made("coco").original
    assert key in original.model
    gone = {key, key.replace(".enc.quantize", ".dec.quantize")}
    refused(made, tmp_path, MISSING[key], original=original.changed(drop=gone))


def test_a_missing_codebook_is_named(made, tmp_path):
    original = made("coco").original
    gone = {key for key in original.model if key.endswith("quantize.embed.weight")}
    refused(made, tmp_path, "lacks its encoder or its codebook", original=original.changed(drop=gone))


@pytest.mark.parametrize(
    "key, shape, said",
    [
        ("transformer.transformer.blocks.1.attn1.proj.weight", (24, 23), "attn1.to_out.0.weight is (24, 23)"),
        ("transformer.transformer.to_logits.1.weight", (21, 24), "out.weight is (21, 24)"),
        ("transformer.transformer.content_emb.width_emb.weight", (6, 24), "width_emb.weight is (6, 24)"),
        ("transformer.condition_emb.ln_final.weight", (1, 128), "final_layer_norm.weight is (1, 128)"),
        ("transformer.condition_emb.transformer.resblocks.0.attn.in_proj_weight", (385, 128), "in_proj"),
        ("content_codec.enc.encoder.mid.attn_1.q.weight", (64, 64, 3, 3), "to_q.weight is (64, 64, 3, 3)"),
        ("content_codec.dec.decoder.conv_in.bias", (63,), "decoder.conv_in.bias is (63,)"),
    ],
)
def test_a_weight_of_another_shape_is_named(key, shape, said, made, tmp_path):
    original = made("coco").original
    assert key in original.model
    wrong = {**original.model, key: torch.zeros(shape)}
    said = said.replace("(", r"\(").replace(")", r"\)")
    refused(made, tmp_path, said, original=original.changed(model=wrong))


@pytest.mark.parametrize("name", ["imagenet", "imagenet without a null class"])
@pytest.mark.parametrize("number", [7, 999])
def test_a_config_of_other_classes_is_refused(name, number, made, tmp_path):
    """Otherwise the last class would be taken for the null class."""
    original, own = made(name).original, MODELS[name].class_number
    config = original.config.replace(f"class_number: {own}", f"class_number: {number}")
    refused(made, tmp_path, f"class_number: {number}; the checkpoint has", name, original.changed(config=config))


def test_the_tokenizer_is_asked_for(made, tmp_path):
    refused(made, tmp_path, "--tokenizer", tokenizer=None)


def test_a_tokenizer_of_another_size_is_refused(made, tmp_path):
    refused(made, tmp_path, r"the tokenizer has \d+ tokens, the text encoder 520", tokenizer=str(MODEL / "tokenizer"))
    short = merges_file(tmp_path / "short.txt", MERGES[:-1])
    refused(made, tmp_path, "does not give 520 tokens", tokenizer=str(short))


def test_of_a_longer_list_of_merges_the_first_are_taken(made, tmp_path):
    """The published list is five times as long as CLIP's vocabulary."""
    longer = merges_file(tmp_path / "longer.txt.gz", [*MERGES, "do re", "re do"])
    plan = made("coco").plan(tmp_path, tokenizer=str(longer))
    assert [plan.tokenizer.encode(prompt) for prompt in PROMPTS] == list(PROMPTS.values())
    assert plan.tokenizer.pad_token_id == 0
