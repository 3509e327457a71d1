"""Bad input: an error that names the thing, before any work."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindone_vq import Transformer2DModel, VQDiffusionPipeline, VQDiffusionScheduler
from mindone_vq.pipelines.compilation import CompiledGraph
from tests.shapes32_model import MODEL


@pytest.fixture(scope="module")
def pipe(tiny):
    return tiny


class TorchGenerator:
    """One of PyTorch's, as far as its name goes."""

    __module__ = "torch"


FLOATS = Tensor(np.ones((1, 12, 24), np.float32))


@pytest.mark.parametrize(
    "prompt, options, error, named",
    [
        ([], {}, ValueError, "prompt is an empty list"),
        (7, {}, TypeError, "prompt is a string"),
        (None, {}, ValueError, "give prompt or prompt_embeds"),
        (["a", 7], {}, TypeError, r"prompt\[1\] is 7"),
        (["a", None], {}, TypeError, r"prompt\[1\] is None"),
        ({"a": 1}, {}, TypeError, "prompt is a string"),
        ("a", dict(num_inference_steps=0), ValueError, "num_inference_steps is 0"),
        ("a", dict(num_inference_steps=-5), ValueError, "num_inference_steps is -5"),
        ("a", dict(num_inference_steps=11), ValueError, "between 1 and the 10 timesteps"),
        ("a", dict(num_inference_steps=2.0), TypeError, "num_inference_steps is an integer"),
        ("a", dict(guidance_scale=float("nan")), ValueError, "guidance_scale is nan"),
        ("a", dict(guidance_scale=float("inf")), ValueError, "guidance_scale is inf"),
        ("a", dict(guidance_scale="5"), TypeError, "guidance_scale is a number"),
        ("a", dict(truncation_rate=0.0), ValueError, "truncation_rate is 0.0"),
        ("a", dict(truncation_rate=1.01), ValueError, "truncation_rate is 1.01"),
        ("a", dict(truncation_rate=-0.5), ValueError, "truncation_rate is -0.5"),
        ("a", dict(truncation_rate=float("nan")), ValueError, "truncation_rate is nan"),
        ("a", dict(num_images_per_prompt=0), ValueError, "num_images_per_prompt is 0"),
        ("a", dict(num_images_per_prompt=1.5), TypeError, "num_images_per_prompt is an integer"),
        ("a", dict(callback_steps=0), ValueError, "callback_steps is 0"),
        ("a", dict(callback_steps=None), TypeError, "callback_steps is an integer"),
        ("a", dict(output_type="png"), ValueError, "output_type is 'png'"),
        ("a", dict(generator=[1, 2]), ValueError, "2 generators given for 1 images"),
        ("a", dict(generator="seed"), TypeError, "numpy.random.Generator"),
        ("a", dict(latents=np.zeros((1, 35), int)), ValueError, r"latents have shape \(1, 35\)"),
        ("a", dict(latents=np.zeros((2, 36), int)), ValueError, r"latents have shape \(2, 36\)"),
        ("a", dict(latents=np.zeros((1, 36))), TypeError, "latents are codes, integers"),
        ("a", dict(latents=Tensor(np.zeros((1, 36)), ms.float32)), TypeError, "latents are codes, integers"),
        ("a", dict(latents=np.full((1, 36), 13)), ValueError, "codes go from 0 to 11, the mask is 12"),
        ("a", dict(latents=np.full((1, 36), -1)), ValueError, "latents go from -1"),
        ("a", dict(prompt_embeds=FLOATS), ValueError, "not both"),
        (None, dict(prompt_embeds=FLOATS[:, :, :5]), ValueError, "prompt_embeds has shape"),
        (None, dict(prompt_embeds=np.ones((1, 12, 24))), TypeError, "prompt_embeds is a float Tensor"),
        ("a", dict(negative_prompt_embeds=FLOATS[0]), ValueError, "negative_prompt_embeds has shape"),
        ("a", dict(negative_prompt_embeds=FLOATS, negative_prompt="b"), ValueError, "not both"),
        ("a", dict(negative_prompt=["b", "c"]), ValueError, "2 negative prompts given for 1"),
        ("a", dict(negative_prompt=3), TypeError, "negative_prompt is a string"),
        ("a", dict(guidance_scale=-2.0), ValueError, "guidance_scale is -2.0; it must be at least 0"),
        ("a", dict(sampler="euler"), ValueError, "sampler is 'euler'"),
        ("a", dict(spacing="log"), ValueError, "spacing is 'log'"),
        ("a", dict(guidance_schedule="wave"), ValueError, "guidance_schedule is 'wave'"),
        ("a", dict(callback=3), TypeError, "callback is a function"),
        ("a", dict(callback_on_step_end="f"), TypeError, "callback_on_step_end is a function"),
        ([("a", 1.0), ("b", 0.5)], dict(negative_prompt=["c", "d"]), ValueError, "make one picture: give one"),
        ("a", dict(generator=TorchGenerator()), TypeError, "given a torch.TorchGenerator. Give its seed."),
    ],
)
def test_a_bad_argument_is_named(prompt, options, error, named, pipe, monkeypatch):
    monkeypatch.setattr(CompiledGraph, "__call__", lambda *_: pytest.fail("work before the arguments were checked"))
    with pytest.raises(error, match=named):
        pipe(prompt, **{"num_inference_steps": 3, **options})


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(MODEL, tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_missing_component_is_named(folder):
    shutil.rmtree(folder / "learned_classifier_free_sampling_embeddings")
    with pytest.raises(FileNotFoundError, match="lacks the folder of learned_classifier_free"):
        VQDiffusionPipeline.from_pretrained(folder)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json does not exist"):
        VQDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("library", ["diffusers", "vq_diffusion"])
def test_the_index_of_old_and_new_diffusers_is_read(folder, library):
    index = json.loads((folder / "model_index.json").read_text())
    index["learned_classifier_free_sampling_embeddings"][0] = library
    index["tokenizer"][1] = "CLIPTokenizerFast" if library == "diffusers" else "CLIPTokenizer"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert VQDiffusionPipeline.from_pretrained(folder).scheduler.num_embed == 65


def test_the_index_of_another_pipeline_is_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    for wrong, named in (
        ({"_class_name": "StableDiffusionPipeline"}, "index of a StableDiffusionPipeline"),
        ({"transformer": ["diffusers", "UNet2DConditionModel"]}, "expected a Transformer2DModel"),
        ({"_default_settings": {"steps": 3}}, "they can be guidance_scale, truncation_rate, num_inference_steps"),
        ({"_default_settings": [2.0]}, "they can be guidance_scale, truncation_rate, num_inference_steps"),
        ({"_default_settings": {"truncation_rate": 2.0}}, "truncation_rate is 2.0"),
        ({"_default_settings": {"sampler": "fast"}}, "sampler is 'fast'"),
    ):
        (folder / "model_index.json").write_text(json.dumps({**index, **wrong}))
        with pytest.raises(ValueError, match=named):
            VQDiffusionPipeline.from_pretrained(folder)


def test_a_config_without_norm_type_loads(folder):
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    del config["norm_type"]
    path.write_text(json.dumps(config))
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.transformer.transformer_blocks[0].norm1).__name__ == "AdaLayerNorm"


def test_a_variant_that_no_component_has_falls_back_and_says_so(folder, caplog):
    plain = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    plain.rename(folder / "vqvae" / "diffusion_pytorch_model.fp16.safetensors")
    VQDiffusionPipeline.from_pretrained(folder, variant="fp16")
    assert "transformer has no variant 'fp16'" in caplog.text
    with pytest.raises(FileNotFoundError, match="vqvae holds no weights"):
        VQDiffusionPipeline.from_pretrained(folder)


def test_saving_over_a_file_is_refused(pipe, tmp_path):
    (tmp_path / "here").write_text("mine")
    with pytest.raises(FileExistsError, match="give a folder"):
        pipe.save_pretrained(tmp_path / "here")


def test_bfloat16_on_a_cpu_is_refused(folder):
    if ms.get_context("device_target") == "CPU":
        with pytest.raises(ValueError, match="bfloat16"):
            VQDiffusionPipeline.from_pretrained(folder, mindspore_dtype=ms.bfloat16)("a ring")


def test_a_component_that_does_not_fit_is_refused_when_it_is_set(pipe):
    kept = dict(pipe.components)
    with pytest.raises(ValueError, match=r"20 timesteps .*, the transformer embeds 10 .*register_modules"):
        pipe.scheduler = VQDiffusionScheduler(13, 20)
    with pytest.raises(ValueError, match="counts 9 classes"):
        pipe.register_modules(scheduler=VQDiffusionScheduler(9, 10))
    with pytest.raises(TypeError, match="scheduler is a builtins.str; give a VQDiffusionScheduler"):
        pipe.scheduler = "ddpm"
    with pytest.raises(TypeError, match="transformer is a builtins.int; give a Transformer2DModel"):
        pipe.transformer = 3
    with pytest.raises(TypeError, match="embeddings is a builtins.NoneType; give a LearnedClassifierFree"):
        pipe.learned_classifier_free_sampling_embeddings = None
    with pytest.raises(TypeError, match="tokenizer is a int without encode"):
        pipe.tokenizer = 3
    with pytest.raises(TypeError, match="has no component unet"):
        pipe.register_modules(unet=pipe.transformer)
    other = Transformer2DModel.from_config(pipe.transformer.config, cross_attention_dim=7)
    with pytest.raises(ValueError, match=r"embeddings of 24 \(hidden_size\), the transformer takes 7"):
        pipe.transformer = other
    assert pipe.components == kept
    pipe.scheduler = VQDiffusionScheduler(13, 8)
    assert len(pipe("a ring", num_inference_steps=8, generator=0).images) == 1
    pipe.scheduler = kept["scheduler"]


def test_a_picture_or_a_batch_becomes_pil(pipe, rng):
    images = rng.random((2, 5, 4, 3))
    (one,), (first, _) = pipe.numpy_to_pil(images[0]), pipe.numpy_to_pil(images)
    assert one.size == (4, 5) and np.array_equal(np.asarray(one), np.asarray(first))
    assert pipe.numpy_to_pil(images[..., :1])[0].mode == "L"


def test_a_call_without_a_generator_follows_mindspores_seed(pipe):
    def codes():
        return pipe("a ring", num_inference_steps=2, output_type="latent").images.asnumpy()

    ms.set_seed(7)
    first, second = codes(), codes()
    ms.set_seed(7)
    assert not np.array_equal(first, second) and np.array_equal(first, codes()) and np.array_equal(second, codes())


def test_what_is_pytorchs_alone_is_answered_with_what_to_do(pipe):
    for thing in (pipe, pipe.vqvae):
        with pytest.raises(TypeError, match=r"'cuda': types are .* a device is chosen with mindspore\.set_device"):
            thing.to("cuda")
    assert pipe.device == pipe.vqvae.device == ms.get_context("device_target")


def test_a_call_of_the_transformer_says_what_is_missing(pipe):
    x_t, text = Tensor(np.zeros((1, 36)), ms.int32), Tensor(np.ones((1, 12, 24), np.float32))
    for arguments, named in (
        ((x_t, text), "timestep is missing"),
        ((x_t, None, 3), "encoder_hidden_states is missing"),
        ((x_t, text[..., :5], 3), r"encoder_hidden_states has shape \(1, 12, 5\)"),
        ((Tensor(np.zeros((1, 37)), ms.int32), text, 3), r"hidden_states has shape \(1, 37\)"),
        ((x_t, text, Tensor([1, 2, 3])), "3 timesteps given for 1 images"),
    ):
        with pytest.raises(ValueError, match=named):
            pipe.transformer(*arguments)
    with pytest.raises(ValueError, match="cross_attention_kwargs has no effect"):
        pipe.transformer(x_t, text, 3, cross_attention_kwargs={"scale": 1.0})


def test_outputs_are_tuples_and_objects_and_plain_tuples_inside_a_graph(pipe, rng):
    x = Tensor(rng.normal(size=(1, 3, 12, 12)).astype(np.float32))
    for encoded in (pipe.vqvae.encode(x), pipe.vqvae.encode(x, return_dict=False)):
        assert encoded[0] is encoded.latents is encoded["latents"] and isinstance(encoded, tuple)
    with pytest.raises(KeyError, match="it has latents"):
        encoded["sample"]
    assert np.array_equal(ms.jit(Twice(pipe.vqvae), fullgraph=True)(x).shape, encoded.latents.shape)


class Twice(nn.Cell):
    """Latents, through ``encode`` and beside a call, in one graph."""

    def __init__(self, vqvae):
        super().__init__()
        self.vqvae = vqvae

    def construct(self, x):
        return self.vqvae.encode(x)[0] + self.vqvae(x)[1]
