"""The settings of original checkpoints: each is read, has no effect and is named, or is refused by its name."""

import functools
import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
import yaml
from mindspore import Tensor

from mindone_vq import ClassToImagePipeline, ClassTransformer2DModel
from mindone_vq.conversion.original_config import read_codec, read_model, read_yaml
from mindone_vq.conversion.original_settings import LENIENT
from mindone_vq.conversion.plan import ConversionError
from mindone_vq.conversion.sources import Options, read_source
from mindone_vq.conversion.write import Target, write_plan
from tests.numerics import relative_error
from tests.parity.original_checkpoints import (
    Codec,
    Sizes,
    codec_config_text,
    lightning_content,
    merges_file,
    save_from_gpu,
)
from tests.parity.test_original import CLASSES, MODELS, NULL_CLASS, TOLERANCE, Made, Recipe, fitted_codec, noisy_codes

NULL_TEXT = "transformer.empty_text_embed"
LEARNED = "learned_classifier_free_sampling_embeddings"


@functools.cache
def model(name) -> Made:
    with torch.no_grad():
        return Made.of(MODELS[name])


def changed(name, *changes):
    """The files of a model with another config."""
    original = model(name).original
    config = original.config
    for old, new in changes:
        assert old in config, old
        config = config.replace(old, new)
    return original.changed(config=config)


def settings_of(name, *changes):
    return read_model(yaml.safe_load(changed(name, ("!!python/tuple ", ""), *changes).config))


# Classes.


@pytest.mark.parametrize("rows, class_number", [(1001, 1001), (1003, 1003), (1000, 1000)])
def test_the_null_class_is_what_the_id_1000_means(rows, class_number, rng, tmp_path):
    """Its own row where the table has it, also where that row counts as a class or others follow; else the mean."""
    sizes = replace(CLASSES, classes=rows, layers=1)
    with torch.no_grad():
        made = Made.of(replace(MODELS["imagenet"], sizes=sizes, class_number=class_number))
        plan = made.plan(tmp_path / "files").only("transformer")
        plan.check()
        write_plan(plan, tmp_path / "converted", Target())
        denoiser = ClassTransformer2DModel.from_pretrained(tmp_path / "converted")
        assert denoiser.num_class_embeds == (1001 if rows == 1001 else rows + 1)
        x_t, t = noisy_codes(sizes, rng), torch.tensor([0, sizes.timesteps - 1])
        for theirs, ours in ((NULL_CLASS, denoiser.num_class_embeds - 1), (4, 4), (998, 998)):
            labels = Tensor([ours] * 2, ms.int32)
            output = denoiser(Tensor(x_t.numpy(), ms.int32), labels, Tensor(t.numpy(), ms.int32))[0]
            assert relative_error(output, made.peer(x_t, t, torch.tensor([theirs] * 2))) <= TOLERANCE


def test_a_null_text_in_a_model_of_classes_is_left_out(tmp_path):
    """One release of their code gave it to every model."""
    made = model("imagenet")
    weights = {**made.original.model, NULL_TEXT: torch.randn(77, 512, dtype=torch.float64)}
    plan = made.plan(tmp_path, made.original.changed(model=weights))
    assert "without text" in plan.ignored[NULL_TEXT]


# Values.

CLIP = "condition_emb_config"
TOKENS = "condition_codec_config"
DENOISER = "transformer_config"
REFUSED = [
    (
        "imagenet",
        ("class_type: 'adalayernorm'", "class_type: adainsnorm"),
        f"{DENOISER}.class_type: adainsnorm; only ada",
    ),
    (
        "imagenet",
        ("'adalayernorm'", "adalayernorm_abs"),
        f"{DENOISER}.timestep_type: adalayernorm_abs; only adalayernorm ",
    ),
    ("imagenet", ("identity: True", "identity: False"), f"{CLIP}.identity: False; only True"),
    ("imagenet", (", identity: True", ""), f"has no {CLIP}.identity, which their code then takes for False; only True"),
    ("imagenet", ("block_activate: GELU2", "block_activate: GELU"), f"{DENOISER}.block_activate: GELU; only GELU2"),
    ("imagenet", ("class_number: 1000", "class_number: many"), "class_number: many; only a whole number above 0"),
    (
        "imagenet",
        ("class_number: 1000", "classes: 1000"),
        f"{DENOISER}.classes, which their Condition2Image.* known are",
    ),
    ("imagenet", ("C_DALLE", "DALLE"), "lacks 'condition_codec_config' in model"),
    (
        "ffhq",
        ("UC_DALLE", "C_DALLE"),
        f"C_DALLE with {DENOISER}: UnCondition.*; it goes with Condition2ImageTransformer",
    ),
    ("ffhq", ("mlp_type: conv_mlp", "mlp_type: fc"), f"{DENOISER}.mlp_type: fc; only conv_mlp"),
    ("coco", ("normalize: True", "normalize: False"), f"{CLIP}.normalize: False; only True"),
    (
        "coco",
        ("pick_last_embedding: False", "pick_last_embedding: True"),
        f"{CLIP}.pick_last_embedding: True; only False",
    ),
    (
        "coco",
        ("            pick_last_embedding: False\n", ""),
        f"no {CLIP}.pick_last_embedding, .* takes for True; only F",
    ),
    (
        "coco",
        ("additional_last_embedding: False", "additional_last_embedding: True"),
        "additional_last_embedding: True",
    ),
    ("coco", ("embed_dim: 128", "embed_dim: 1024"), f"{CLIP}.embed_dim: 1024; only the width of CLIP"),
    ("coco", ("add_start_and_end: True", "add_start_and_end: False"), f"{TOKENS}.add_start_and_end: False; only True"),
    (
        "coco",
        ("        add_start_and_end: True\n", ""),
        f"no {TOKENS}.add_start_and_end, .* takes for False; only True",
    ),
    ("coco", ("pad_value: 0", "pad_value: 7"), f"{TOKENS}.pad_value: 7; only 0 or a negative"),
    ("coco", ("pad_value: 0", "just_token: True"), f"{TOKENS}.just_token: True; only False"),
    ("coco", ("clip_embedding: False", "clip_embedding: True"), f"{TOKENS}.clip_embedding: True; only False"),
    (
        "coco",
        ("pos_emb_type: embedding", "pos_emb_type: parameter"),
        "content_emb_config.pos_emb_type: parameter; only",
    ),
    (
        "coco",
        ("alpha_init_type: 'alpha1'", ""),
        "has no diffusion_config.alpha_init_type, .* takes for cos; only alpha1",
    ),
    (
        "coco",
        ("attn_type: 'selfcross'", "attn_type: selfcondition"),
        f"{DENOISER}.attn_type: selfcondition; only selfc",
    ),
    ("coco", ("            block_activate: GELU2\n", ""), f"has no {DENOISER}.block_activate"),
    ("coco", ("n_head: 3", "n_head: 0"), f"{DENOISER}.n_head: 0; only a whole number"),
    ("coco", ("n_head: 3", "n_head: true"), f"{DENOISER}.n_head: True; only a whole number"),
    ("coco", ("token_shape: [5, 5]", "token_shape: 5"), "content_codec_config.token_shape: 5; only a list"),
    ("coco", ("TamingGumbelVQVAE", "OpenAIDiscreteVAE"), "OpenAIDiscreteVAE; known are PatchVQVAE, TamingVQVAE"),
    (
        "coco",
        ("er.DiffusionTransformer", "er_amp.DiffusionTransformer"),
        "amp.DiffusionTransformer; known are diffusion_t",
    ),
    (
        "coco",
        ("tokenizer_config:", "tokenizer_config: {target: dalle.Tokenizer}\n        other:"),
        "Tokenizer; known are S",
    ),
    (
        "coco",
        ("mask_weight", "prior_rule: 2\n        mask_weight"),
        "diffusion_config.prior_rule, which their Diffusion",
    ),
    ("coco", ("mask_weight", "guidance_scale: big\n        mask_weight"), "guidance_scale: big; only a number"),
    (
        "coco",
        ("mask_weight", "truncation_rate: 1.5\n        mask_weight"),
        "truncation_rate: 1.5; only a number above 0 and",
    ),
    ("coco", ("mask_weight", "learnable_cf: 1\n        mask_weight"), "learnable_cf: 1; only true or false"),
]


@pytest.mark.parametrize(
    "name, change, said", REFUSED, ids=[f"{name}: {change[1].strip()}" for name, change, _ in REFUSED]
)
def test_what_is_not_computed_is_refused_by_its_name(name, change, said):
    settings_of(name)
    with pytest.raises(ConversionError, match=f"--config (has|lacks)? ?.*{said}"):
        settings_of(name, change)


NEEDS_WEIGHTS = [
    ("context_length: 77", "context_length: 256", "context_length: 256; the text encoder has 77"),
    ("end_idx: 264", "end_idx: 260", "end_idx: 260; the text encoder has 520"),
    ("condition_dim: 128", "condition_dim: 512", "condition_dim: 512; the checkpoint has 128"),
    ("num_embed: 20", "num_embed: 21", "content_emb_config.num_embed: 21; the checkpoint has 20"),
    ("embed_dim: 24", "embed_dim: 25", "content_emb_config.embed_dim: 25; the checkpoint has 24"),
    ("token_shape: [5, 5]", "token_shape: [25, 1]", r"token_shape: \[25, 1\]; content_seq_len 25 is 5 x 5"),
    ("TamingGumbelVQVAE", "TamingVQVAE", "content_codec_config.class: TamingVQVAE; the checkpoint has a GumbelVQModel"),
    (
        "quantize_number: 20",
        "quantize_number: 48",
        "quantize_number: 48; the codec has 48 codes, the denoiser predicts 20",
    ),
    ("quantize_number: 20", "quantize_number: 0", "no map of codes"),
]


@pytest.mark.parametrize("old, new, said", NEEDS_WEIGHTS)
def test_what_contradicts_the_weights_is_refused_by_its_name(old, new, said, tmp_path):
    with pytest.raises(ConversionError, match=said):
        model("coco").plan(tmp_path, changed("coco", (old, new)))


def test_a_text_encoder_of_another_width_is_refused(tmp_path):
    """As one whose embedding is joined to itself would be."""
    coco, ithq = model("coco"), model("ithq")
    own = {key: value for key, value in coco.original.model.items() if ".condition_emb." not in key}
    others = {key: value for key, value in ithq.original.model.items() if ".condition_emb." in key}
    with pytest.raises(ConversionError, match="text encoder has width 64, the denoiser takes 128"):
        coco.plan(tmp_path, coco.original.changed(model={**own, **others}))


@pytest.mark.parametrize("change", [("pad_value: 0", "pad_value: -100"), ("with_mask: True", "with_mask: False")])
def test_what_makes_no_difference_is_accepted(change):
    settings_of("coco", change)


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_read_or_named(name):
    settings = settings_of(name)
    unused = {key.removeprefix("--config ") for key in settings.unused}
    assert {"solver", "model.content_info", "diffusion_config.mask_weight"} <= unused
    assert "transformer_config.content_spatial_size" in unused
    for section, params in objects(yaml.safe_load(changed(name, ("!!python/tuple ", "")).config)).items():
        assert {f"{section}.{key}" for key in params} & unused | {
            f"{section}.{key}" for key in params if key in settings.objects[section]
        } == {f"{section}.{key}" for key in params}


def objects(config, name="model") -> dict:
    """The settings of every object in a config, by the name of the object."""
    params = config[name].get("params", {})
    inner = [objects(params, key) for key, value in params.items() if isinstance(value, dict) and "target" in value]
    return {name: params} | {key: value for found in inner for key, value in found.items()}


@pytest.mark.parametrize("name", ["ithq", "imagenet", "ffhq", "coco"])
def test_a_setting_that_nobody_knows_is_refused_wherever_it_stands(name):
    config = yaml.safe_load(changed(name, ("!!python/tuple ", "")).config)
    sections = objects(config)
    assert len(sections) == {"ithq": 8, "coco": 8, "imagenet": 6, "ffhq": 5}[name]
    for section, params in sections.items():
        params["rotary"] = True
        with pytest.raises(ConversionError, match=rf"{section}\.rotary, which their"):
            read_model(config)
        del params["rotary"]
    read_model(config)
    config["evaluation"] = {}
    assert "passes over" in read_model(config).unused["--config evaluation"]


# Settings of generation.


def test_guidance_and_truncation_become_the_defaults_of_the_pipeline(tmp_path):
    own = "guidance_scale: 1.5\n    truncation_rate: 0.94\n    content_info"
    plan = model("imagenet").plan(tmp_path / "files", changed("imagenet", ("content_info", own)))
    write_plan(plan, tmp_path / "converted", Target())
    index = json.loads((tmp_path / "converted" / "model_index.json").read_text())
    assert index["_default_settings"] == {"guidance_scale": 1.5, "truncation_rate": 0.94}
    assert ClassToImagePipeline.from_pretrained(tmp_path / "converted").default_settings["guidance_scale"] == 1.5


def test_without_them_the_published_defaults_stay(tmp_path):
    assert model("imagenet").plan(tmp_path).default_settings == {}


def in_both(first, second):
    return ("content_info", f"{first}\n    content_info"), ("mask_weight", f"{second}\n        mask_weight")


def test_contradictory_settings_are_refused():
    for key, values in (("learnable_cf", ("true", "false")), ("guidance_scale", (2, 3))):
        settings = settings_of("ithq", *in_both(*(f"{key}: {value}" for value in values)))
        with pytest.raises(ConversionError, match=f"model.{key}: .* and diffusion_config.{key}: .*contradict"):
            settings.one(key, ("model", "diffusion_config"))
        same = settings_of("ithq", *in_both(f"{key}: {values[0]}", f"{key}: {values[0]}"))
        assert same.one(key, ("model", "diffusion_config")) == yaml.safe_load(str(values[0]))


@pytest.mark.parametrize(
    "name, flag, learnable",
    [
        ("ithq", None, True),
        ("ithq", "learnable_cf: true", True),
        ("ithq", "learnable_cf: false", False),
        ("coco", None, False),
        ("coco", "learnable_cf: false", False),
    ],
)
@pytest.mark.parametrize("place", ["content_info", "mask_weight"])
def test_the_null_text_is_learned_where_config_and_checkpoint_say_so(name, flag, learnable, place, tmp_path):
    changes = [] if flag is None else [(place, f"{flag}\n{' ' * (4 if place == 'content_info' else 8)}{place}")]
    plan = model(name).plan(tmp_path, changed(name, *changes))
    (null,) = (component for component in plan.components if component.folder == LEARNED)
    assert null.config["learnable"] is learnable
    assert ("learnable_cf: False" in plan.ignored.get(NULL_TEXT, "")) == (name == "ithq" and not learnable)


def test_a_learned_null_text_that_is_not_there_is_said(tmp_path):
    flag = ("mask_weight", "learnable_cf: true\n        mask_weight")
    with pytest.raises(ConversionError, match="learnable_cf: True, the checkpoint has no learned null text"):
        model("coco").plan(tmp_path, changed("coco", flag))


# Codes.


def test_a_map_of_all_codes_is_applied(tmp_path):
    recipe = Recipe("nothing", Sizes(), dict(kind="taming", widths=(32,), attention=(True,), full=12, reduced=12))
    with torch.no_grad():
        made = Made.of(recipe)
    order = made.original.codec.full_codes()
    assert not torch.equal(order, torch.arange(12))
    converted = fitted_codec(made.plan(tmp_path))["quantize.embedding.weight"].read()
    assert np.array_equal(converted, made.original.codec.codebook()[order].numpy())
    with pytest.raises(ConversionError, match="has 12 codes, the denoiser predicts 12 of them: pass .* --codes"):
        made.plan(tmp_path, codes=None)


@pytest.mark.parametrize("name", ["ithq", "ffhq"])
def test_a_map_of_codes_that_the_config_does_not_have_is_refused(name, tmp_path):
    torch.save(torch.randperm(12), tmp_path / "codes.pt")
    with pytest.raises(ConversionError, match="--codes is given, but --config has no map of codes"):
        model(name).plan(tmp_path / "files", codes=tmp_path / "codes.pt")


def test_a_tokenizer_for_a_model_without_text_is_refused(tmp_path):
    (tmp_path / "merges.txt").write_text("title\na b\n")
    with pytest.raises(ConversionError, match="--tokenizer is for a model of text"):
        model("ffhq").plan(tmp_path / "files", tokenizer=str(tmp_path / "merges.txt"))


# Codecs.

CODEC_REFUSED = [
    (
        "ithq",
        "quantizer_dis_type: euclidean",
        "quantizer_dis_type: cosine",
        "model.quantizer_dis_type: cosine; only eucl",
    ),
    ("ithq", "quantizer_type: EMAVQ", "quantizer_type: PQEMAVQ", "model.quantizer_type: PQEMAVQ; only EMAVQ or VQ"),
    ("ithq", "trainable: true", "extra: 1", "model.extra, which their PatchVQGAN does not have"),
    ("ithq", "n_embed: 12", "n_embed: 13", "model.n_embed: 13; the checkpoint has 12"),
    ("ithq", "double_z: false", "resamp_with_conv: false", "encoder_config.resamp_with_conv: False; only True"),
    ("ithq", "double_z: false", "scale_by_2: [1, 0]", "encoder_config.scale_by_2: .*; only None"),
    ("coco", "double_z: false, ", "", "has no ddconfig.double_z, which their code then takes for True; only False"),
    ("coco", "double_z: false", "double_z: false, give_pre_end: true", "ddconfig.give_pre_end: True; only False"),
    ("coco", "monitor: val/rec_loss", "remap: used.npy", "model.remap: used.npy; only None"),
    ("coco", "z_channels: 6", "z_channels: 8", "ddconfig.z_channels: 8; the checkpoint has 6"),
    ("coco", "GumbelVQ", "VQModel", "has a VQModel, the checkpoint has a GumbelVQModel"),
    ("imagenet", "VQModel", "GumbelVQ", "has a GumbelVQ, the checkpoint has a VQModel"),
]


def codec_files(codec: Codec, config: str, folder):
    (folder / "codec.yaml").write_text(config)
    return save_from_gpu({"model": codec.tensors()}, folder / "codec.pth"), folder / "codec.yaml"


@pytest.mark.parametrize("name, old, new, said", CODEC_REFUSED)
def test_the_config_of_a_codec_is_checked(name, old, new, said, tmp_path):
    codec = model(name).original.codec
    config = codec_config_text(codec)
    assert old in config
    file, path = codec_files(codec, config, tmp_path)
    plan = read_source(file, Options(config=path))
    plan.check()
    assert any("dropout" in key for key in plan.ignored)
    path.write_text(config.replace(old, new))
    with pytest.raises(ConversionError, match=f"--config .*{said}"):
        read_source(file, Options(config=path))
    with pytest.raises(ConversionError, match=f"--codec-config .*{said}"):
        model(name).plan(tmp_path / "files", codec_config=path)


def test_settings_that_a_codec_passes_over_are_named(tmp_path):
    config = yaml.safe_load(codec_config_text(model("coco").original.codec))
    config["model"]["params"]["ddconfig"]["activate_output"] = False
    assert "passes over" in read_codec(config, "--config").unused["--config ddconfig.activate_output"]
    assert LENIENT == ("Encoder", "Decoder", "ddconfig")


def test_the_config_of_a_codec_in_two_stages_is_checked(tmp_path):
    codec = model("ffhq").original.codec
    inner = yaml.safe_load(codec_config_text(codec))["model"]
    outer = {"target": "cond_transformer.Net2NetTransformer", "params": {"first_stage_config": inner, "pkeep": 1.0}}
    file = save_from_gpu(lightning_content(codec), tmp_path / "codec.pth")
    for change, said in (({}, None), ({"embed_dim": 9}, "first_stage_config.embed_dim: 9; the checkpoint has 5")):
        inner["params"].update(change)
        (tmp_path / "codec.yaml").write_text(yaml.safe_dump({"model": outer}))
        options = Options(config=tmp_path / "codec.yaml", ignore_unknown=True)
        if said is None:
            assert "other stage" in read_source(file, options).ignored["--config model.pkeep"]
        else:
            with pytest.raises(ConversionError, match=said):
                read_source(file, options)


@pytest.mark.parametrize(
    "content, said",
    [
        ("model: {target: dalle.DALLE, params: {}}\n", "model: dalle.DALLE; known are PatchVQGAN"),
        ('{"act_fn": "relu"}\n', "is not the YAML file of a codec"),
    ],
)
def test_another_config_for_a_codec_is_refused(content, said, tmp_path):
    file, path = codec_files(model("ithq").original.codec, content, tmp_path)
    assert read_yaml(path)
    with pytest.raises(ConversionError, match=said):
        read_source(file, Options(config=path))


@pytest.mark.parametrize("option", ["codes", "codec", "codec_config", "tokenizer", "ema"])
def test_options_of_whole_models_are_refused_for_a_codec_alone(option, tmp_path):
    file, path = codec_files(model("ithq").original.codec, "model: {}\n", tmp_path)
    given = {"tokenizer": "me/clip", "ema": False}.get(option, path)
    with pytest.raises(ConversionError, match="is for a whole model .*; SOURCE is a codec alone"):
        read_source(file, Options(**{option: given}))


# Messages that need whole files.


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda data: data[:-20], "Compressed file ended"),
        (lambda data: data[:15] + bytes([data[15] ^ 255]) + data[16:], "CRC|invalid|Error"),
        (lambda data: b"words, " * 9, "Not a gzipped file"),
    ],
    ids=["cut", "bent", "other"],
)
def test_a_damaged_list_of_merges_is_said(change, said, tmp_path):
    good = merges_file(tmp_path / "good.txt.gz").read_bytes()
    (tmp_path / "bad.txt.gz").write_bytes(change(good))
    with pytest.raises(ConversionError, match=f"--tokenizer .*bad.txt.gz is not a whole list of merges: .*({said})"):
        model("ithq").plan(tmp_path / "files", tokenizer=str(tmp_path / "bad.txt.gz"))


@pytest.mark.parametrize(
    "name, key", [("ithq", "transformer.transformer.to_logits.1.bias"), ("ffhq", "to_logits.1.bias")]
)
def test_what_does_not_fit_is_blamed_on_the_file_that_was_given(name, key, tmp_path):
    """No config.json was."""
    original = model(name).original
    gone = {entry for entry in original.model if entry.endswith(key)}
    with pytest.raises(ConversionError, match="(?s)missing: out.bias.*Check that --config belongs") as error:
        model(name).plan(tmp_path, original.changed(drop=gone, ema=None))
    assert "config.json" not in str(error.value)


def test_half_a_codec_alone_is_not_blamed_on_a_config(tmp_path):
    weights = model("coco").original.codec.tensors()
    del weights["decoder.conv_out.bias"]
    file = save_from_gpu({"model": weights}, tmp_path / "codec.pth")
    with pytest.raises(ConversionError, match="(?s)missing: decoder.conv_out.bias.*Is the file whole"):
        read_source(file, Options()).check()
