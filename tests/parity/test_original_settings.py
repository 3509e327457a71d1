"""The settings of original checkpoints: each is read, has no effect and is named, or is refused by its name."""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
import yaml
from mindspore import Tensor

from mindone_vq import ClassToImagePipeline, ClassTransformer2DModel
from mindone_vq.conversion.convert import write_plan
from mindone_vq.conversion.networks import ConversionError
from mindone_vq.conversion.options import Options
from mindone_vq.conversion.original import read_settings
from mindone_vq.conversion.original_config import VQVAES, Settings
from tests.numerics import relative_error
from tests.parity.original_files import codec_config_text
from tests.parity.original_models import (
    CLASSES,
    MODELS,
    NULL_CLASS,
    TOLERANCE,
    Made,
    Recipe,
    changed,
    fitted,
    model,
    noisy_codes,
    refused,
)
from tests.parity.original_networks import Sizes

NULL_TEXT = "transformer.empty_text_embed"
LEARNED = "learned_classifier_free_sampling_embeddings"


def config_of(name, *changes):
    return yaml.safe_load(changed(name, ("!!python/tuple ", ""), *changes).config)


# Classes.


@pytest.mark.parametrize("rows, class_number", [(1001, 1001), (1003, 1003), (1000, 1000)])
def test_the_null_class_is_that_of_the_id_1000(rows, class_number, rng, tmp_path):
    """Its own row where the table has it, also where that row counts as a class or others follow; else the mean."""
    sizes = replace(CLASSES, classes=rows, layers=1)
    made = Made.of(replace(MODELS["imagenet"], sizes=sizes, class_number=class_number))
    plan = made.plan(tmp_path / "files").only("transformer")
    if rows != 1001:
        table = made.peer.blocks[0].ln2.emb.weight
        null = table[NULL_CLASS] if rows > NULL_CLASS else table.mean(0)
        written = fitted(plan, "transformer")["transformer_blocks.0.norm3.emb.weight"].read()
        np.testing.assert_allclose(written, torch.vstack([table, null]).numpy(), rtol=1e-6, atol=1e-7)
        return
    write_plan(plan, Options("", tmp_path / "converted"))
    denoiser = ClassTransformer2DModel.from_pretrained(tmp_path / "converted")
    assert denoiser.num_class_embeds == 1001
    x_t, t = noisy_codes(sizes, rng), torch.tensor([0, sizes.timesteps - 1])
    for theirs, ours in ((NULL_CLASS, 1000), (4, 4), (998, 998)):
        labels = Tensor([ours] * 2, ms.int32)
        output = denoiser(Tensor(x_t.numpy(), ms.int32), labels, Tensor(t.numpy(), ms.int32))[0]
        assert relative_error(output, made.peer(x_t, t, torch.tensor([theirs] * 2))) <= TOLERANCE


def test_a_null_text_in_a_model_of_classes_is_left_out(tmp_path):
    """One release of the original code gave it to every model."""
    made = model("imagenet")
    weights = {**made.original.model, NULL_TEXT: torch.randn(77, 512, dtype=torch.float64)}
    plan = made.plan(tmp_path / "files", made.original.changed(model=weights))
    assert "without text" in plan.ignored[NULL_TEXT]


# Values.

CLIP, TOKENS, DENOISER, CODEC = "condition_emb_config", "condition_codec_config", "transformer_config", "model"
# (model, object, setting, value that is not implemented)
VALUES = [
    ("imagenet", DENOISER, "class_type: adalayernorm", "adainsnorm"),
    ("imagenet", DENOISER, "timestep_type: adalayernorm", "adalayernorm_abs"),
    ("imagenet", DENOISER, "block_activate: GELU2", "GELU"),
    ("imagenet", CLIP, "identity: True", "False"),
    ("ffhq", DENOISER, "mlp_type: conv_mlp", "fc"),
    ("coco", DENOISER, "timestep_type: adalayernorm", "adainsnorm"),
    ("coco", DENOISER, "mlp_hidden_times: 4", "2"),
    ("coco", DENOISER, "attn_type: selfcross", "selfcondition"),
    ("coco", DENOISER, "block_activate: GELU2", "ReLU"),
    ("coco", CLIP, "normalize: True", "False"),
    ("coco", CLIP, "pick_last_embedding: False", "True"),
    ("coco", CLIP, "additional_last_embedding: False", "True"),
    ("coco", TOKENS, "add_start_and_end: True", "False"),
    ("coco", TOKENS, "clip_embedding: False", "True"),
    ("coco", TOKENS, "clip_embedding: False", "0"),
    ("coco", "content_emb_config", "pos_emb_type: embedding", "parameter"),
    ("coco", "diffusion_config", "alpha_init_type: 'alpha1'", "cos"),
]
# Settings whose default is not implemented.
ABSENT = [
    ("imagenet", CLIP, "identity: True", "False"),
    ("coco", CLIP, "pick_last_embedding: False", "True"),
    ("coco", TOKENS, "add_start_and_end: True", "False"),
    ("coco", "diffusion_config", "alpha_init_type: 'alpha1'", "cos"),
    ("coco", DENOISER, "block_activate: GELU2", "None"),
]
# (model, old text, new text, message)
REFUSED = [
    ("imagenet", "class_number: 1000", "class_number: many", "class_number: many; only a whole number above 0"),
    (
        "imagenet",
        "class_number: 1000",
        "classes: 1000",
        f"{DENOISER}.classes, which the original Condition.* known are",
    ),
    ("imagenet", "C_DALLE", "DALLE", "lacks 'condition_codec_config' in model"),
    ("ffhq", "UC_DALLE", "C_DALLE", f"C_DALLE with {DENOISER}: UnCondition.*; it needs Condition2ImageTransformer"),
    ("coco", "Text2ImageTransformer", "GPTLikeTransformer", "GPTLikeTransformer; known are Text2ImageTransformer"),
    ("coco", "embed_dim: 128", "embed_dim: 1024", f"{CLIP}.embed_dim: 1024; only the width of CLIP"),
    ("coco", "pad_value: 0", "pad_value: 7", f"{TOKENS}.pad_value: 7; only 0 or a negative"),
    ("coco", "pad_value: 0", "just_token: True", f"{TOKENS}.just_token: True; only False"),
    ("coco", "n_head: 3", "n_head: 0", f"{DENOISER}.n_head: 0; only a whole number"),
    ("coco", "n_head: 3", "n_head: true", f"{DENOISER}.n_head: True; only a whole number"),
    ("coco", "token_shape: [5, 5]", "token_shape: 5", "content_codec_config.token_shape: 5; only a list"),
    ("coco", "TamingGumbelVQVAE", "OpenAIDiscreteVAE", "OpenAIDiscreteVAE; known are PatchVQVAE, TamingVQVAE"),
    ("coco", "er.DiffusionTransformer", "er_amp.DiffusionTransformer", "amp.DiffusionTransformer; known are diffusion"),
    ("coco", "simple_tokenizer.SimpleTokenizer", "dalle.Tokenizer", "dalle.Tokenizer; known are SimpleTokenizer"),
    ("coco", "mask_weight: [1, 1]", "prior_rule: 2", "diffusion_config.prior_rule, which the original Diffusion"),
    ("coco", "mask_weight: [1, 1]", "guidance_scale: big", "guidance_scale: big; only a number"),
    ("coco", "mask_weight: [1, 1]", "truncation_rate: 1.5", "truncation_rate: 1.5; only in .0, 1"),
    ("coco", "mask_weight: [1, 1]", "learnable_cf: 1", "learnable_cf: 1; only true or false"),
]
for name, section, setting, value in VALUES:
    key, _, known = setting.replace("'", "").partition(": ")
    REFUSED.append((name, setting, f"{key}: {value}", f"{section}.{key}: {value}; only {known}"))
for name, section, setting, default in ABSENT:
    key = setting.partition(":")[0]
    unknown = f"{section}.{key}, whose default there is {default}; only"
    REFUSED.append(
        (name, setting, "trainable: False" if section != DENOISER else "checkpoint: False", f"has no {unknown}")
    )


@pytest.mark.parametrize("name, old, new, expected", REFUSED)
def test_what_is_not_implemented_is_refused_by_its_name(name, old, new, expected):
    with pytest.raises(ConversionError, match=f"--config (has|lacks)? ?.*{expected}"):
        read_settings(config_of(name, (old, new)))


CONTRADICTIONS = [
    ("n_layer: 2", "n_layer: 3", "n_layer: 3; the checkpoint has 2"),
    ("diffusion_step: 14", "diffusion_step: 100", "diffusion_step: 100; the checkpoint has 14"),
    ("n_embd: 24", "n_embd: 48", "n_embd: 48; the checkpoint has 24"),
    ("n_head: 3", "n_head: 5", "(?s)transformer: .*of another shape"),
    ("content_seq_len: 25", "content_seq_len: 16", "token_shape: .5, 5.; content_seq_len 16 is not its square"),
    ("content_seq_len: 25", "content_seq_len: 24", "token_shape: .5, 5.; content_seq_len 24 is not its square"),
    ("context_length: 77", "context_length: 256", "context_length: 256; the text encoder has 77"),
    ("end_idx: 264", "end_idx: 260", "end_idx: 260; the text encoder has 264"),
    ("condition_dim: 128", "condition_dim: 512", "condition_dim: 512; the checkpoint has 128"),
    ("num_embed: 20", "num_embed: 21", "content_emb_config.num_embed: 21; the checkpoint has 20"),
    ("embed_dim: 24", "embed_dim: 25", "content_emb_config.embed_dim: 25; the checkpoint has 24"),
    ("token_shape: [5, 5]", "token_shape: [25, 1]", r"token_shape: \[25, 1\]; content_seq_len 25 is not its square"),
    ("TamingGumbelVQVAE", "TamingVQVAE", "content_codec_config.class: TamingVQVAE; the checkpoint has a GumbelVQModel"),
]


@pytest.mark.parametrize("old, new, expected", CONTRADICTIONS)
def test_what_contradicts_the_weights_is_refused_by_its_name(old, new, expected, tmp_path):
    refused(tmp_path / "files", expected, original=changed("coco", (old, new)))


def test_what_makes_no_difference_is_accepted():
    for change in (("pad_value: 0", "pad_value: -100"), ("with_mask: True", "with_mask: False")):
        read_settings(config_of("coco", change))


def objects(config, name="model") -> dict:
    """The settings of every object in a config, by the name of the object."""
    params = config[name].get("params", {})
    inner = [objects(params, key) for key, value in params.items() if isinstance(value, dict) and "target" in value]
    return {name: params} | {key: value for found in inner for key, value in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_read_or_named(name):
    settings = read_settings(config_of(name))
    unused = {key.removeprefix("--config ") for key in settings.unused}
    assert {"solver", "model.content_info", "diffusion_config.mask_weight"} <= unused
    assert "transformer_config.content_spatial_size" in unused
    for section, params in objects(config_of(name)).items():
        for key in params:
            assert (f"{section}.{key}" in unused) != (key in settings.objects[section]), f"{section}.{key}"


@pytest.mark.parametrize("name", ["ithq", "imagenet", "ffhq", "coco"])
def test_an_unknown_setting_is_refused_in_every_object(name):
    config = config_of(name)
    sections = objects(config)
    assert len(sections) == {"ithq": 8, "coco": 8, "imagenet": 6, "ffhq": 5}[name]
    for section, params in sections.items():
        params["rotary"] = True
        with pytest.raises(ConversionError, match=rf"{section}\.rotary, which the original"):
            read_settings(config)
        del params["rotary"]
    config["evaluation"] = {}
    assert "ignores" in read_settings(config).unused["--config evaluation"]


def test_settings_that_a_vqvae_ignores_are_named():
    config = yaml.safe_load(codec_config_text(model("coco").original.codec))
    config["model"]["params"]["ddconfig"]["activate_output"] = False
    assert "ignores" in Settings.read(config, VQVAES, "--config").unused["--config ddconfig.activate_output"]


# Settings of generation.


def in_model(setting):
    return "content_info", f"{setting}\n    content_info"


def in_diffusion(setting):
    return "mask_weight", f"{setting}\n        mask_weight"


def test_guidance_and_truncation_become_the_defaults_of_the_pipeline(tmp_path):
    original = changed("imagenet", in_model("guidance_scale: 1.5"), in_diffusion("truncation_rate: 0.94"))
    plan = model("imagenet").plan(tmp_path / "files", original)
    write_plan(plan, Options("", tmp_path / "converted"))
    index = json.loads((tmp_path / "converted" / "model_index.json").read_text())
    assert index["_default_settings"] == {"guidance_scale": 1.5, "truncation_rate": 0.94}
    assert ClassToImagePipeline.from_pretrained(tmp_path / "converted").default_settings["guidance_scale"] == 1.5
    assert model("imagenet").plan(tmp_path / "files").default_settings == {}


def test_contradictory_settings_are_refused():
    for key, values in (("learnable_cf", ("true", "false")), ("guidance_scale", (2, 3))):
        first, second = (f"{key}: {value}" for value in values)
        settings = read_settings(config_of("ithq", in_model(first), in_diffusion(second)))
        with pytest.raises(ConversionError, match=f"model.{key}: .* and diffusion_config.{key}: .*contradict"):
            settings.of_generation(key)
        same = read_settings(config_of("ithq", in_model(first), in_diffusion(first)))
        assert same.of_generation(key) == yaml.safe_load(str(values[0]))


@pytest.mark.parametrize(
    "name, changes, learnable",
    [
        ("ithq", (), True),
        ("ithq", [in_model("learnable_cf: true")], True),
        ("ithq", [in_model("learnable_cf: false")], False),
        ("ithq", [in_diffusion("learnable_cf: false")], False),
        ("coco", (), False),
        ("coco", [in_diffusion("learnable_cf: false")], False),
    ],
)
def test_the_null_text_is_learned_where_config_and_checkpoint_agree(name, changes, learnable, tmp_path):
    plan = model(name).plan(tmp_path / "files", changed(name, *changes))
    (null,) = (component for component in plan.components if component.folder == LEARNED)
    assert null.config["learnable"] is learnable
    assert ("learnable_cf: False" in plan.ignored.get(NULL_TEXT, "")) == (name == "ithq" and not learnable)


def test_a_learned_null_text_that_is_missing_is_refused(tmp_path):
    original = changed("coco", in_diffusion("learnable_cf: true"))
    refused(tmp_path / "files", "learnable_cf: True, the checkpoint has no learned null text", original=original)


# Codes.


def test_a_map_of_all_codes_is_applied(tmp_path):
    made = Made.of(
        Recipe("nothing", Sizes(), dict(kind="taming", widths=(32,), attention=(True,), full=12, reduced=12))
    )
    order = made.original.codec.full_codes()
    assert not torch.equal(order, torch.arange(12))
    converted = fitted(made.plan(tmp_path / "files"))["quantize.embedding.weight"].read()
    assert np.array_equal(converted, made.original.codec.codebook()[order].numpy())
    with pytest.raises(ConversionError, match="has 12 codes, the denoiser predicts 12: pass the map .* --codes"):
        made.plan(tmp_path / "files", codes=None)
